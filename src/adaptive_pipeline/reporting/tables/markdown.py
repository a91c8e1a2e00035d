"""The other tables for readers: comparisons, whole curves, what training costs."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

from adaptive_inference.calibration.operating_point import COST_WORDS, Cost
from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.reporting.frame import PAIR
from adaptive_pipeline.reporting.names import method_name, rule_name
from adaptive_pipeline.reporting.statistics.areas import COSTS, EXITS, STATIC
from adaptive_pipeline.reporting.statistics.comparisons import LEVEL, RESAMPLES, TESTABLE_SEEDS
from adaptive_pipeline.reporting.statistics.curve_area import SHARES
from adaptive_pipeline.reporting.text.markdown import notes_list, number, spread_text, table

COMPARISON_HEADERS = ("Method", "Seeds", "Difference", "± std", "95 % interval of the difference", "Test")
AREA_HEADERS = (
    "Method",
    "Rule",
    "Seeds",
    "Area, layers",
    "Area, FLOPs",
    "ELUE",
    "± std",
    "Points",
    "Outside",
)
COST_HEADERS = ("Method", "Seeds", "Added parameters", "Steps", "Seconds", "× full")
BASELINES = {
    STATIC: "the first-K-layers models of each seed",
    EXITS: "the exits of early exit of each seed, every row forced to leave there",
}
NO_BASELINE = "none: the run has neither first-K-layers models nor FLOPs of early exit's exits"


def _sections(
    rows: pd.DataFrame,
    sides: str,
    headers: Sequence[str],
    cells: Callable[[Any], list[str]],
    metric: bool = True,
) -> Iterable[tuple[pd.DataFrame, list[str]]]:
    """Yield each task and backbone's rows with the heading and the table of them."""
    for (task, backbone), here in rows.groupby(PAIR, sort=False):
        heading = f"## {task}, {backbone}" + (f" ({metric_name(here.metric.iloc[0])})" if metric else "")
        yield here, [heading, "", *table(sides, headers, map(cells, here.itertuples())), ""]


# ---- comparisons -----------------------------------------------------------------------------------------------------


COMPARISON_NOTES = (
    "Method minus reference, quality as a fraction, mean over seeds, on the same evaluation rows. Each method enters with "
    "the rule and threshold that were best on the calibration split with at least the goal's {cost} speed-up.",
    "± std: over seeds, n − 1; empty for one seed. Interval and p: bootstrap that draws rows and seeds again, always "
    f"the same for both methods ({RESAMPLES} resamples). With few seeds the interval takes the chance of training as "
    "smaller than it is, with one seed as none: then it speaks of these trained models only (docs/protocol.md, Statistics).",
    f"Test: p after Holm's correction over all tested comparisons of the task and backbone; **significant**: p < {LEVEL}. "
    f"Fewer than {TESTABLE_SEEDS} seeds are not tested: they do not show what another training would give. The interval is "
    "not corrected. Not significant does not mean equal.",
)


def comparisons_markdown(
    comparisons: pd.DataFrame, without: Sequence[str] = (), cost: Cost = "layers"
) -> str:
    """Return ``comparisons.md``; ``without`` names asked pairs that have no line, see `unanswered`."""
    lines, notes = ["# Differences between methods at an equal budget", ""], []
    if comparisons.empty:
        lines += [
            "Nothing to compare: there is no goal `min_speedup` that methods meet, or the records keep no answers to rows "
            "(predictions.json).",
            "",
        ]
    else:
        notes += [note.format(cost=COST_WORDS[cost]) for note in COMPARISON_NOTES]
    for (task, backbone), here in comparisons.groupby(PAIR, sort=False):
        one = here.iloc[0]
        lines += [f"## {task}, {backbone} ({metric_name(one.metric)}, {one.rows} evaluation rows)", ""]
        for (goal, *_), items in here.groupby(["goal", "reference", "reference_rule"], sort=False):
            one = items.iloc[0]
            against = f"{method_name(one.reference)}, {rule_name(one.reference_rule)}"
            cells = map(_comparison_cells, items.itertuples())
            lines += [f"**{goal.words}, against {against}**", ""]
            lines += [*table("lrrrrl", COMPARISON_HEADERS, cells), ""]
    if without:
        notes.append(
            "**Asked for, but without a line** (not evaluated, no answers kept, or no operating point that meets the "
            f"goal on a shared seed): {'; '.join(without)}."
        )
    return "\n".join([*lines, *notes_list(notes)])


