"""What the scripts that train share."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptive_inference.exits import MultiExitModel
    from adaptive_inference.tasks.schema import Schema
    from adaptive_inference.training.cell import Rows
    from adaptive_inference.training.folds import Fold
    from adaptive_pipeline.grid import Cell
    from adaptive_pipeline.stage import Stage


def training_keys(cell: Cell) -> list[str]:
    """Return the params that a training depends on, dotted."""
    return [
        "training",
        f"tasks.{cell.task}.training",
        f"methods.{cell.method}.train",
        f"backbones.{cell.backbone}",
        "runtime",
    ]


def train_exits(stage: Stage) -> None:
    """Train a method's model by its objective and save it; a stage with the input ``full`` may start or learn from that."""
    model, _, _ = fit_exits(stage)
    model.save_pretrained(stage.out / "model")


def fit_exits(stage: Stage, fold: Fold | None = None) -> tuple[MultiExitModel, Schema, Rows]:
    """Train a method's model by its objective and fill the stage's record; ``fold`` leaves its rows out."""
    from adaptive_inference.errors import UserError
    from adaptive_inference.exits import MultiExitModel
    from adaptive_inference.exits.build import build_model, full_exits, start_from_full
    from adaptive_inference.exits.outputs import pick_device
    from adaptive_inference.objectives import load_objective
    from adaptive_inference.tasks.schema import load_schema
    from adaptive_inference.training.cell import Rows, parameter_counts, write_history, write_trajectory
    from adaptive_inference.training.fit import fit
    from adaptive_inference.training.gradient_conflict import ROWS, gradient_conflict
    from adaptive_pipeline.runs.environment import environment

    params, cell = stage.params, stage.cell
    backbone = params.backbone(cell.backbone)
    training, method = params.training_of(cell.task, cell.method)
    exits = full_exits(backbone) if cell.method == "full" else method.exits

    schema = load_schema(stage.inputs["data"])
    objective = load_objective(method.objective, method)
    model = build_model(
        backbone, schema, cell.seed, objective.needs_certainty, exits, inner_head=method.inner_head
    )
    if objective.starts_from_full or objective.needs_full == "fine_tuned":
        if "full" not in stage.inputs:
            raise UserError(
                f"objective {method.objective!r} needs the full model, which stage {stage.name} does not read; list "
                f"{cell.method!r} under trained_by.train_leebert"
            )
        full = MultiExitModel.from_pretrained(stage.inputs["full"])
        if objective.starts_from_full:
            start_from_full(model, full)
        else:
            objective.full = full
    elif objective.needs_full == "pretrained":
        objective.full = build_model(backbone, schema, cell.seed, exits=full_exits(backbone))
    rows = Rows.load(stage.inputs["data"], schema, model.tokenizer, fold)
    record = stage.begin(*training_keys(cell), **({"fold": asdict(fold)} if fold else {}))

    result = fit(
        model,
        objective,
        rows.train,
        rows.development,
        schema,
        training,
        method,
        params.runtime,
        cell.seed,
        stage.scratch,
        on_log=stage.tracker.log,
        identity=record.record_id,
    )

    write_history(stage.out, result.history)
    write_trajectory(stage.out, result.trajectory)
    record.metrics |= result.metrics | parameter_counts(model)
    record.details |= {"exits": list(model.exits), "steps": result.steps, "rows": rows.details}
    record.details |= {"builds_on_full": objective.starts_from_full or objective.needs_full == "fine_tuned"}
    if len(model.exits) > 1 and fold is None:  # a search asks for quality alone
        record.details["gradient_conflict"] = gradient_conflict(model, rows.train[:ROWS])
    stage.timings |= result.timings | {"environment": environment(pick_device(params.runtime.device).type)}
    return model, schema, rows
