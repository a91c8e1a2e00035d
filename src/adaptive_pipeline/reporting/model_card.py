"""The card of the recommended model: what it does, how well, how fast, and where that was measured."""

from __future__ import annotations

from collections.abc import Sequence

from adaptive_inference.serving.card_text import header, limits, table, task_line, usage
from adaptive_pipeline.reporting.aggregate import Row
from adaptive_pipeline.reporting.collect import Point, Results
from adaptive_pipeline.reporting.names import method_name, point_name, rule_name, static_layers
from adaptive_pipeline.reporting.recommendation import Choice, evaluation_sentence, leak_warning


def model_card(results: Results, rows: Sequence[Row], choice: Choice) -> str:
    """Return the card's text, a pure function of the records.

    Parameters
    ----------
    results, rows
        Records and the main table made of them.
    choice
        With a row and a point: what the model folder holds.
    """
    row, point = choice.row, choice.point
    if row is None or point is None:
        raise ValueError(f"{choice.task}, {choice.backbone}: no model is recommended")
    task = results.params.task(choice.task)
    labels = None if task.kind == "regression" else _labels(results, point) or task.labels or ()
    parts = [
        header(choice.task, method_name(row.method)),
        task_line(task.text, labels, row.metric),
        _exits(results, row, choice),
        "## How to use",
        usage(
            "MultiModel"
            if row.method in results.params.trained_by.get("train_multi_model", ())
            else "MultiExitModel",
            task.text,
            labels,
        ),
        "## Thresholds",
        _default(row, point, choice),
        *_points(rows, row, point),
        "## Quality and speed",
        *leak_warning(results.params),
        f"On the evaluation split: {evaluation_sentence(row)}. This folder holds the model of "
        f"seed {point.cell.seed}"
        + ("." if point.quality is None else f", which alone has {point.quality:.4f}."),
        *([choice.chance.sentence] if choice.chance else []),
        *_machine(row),
        "## Limits",
        limits(choice.task, task.max_length),
    ]
    return "\n\n".join(parts) + "\n"


def _labels(results: Results, point: Point) -> list[str] | None:
    """Return the class names that the data stage recorded for the point's seed."""
    for record in results.data:
        cell = record.cell
        if (cell.task, cell.backbone, cell.seed) == (point.cell.task, point.cell.backbone, point.cell.seed):
            return (record.details.get("schema") or {}).get("labels")
    return None


def _exits(results: Results, row: Row, choice: Choice) -> str:
    weights = results.params.backbone(choice.backbone).weights
    layers = static_layers(row.method)
    if layers is not None:
        return f"The first {layers} layers of backbone `{choice.backbone}` ({weights}), with one classifier."
    if row.method == "full":
        return f"All layers of backbone `{choice.backbone}` ({weights}), with one classifier."
    given = results.params.method(row.method).train.exits or results.params.backbone(choice.backbone).exits
    exits = ", ".join(str(layer) for layer in given)
    return f"Backbone `{choice.backbone}` ({weights}), exits after layers {exits}."


def _default(row: Row, point: Point, choice: Choice) -> str:
    if not choice.faster:
        return f"None: {choice.why}, so every text runs through all layers."
    if static_layers(row.method) is not None or row.operating_point == "whole":
        return f"None: every text runs through all layers of this model. Chosen as {choice.why}."
    return (
        f"Default: rule `{row.rule}` ({rule_name(row.rule)}) at threshold {point.threshold:.6g} (`{row.operating_point}`: "
        f"{point_name(row.operating_point)}); {choice.why}."
    )


def _points(rows: Sequence[Row], chosen: Row, point: Point) -> list[str]:
    """Return the table of the model's other operating points, for its seed."""
    lines = []
    for row in rows:
        same = (row.task, row.backbone, row.method) == (chosen.task, chosen.backbone, chosen.method)
        own = next((p for p in row.points if p.cell == point.cell), None)
        if (
            same
            and own is not None
            and own.threshold is not None
            and own.quality is not None
            and row.attainable
        ):
            cells = [
                f"`{row.rule}`",
                f"`{row.operating_point}`",
                f"{own.threshold:.6g}",
                f"{own.quality:.4f}",
            ]
            lines.append([*cells, f"{own.layers_speedup:.2f}"])
    if len(lines) < 2:
        return []
    columns = ["rule", "operating point", "threshold", "quality, evaluation split", "layers speed-up"]
    return [f"Others of this model (`--rule`, `--threshold`), seed {point.cell.seed}:", table(columns, lines)]


def _machine(row: Row) -> list[str]:
    return [f"Wall-clock measured on: {row.machine}."] if row.machine else []
