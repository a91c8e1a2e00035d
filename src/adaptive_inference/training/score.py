"""How good every exit of a model is on labelled rows."""

from __future__ import annotations

import numpy as np

from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.exits.outputs import collect_outputs
from adaptive_inference.objectives.base import Scored
from adaptive_inference.tasks.encode import Feature
from adaptive_inference.tasks.quality import predict, quality
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.training.arithmetic import fast_cpu
from adaptive_inference.training.recipe import Recipe

#: Rows per forward.
BATCH = 64


def scored(model: MultiExitModel, features: list[Feature], schema: Schema) -> Scored:
    """Score every exit, forced on all rows, by the task's metric.

    Raises
    ------
    FloatingPointError
        An output is not finite.
    """
    outputs = collect_outputs(model, features, BATCH)
    if not np.isfinite(outputs.logits).all():
        raise FloatingPointError("the model's outputs are not finite")
    predictions_EN = predict(outputs.logits, schema.kind).T
    qualities = [float(quality(schema.metric, row, outputs.labels, schema.outputs)) for row in predictions_EN]
    return Scored(outputs, qualities)


def exit_qualities(model: MultiExitModel, features: list[Feature], schema: Schema) -> list[float]:
    """Return the qualities of `scored` alone."""
    return scored(model, features, schema).qualities


def held_out_metrics(model: MultiExitModel, features: list[Feature], recipe: Recipe) -> dict[str, float]:
    """Return ``held_outK_quality`` of each exit, and their mean as ``held_out_quality``."""
    with fast_cpu(recipe.runtime.threads):
        qualities = exit_qualities(model, features, recipe.schema)
    named = {f"held_out{layer}_quality": value for layer, value in zip(model.exits, qualities, strict=True)}
    return named | {"held_out_quality": sum(qualities) / len(qualities)}
