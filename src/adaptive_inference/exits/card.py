"""The model card, a README.md that tells what the folder's model does and how well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from adaptive_inference.exits.model import ExitModule, MultiExitModel
from adaptive_inference.records import Record


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
        f"---\n{yaml.safe_dump(_header(model), sort_keys=True, allow_unicode=True)}---",
        f"# {schema.task}: {_what(model)}",
        f"{_task_line(model)}\n\n{_exit_line(model)}",
        "## How to use",
        _usage(model),
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
    parts += [
        "## Limits",
        f"Fine-tuned on task `{schema.task}` alone, on inputs of up to {schema.max_length} tokens (longer ones are "
        "cut). Thresholds were chosen on held-out calibration rows of the same task: on other text both quality and "
        "speed-up may differ.",
    ]
    return "\n\n".join(parts) + "\n"


def _header(model: ExitModule) -> dict[str, Any]:
    kind = "text-classification" if model.schema.kind == "classification" else "text-regression"
    return {
        "library_name": "adaptive-inference",
        "pipeline_tag": "text-classification",
        "tags": sorted({"early-exit", "adaptive-inference", kind}),
    }


def _what(model: ExitModule) -> str:
    if not isinstance(model, MultiExitModel):
        return f"a cascade of {len(model.exits)} models"
    return "an early-exit model" if len(model.exits) > 1 else f"a model of {model.exits[0]} layers"


def _task_line(model: ExitModule) -> str:
    schema = model.schema
    reads = " and ".join(f"`{name}`" for name in schema.text)
    answer = (
        "a score" if schema.labels is None else "one of " + ", ".join(f"`{name}`" for name in schema.labels)
    )
    return f"Task: reads {reads}, answers {answer}; scored by {schema.metric.replace('_', ' and ')}."


def _exit_line(model: ExitModule) -> str:
    layers = ", ".join(str(layer) for layer in model.exits)
    if isinstance(model, MultiExitModel):
        family = model.backbone.config.model_type
        return f"Exits after layers {layers} of {model.backbone.num_layers} ({family})."
    return f"Members of {layers} layers, tried in this order, each from the tokens on."


def _usage(model: ExitModule) -> str:
    pair = len(model.schema.text) > 1
    texts = '[("a text", "another")]' if pair else '["a text", "another"]'
    name = type(model).__name__
    line = (
        f'echo \'{{"{model.schema.text[0]}": "a text", "{model.schema.text[1]}": "another"}}\''
        if pair
        else "echo 'a text'"
    )
    return (
        f'```python\nfrom adaptive_inference import {name}\n\nmodel = {name}.from_pretrained(".")\n'
        f"answer = model.predict({texts})\nprint(answer.labels, answer.probabilities, answer.exit_layers)\n```\n\n"
        f"```sh\n{line} | adaptive-inference predict .\n```"
    )


def _default_line(model: ExitModule) -> str:
    from adaptive_inference.exits.predict import recommendation

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
    return "Chosen and measured on the calibration split.\n\n" + _table(
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
    return _table(["rule", "operating point", "quality", "layers speed-up", "FLOPs speed-up"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
