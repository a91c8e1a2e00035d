"""The model card, a README.md that tells what the folder's model does and how well."""

from __future__ import annotations

from typing import Any

from adaptive_inference.exits.model import ExitModule, MultiExitModel
from adaptive_inference.serving.card_text import header, limits, table, task_line, usage
from adaptive_pipeline.runs.records import Record


def model_card(model: ExitModule, evaluation: Record | None = None) -> str:
    """Return the card's text; pure function of the model, its calibration and its evaluation record.

    Parameters
    ----------
    model
        With a schema.
    evaluation
        Record of `evaluate_batch1`, where the model was evaluated.
    """
    schema, calibration = model.schema, model.calibration or {}
    parts = [
        header(schema.task, _what(model)),
        task_line(schema.text, schema.labels, schema.metric),
        _exit_line(model),
        "## How to use",
        usage(type(model).__name__, schema.text, schema.labels),
    ]
    if calibration:
        parts += ["## Thresholds", _default_line(model), _points_table(calibration)]
    else:
        parts += [
            "## Thresholds",
            "Not calibrated: predictions run the whole model unless a rule and a threshold are given.",
        ]
    if evaluation is not None:
        parts += ["## Quality on the evaluation split", _quality_table(evaluation)]
    parts += ["## Limits", limits(schema.task, schema.max_length)]
    return "\n\n".join(parts) + "\n"


def _what(model: ExitModule) -> str:
    if not isinstance(model, MultiExitModel):
        return f"a cascade of {len(model.exits)} models"
    return "an early-exit model" if len(model.exits) > 1 else f"a model of {model.exits[0]} layers"


def _exit_line(model: ExitModule) -> str:
    layers = ", ".join(str(layer) for layer in model.exits)
    if isinstance(model, MultiExitModel):
        family = model.backbone.config.model_type
        return f"Exits after layers {layers} of {model.backbone.num_layers} ({family})."
    return f"Members of {layers} layers, tried in this order, each from the tokens on."


def _default_line(model: ExitModule) -> str:
    from adaptive_inference.serving.predictor import recommendation

    if len(model.exits) == 1:
        return "None: the model has one exit, and every text runs up to it."
    chosen = recommendation(model)
    if chosen.get("operating_point") is None:
        return "Default: the whole model; no threshold kept the quality that the goal asks for."
    return f"Default: rule `{chosen['rule']}` at threshold {_number(chosen['threshold'])} (`{chosen['operating_point']}`)."


def _points_table(calibration: dict[str, Any]) -> str:
    rows = [
        [
            f"`{point.get('method') or point['rule']}`",
            f"`{point['name']}`",
            _number(point["threshold"]),
            _number(point["quality"]),
            _number(point["layers_speedup"]),
        ]
        for point in calibration.get("operating_points", [])
        if point["qualifies"]
    ]
    if not rows:
        return "No operating point met its goal."
    return "Chosen and measured on the calibration split.\n\n" + table(
        ["rule", "operating point", "threshold", "quality", "layers speed-up"], rows
    )


def _quality_table(evaluation: Record) -> str:
    rows = [
        [
            f"`{row['rule']}`",
            f"`{row['operating_point']}`",
            _number(row["quality"]),
            _number(row["layers_speedup"]),
            _number(row["flops_speedup"]),
        ]
        for row in evaluation.details.get("rows", [])
        if row.get("attainable", True) and row.get("quality") is not None
    ]
    if not rows:
        return "Not measured."
    return table(["rule", "operating point", "quality", "layers speed-up", "FLOPs speed-up"], rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
