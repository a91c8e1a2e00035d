"""What the scripts that train share."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adaptive_inference.attribution.store import Origin
    from adaptive_inference.exits import MultiExitModel
    from adaptive_inference.training.folds import Fold
    from adaptive_inference.training.recipe import Recipe
    from adaptive_inference.training.rows import Rows
    from adaptive_pipeline.grid import Cell
    from adaptive_pipeline.stage import Stage

#: Where the weights of the best epochs lie, in the model's folder.
EPOCHS = "epochs"


def training_keys(cell: Cell) -> list[str]:
    """Return the params that a training depends on, dotted."""
    return [
        "training",
        f"tasks.{cell.task}.training",
        f"methods.{cell.method}.train",
        f"backbones.{cell.backbone}",
        "runtime",
    ]


def recipe_of(stage: Stage, method: str) -> Recipe:
    """Return how a method is trained on the stage's task."""
    from adaptive_inference.tasks.schema import load_schema
    from adaptive_inference.training.recipe import Recipe

    training, own = stage.params.training_of(stage.cell.task, method)
    schema = load_schema(stage.inputs["data"])
    return Recipe(schema, training, own, stage.params.runtime, stage.cell.seed)


def take_timings(stage: Stage, timings: dict[str, Any]) -> None:
    """Keep the figures of a training that depend on the clock, with the machine that they were taken on."""
    from adaptive_inference.exits.outputs import pick_device
    from adaptive_pipeline.runs.environment import environment

    device = pick_device(stage.params.runtime.device)
    stage.timings |= timings | {"environment": environment(device.type)}


def train_exits(stage: Stage) -> None:
    """Train a method's model by its objective and save it; a stage with the input ``full`` may start or learn from that."""
    from adaptive_inference.training.checkpoints import epoch_file
    from adaptive_inference.training.gradient_conflict import ROWS, gradient_conflict
    from adaptive_pipeline.runs.records import Conflict

    model, rows, _ = fit_exits(stage)
    if len(model.exits) > 1:
        conflict = gradient_conflict(model, rows.train[:ROWS])
        stage.record.gradient_conflict = [Conflict(**row) for row in conflict]
    model.save_pretrained(stage.out / "model")
    for file in sorted(stage.scratch.glob(epoch_file("*"))):  # `keep_epochs` above 1
        (stage.out / "model" / EPOCHS).mkdir(exist_ok=True)
        shutil.copyfile(file, stage.out / "model" / EPOCHS / file.name)


def best_epochs(full: Path) -> list[Path]:
    """Return the weights of the best epochs that lie in the full model's folder; none where one epoch alone was kept."""
    return sorted((full / EPOCHS).glob("*.safetensors"))


def fit_exits(stage: Stage, fold: Fold | None = None) -> tuple[MultiExitModel, Rows, Recipe]:
    """Train a method's model by its objective and fill the stage's record; ``fold`` leaves its rows out."""
    from adaptive_inference.exits.build import full_exits
    from adaptive_inference.objectives import load_objective
    from adaptive_inference.training.fit import fit
    from adaptive_inference.training.needs import model_and_objective
    from adaptive_inference.training.rows import Rows
    from adaptive_pipeline.runs.records import LossWeights

    cell, recipe = stage.cell, recipe_of(stage, stage.cell.method)
    backbone = stage.params.backbone(cell.backbone)
    exits = full_exits(backbone) if cell.method == "full" else recipe.method.exits
    body = stage.inputs.get("pruned")  # the full model of a training that builds on another method's
    full, wants = body or stage.inputs.get("full"), load_objective(recipe.method.objective, recipe.method)
    if full is None and wants.needs_full == "fine_tuned":
        raise UserError(
            f"objective {recipe.method.objective!r} needs the full model, which this stage does not read; list the method "
            "under trained_by.train_leebert"
        )
    model, objective = model_and_objective(recipe, backbone, exits, full)
    rows = Rows.load(stage.inputs["data"], recipe.schema, model.tokenizer, fold)
    if "saliencies" in stage.inputs:
        rows = _with_saliencies(rows, stage, model)
    keys = (*training_keys(cell), *(["pruned_body"] if body else []))
    record = stage.begin(*keys, **({"fold": asdict(fold)} if fold else {}))

    result = fit(model, objective, rows, recipe, stage.scratch, stage.tracker.log, record.record_id)

    result.write(stage.out)
    record.metrics |= result.metrics | objective.verdict(result.best_merit)
    record.metrics["parameters"] = model.parameter_count
    record.exits, record.steps = list(model.exits), result.steps
    record.rows = rows.lengths(recipe.schema.max_length)
    record.builds_on_full = objective.needs_full == "fine_tuned"
    record.built_on = stage.params.pruned_body if body else ""
    if result.loss_weights:
        record.loss_weights = LossWeights(**result.loss_weights)
    take_timings(stage, result.timings)
    return model, rows, recipe


def scored_with(stage: Stage, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Origin:
    """Return what scores of tokens are made of by a stage that reads the splits and the full model, or what one asks for."""
    from adaptive_inference.attribution.store import Origin, tokenizer_digest
    from adaptive_pipeline.runs.digests import digest_path

    made_from = {name: digest_path(stage.inputs[name]) for name in ("data", "full")}
    return Origin(tokenizer_digest(tokenizer), max_length, made_from)


def _with_saliencies(rows: Rows, stage: Stage, model: MultiExitModel) -> Rows:
    """Attach the saliencies that the stage reads to the training rows that they are of."""
    from adaptive_inference.attribution.store import Scores
    from adaptive_inference.tasks.schema import load_schema

    asked = scored_with(stage, model.tokenizer, load_schema(stage.inputs["data"]).max_length)
    return rows.with_saliencies(Scores.load(stage.inputs["saliencies"]), asked)
