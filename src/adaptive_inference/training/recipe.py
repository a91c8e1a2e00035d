"""How a model is trained: all settings in one value. Loads no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from adaptive_inference.files import digest_json
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.settings.training import MethodTraining, Training
from adaptive_inference.tasks.schema import Schema


@dataclass(frozen=True)
class Recipe:
    """Everything that a training is given but the model, the rows and the full model.

    Attributes
    ----------
    schema
        Kind of the task and its metric.
    training
        Optimisation, the method's and the task's own keys in place.
    method
        What is minimised, and how far gradients reach.
    runtime
        Where it computes; threads and precision change the result.
    seed
        Of the data order and of dropout.
    """

    schema: Schema
    training: Training
    method: MethodTraining
    runtime: Runtime
    seed: int

    def digest(self, *given: Any) -> str:
        """Return the digest of the recipe and of whatever else, as plain JSON, makes a training this one."""
        sections = (self.training, self.method, self.runtime)
        return digest_json([*(item.model_dump() for item in sections), asdict(self.schema), self.seed, given])

    def trains_as(self, other: Recipe) -> bool:
        """Return whether a model of one exit comes out the same: equal optimisation and objective."""
        return self.training == other.training and self.method.objective == other.method.objective
