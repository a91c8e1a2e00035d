"""The figures of a run that DVC shows and compares (``dvc metrics diff``): the first table of ``main.md`` as flat keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from adaptive_pipeline.reporting.choice import Choice
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.goal_rows import full_row, goal_rows

#: What is told of a method at the goal and of the recommended model, beside the quality.
SPEEDS = ("layers_speedup", "flops_speedup", "wallclock_speedup", "milliseconds")
DIGITS = 6  #: significant, as in the CSV tables


def metrics_json(results: Results, choices: Sequence[Choice]) -> dict[str, float | str]:
    """Return ``metrics.json``: ``TASK.BACKBONE.METHOD.FIGURE`` -> figure; what was not measured has no key.

    ``METHOD`` is a key of the main table (at the goal, see `goal_rows`), or ``recommended``: the very model that is
    recommended, whose ``method`` and ``rule`` are words. Loss is in points. ``wallclock_speedup`` and ``milliseconds`` are
    of the clock and differ from run to run; all others do not.
    """
    found = {}
    for one, choice in zip(results.each, choices, strict=True):
        for name, value in [*_methods(one), *_recommended(choice)]:
            if isinstance(value, str):
                found[".".join([*one.pair, name])] = value
            elif pd.notna(value):
                found[".".join([*one.pair, name])] = float(f"{round(value, 12):.{DIGITS}g}")
    return found


def _methods(results: Results) -> Iterator[tuple[str, Any]]:
    full = full_row(results)
    if full is not None:
        yield "full.quality", full.quality_mean
        yield "full.milliseconds", full.milliseconds
    for item in goal_rows(results):
        row = item.row
        yield f"{row.method}.quality", row.quality_mean
        yield f"{row.method}.loss_points", -100 * row.quality_difference
        yield from ((f"{row.method}.{name}", getattr(row, name)) for name in SPEEDS)


def _recommended(choice: Choice) -> Iterator[tuple[str, Any]]:
    if choice.measured is None:
        return
    if choice.marked is None:
        yield "recommended.method", "full"
        yield "recommended.quality", choice.measured.quality
        return
    for name in ("method", "rule", "quality", *SPEEDS):
        yield f"recommended.{name}", getattr(choice.marked, name)
