"""The first table that a reader sees: one row per method at the goal, and which of them is recommended."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from adaptive_inference.calibration.operating_point import COST_WORDS
from adaptive_pipeline.reporting.choice import Choice, Marked
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.goal_rows import GoalRow, family_name, full_row, goal_rows, without_row
from adaptive_pipeline.reporting.names import method_name, rule_name
from adaptive_pipeline.reporting.text.markdown import bold, interval_text, number, points_text, table

#: Heading -> the columns that it needs: a heading of which all are empty is not shown.
HEADERS = {
    "Method": (),
    "Leaves by": (),
    "Quality": (),
    "Loss in points (95 % interval of the loss)": (),
    "Layers ×": ("layers_speedup",),
    "FLOPs ×": ("flops_speedup",),
    "Wall-clock × (95 % interval of it)": ("wallclock_speedup",),
    "ms / full model's": ("milliseconds",),
}


def goal_lines(results: Results, choice: Choice) -> list[str]:
    """Return the lines of one task and backbone: what is asked, the table, who has no row in it, what is recommended."""
    rows, full = goal_rows(results), full_row(results)
    marked, loss = choice.marked, results.params.goal.max_loss
    seeds = results.points.seed.nunique()
    cells = [] if full is None else [bold(_full_cells(full), choice.known and marked is None)]
    cells += [bold(_cells(item), marked is not None and item.row.method == marked.method) for item in rows]
    lines = [
        f"At most {loss:g} {'point' if loss == 1 else 'points'} lost against the full model: each method by the rule and "
        f"threshold that save most {COST_WORDS[results.cost]} within the goal on the calibration split. All figures are of "
        f"the evaluation split, {'one seed' if seeds == 1 else f'means over {seeds} seeds'}.",
        "",
        *_filled(results, [row.row for row in rows], cells),
        "",
    ]
    if any(item.row.seeds != item.row.evaluated for item in rows):
        lines += ["(1 of 2): a threshold met the goal on so many of the seeds; the figures are of these.", ""]
    absent = [family_name(family) for family in without_row(results, rows)]
    if absent:
        cheaper = (
            f"Nothing that saves {COST_WORDS[results.cost]} stays within the goal on the calibration split"
        )
        lines += [f"{cheaper}: {', '.join(absent)}.", ""]
    return lines + _recommended(results, choice)


def _filled(results: Results, rows: Sequence[Any], cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the table without the columns in which no method has anything."""
    known = pd.DataFrame(rows)
    kept = [
        place
        for place, needs in enumerate(HEADERS.values())
        if all(name in known and known[name].notna().any() for name in needs)
    ]
    headers = [list(HEADERS)[place] for place in kept]
    return table(
        "ll" + "r" * (len(headers) - 2), headers, [[line[place] for place in kept] for line in cells]
    )


def _full_cells(full: Any) -> list[str]:
    return [
        method_name("full"),
        "all layers",
        number(full.quality_mean, ".4f"),
        "",
        "1",
        "1",
        "1",
        number(full.milliseconds, ".1f"),
    ]


def _cells(item: GoalRow) -> list[str]:
    row, against = item.row, item.against_full
    seeds = "" if row.seeds == row.evaluated else f" ({row.seeds} of {row.evaluated})"
    loss = points_text(row.quality_difference)
    if against is not None:
        loss += f" ({points_text(against.high)} to {points_text(against.low)})"
    clock = number(row.wallclock_speedup, ".2f") + interval_text(row.wallclock_low, row.wallclock_high)
    both = (number(value, ".1f") for value in (row.milliseconds, row.full_milliseconds))
    return [
        method_name(row.method) + seeds,
        ", ".join(map(rule_name, item.rules)),
        number(row.quality_mean, ".4f"),
        loss,
        number(row.layers_speedup, ".2f"),
        number(row.flops_speedup, ".2f"),
        clock,
        " / ".join(text for text in both if text),
    ]


def _recommended(results: Results, choice: Choice) -> list[str]:
    if not choice.known:
        return []
    told = "the full model" if choice.marked is None else _marked_words(results, choice.marked)
    return [f"**Recommended** (bold, see recommendation.md): {told}.", ""]


def _marked_words(results: Results, marked: Marked) -> str:
    """Say what the very model that is recommended does; it is of one seed, the rows are means."""
    threshold = "" if marked.threshold is None else f" at threshold {marked.threshold:.6g}"
    leaves = "" if marked.rule == "fixed" else f", leaving by {rule_name(marked.rule)}{threshold}"
    figures = [
        f"{results.metric} {marked.quality:.4f}",
        f"{marked.layers_speedup:.2f}× fewer layers",
        *([] if marked.flops_speedup is None else [f"{marked.flops_speedup:.2f}× fewer FLOPs"]),
        *(
            []
            if marked.wallclock_speedup is None
            else [f"{marked.wallclock_speedup:.2f}× faster by the clock"]
        ),
        *([] if marked.milliseconds is None else [f"{marked.milliseconds:.1f} ms a text"]),
    ]
    return f"{method_name(marked.method)} of seed {marked.seed}{leaves}: {', '.join(figures)}"
