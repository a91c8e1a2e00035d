"""What every section of settings has in common; loads no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[
    int, Field(ge=0, lt=2**32)
]  # the Trainer seeds numpy's global generator, which takes no other
MOST_EPOCHS = 1000  # papers ask for 20 at most; a typing error costs days
Epochs = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]


class Section(BaseModel):
    """A section of the params: unknown keys and infinite numbers are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
