"""What a training starts with: a model with exits, and its objective with all that it declares to need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_inference.exits.build import build_model, full_exits
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.objectives import load_objective
from adaptive_inference.objectives.base import Objective
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.training.recipe import Recipe


def model_and_objective(
    recipe: Recipe, backbone: Backbone, exits: Sequence[int] | None = None, full: Path | None = None
) -> tuple[MultiExitModel, Objective]:
    """Build the model that a recipe trains, and the objective; the only place that gives either a full model.

    Parameters
    ----------
    recipe
        Its method names the objective.
    backbone
        A section of ``backbones`` in the params.
    exits
        Exit layers in place of the backbone's.
    full
        Folder of the full fine-tuned model, for objectives that start from it or learn from it.

    Raises
    ------
    UserError
        There is no such objective, it needs the full model and there is none, or the exits do not fit.
    """
    method, schema, seed = recipe.method, recipe.schema, recipe.seed

    def whole(kind: str) -> MultiExitModel:
        if kind == "pretrained":
            return build_model(backbone, schema, seed, exits=full_exits(backbone))
        if full is None:
            raise UserError(
                f"objective {method.objective!r} needs the full fine-tuned model, and its training is given none; give "
                "the folder of one"
            )
        return MultiExitModel.from_pretrained(full)

    objective = load_objective(method.objective, method, whole)
    given = objective.surgery.full
    model = build_model(
        backbone,
        schema,
        seed,
        objective.needs_certainty,
        full_exits(backbone) if objective.one_exit else exits,
        inner_head=method.inner_head,
        reduces=objective.needs_reduction or (given is not None and given.reduction is not None),
    )
    return model, objective