def _comparison_cells(item: Any) -> list[str]:
    return [
        f"{method_name(item.method)}, {rule_name(item.rule)}",
        str(item.seeds),
        number(item.difference_mean, "+.4f"),
        number(item.difference_std, ".4f"),
        f"{number(item.difference_low, '+.4f')} to {number(item.difference_high, '+.4f')}",
        item.not_tested or f"p = {item.p_holm:.4f}" + (", **significant**" if item.significant else ""),
    ]


# ---- whole curves ----------------------------------------------------------------------------------------------------

AREA_NOTES = (
    "Area: quality over cost (share of the full model's layers or FLOPs, 1 / speed-up), as the mean over the range that "
    "every curve of the table covers on every seed; mean ± std over seeds, n − 1. The range depends on the methods of the "
    "run: areas compare within a table, not between tables.",
    f"ELUE: mean of (quality − the baseline's at equal FLOPs) over {len(SHARES)} evenly spaced shares of the full model's "
    "FLOPs, as far as the method's curve reaches. Points: how many, all seeds together; outside: how many lie outside the "
    "baseline's FLOPs, where the score is undefined, and are left out. A curve that reaches other costs has other points.",
    "A curve is measured at many thresholds on the evaluation split: it says what a method could do if the threshold "
    "were known; the operating points of main.md, chosen on calibration, say what it does.",
)  # fmt: skip


def areas_markdown(rows: pd.DataFrame) -> str:
    """Return ``areas.md`` from the rows of ``areas.csv``."""
    lines = ["# Whole curves", ""]
    if rows.empty:
        return "\n".join([*lines, "No curve is there yet.", ""])
    for here, section in _sections(rows, "ll" + "r" * 7, AREA_HEADERS, _area_cells):
        one = here.iloc[0]
        ranges = "; ".join(f"{cost} {_range_text(one[f'{cost}_low'], one[f'{cost}_high'])}" for cost in COSTS)
        baseline = BASELINES.get(one.elue_baseline, NO_BASELINE)
        lines += [*section, f"Range: {ranges}. ELUE's baseline: {baseline}.", ""]
    return "\n".join([*lines, *notes_list(AREA_NOTES)])


def _area_cells(row: Any) -> list[str]:
    return [
        method_name(row.method),
        rule_name(row.rule),
        str(row.seeds),
        *(spread_text(getattr(row, f"area_{cost}_mean"), getattr(row, f"area_{cost}_std")) for cost in COSTS),
        number(row.elue_mean, "+.4f"),
        number(row.elue_std, ".4f"),
        number(row.elue_points, ".0f"),
        number(row.elue_excluded, ".0f"),
    ]


def _range_text(low: float, high: float) -> str:
    return "none in common" if pd.isna(low) else f"{low:.3f} to {high:.3f}"


# ---- what training costs ---------------------------------------------------------------------------------------------

COST_NOTES = (
    "Steps are optimiser steps. Time is that of the whole training, development scoring included; × full: over the full "
    "model's training of the same seed on the same machine, mean ± std over seeds (n − 1).",
    "* the full model's training is a part: the method starts or learns from it, or a member is its copy.",
)


def cost_markdown(rows: pd.DataFrame) -> str:
    """Return ``cost.md`` from the rows of ``cost.csv``."""
    lines = ["# What training costs", ""]
    for _, section in _sections(rows, "lrrrrr", COST_HEADERS, _cost_cells, metric=False):
        lines += section
    machines = [f"Machine: {machine}." for machine in rows.machine.drop_duplicates() if machine]
    return "\n".join([*lines, *notes_list([*COST_NOTES, *machines])])


def _cost_cells(row: Any) -> list[str]:
    return [
        method_name(row.method) + (" *" if row.with_full == "yes" else ""),
        str(row.seeds),
        number(row.added_parameters, "+,d"),
        number(row.training_steps, ",.0f"),
        number(row.training_seconds_mean, ",.0f"),
        spread_text(row.training_ratio_mean, row.training_ratio_std, ".2f"),
    ]
