"""What a trained decoder's folder says that it was trained for; see `model_dir`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from adaptive_inference.errors import UserError
from adaptive_inference.files import check_form, read_object

FORMAT = 1  #: of ``trained_for.json``
TRAINED_FOR_FILE = "trained_for.json"
#: What to do about a file of the folder that cannot be used.
FIX = "train the model again, or copy its folder again"


@dataclass(frozen=True)
class TrainedFor:
    """What a decoder was trained for.

    Attributes
    ----------
    family
        Its ``model_type`` in transformers.
    blocks
        L, of the decoder.
    loss
        Name of the loss; see `losses`.
    exit_layer
        Blocks of the shallow model, for shallow-deep losses.
    texts
        How texts became tokens, as plain JSON (task, templates, lengths).
    format
        Version of this form.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    family: str
    blocks: int
    loss: str
    exit_layer: int | None = None
    texts: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT


def read_trained_for(folder: Path) -> TrainedFor:
    """Return what a folder's decoder was trained for; loads no weights.

    Raises
    ------
    UserError
        The folder holds no decoder of this project, or one of a later version.
    """
    file = folder / TRAINED_FOR_FILE
    body = read_object(file, "give the folder of a trained decoder, or train one")
    if body.get("format") != FORMAT:
        raise UserError(
            f"{file} has format {body.get('format')!r}, and this version reads {FORMAT}; update it"
        )
    check_form(TrainedFor, body, file, FIX)
    return TrainedFor(**body)
