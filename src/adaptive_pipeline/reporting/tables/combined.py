"""``combined.md``: removing tokens, leaving early, and both."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.reporting.combined import SAVINGS
from adaptive_pipeline.reporting.frame import PAIR
from adaptive_pipeline.reporting.names import method_name, rule_name
from adaptive_pipeline.reporting.text.markdown import (
    counted,
    notes_list,
    number,
    points_text,
    spread_text,
    table,
)

#: Cost -> its name in words, and its heading.
COSTS = {
    "layers": ("layers", "Layers ×"),
    "flops": ("FLOPs", "FLOPs ×"),
    "wallclock": ("wall-clock at batch 1", "Wall-clock ×"),
    "wallclock_batch16": ("wall-clock at batch 16", "Wall-clock ×, batch 16"),
}
NOTES = (
    "Leaving early and both: the rule and threshold that are best for the goal on the calibration split; what no threshold "
    "takes to the goal has no row. The model that only removes tokens has nothing to choose: its row is the same at each "
    "goal, whether or not it meets it.",
    "Nothing removed: the predictors at work on all tokens, none taken out; what removal costs before it saves. At batch 16 "
    "the full model pads its rows and a model that removes tokens packs them: this row tells what packing alone gives.",
    "Figures are of the evaluation split, mean ± std over seeds (n − 1), those of the clock over the timed seeds; without a "
    "spread: one seed. Speed-ups: cost of the full fine-tuned model / cost of the method. Tokens left: share of a row's "
    "tokens in the layers that it runs, mean over rows.",
    "Over the product: both's speed-up / (removal's × leaving early's), of each seed by itself, then mean ± std. The "
    "spread is that of training alone; what the choice of rows and the clock add is not in it.",
    "Rank correlation: Spearman's, over rows, of the exit layer with the share of tokens left (mean over all layers, the "
    "same for each row). Long texts may lose a larger share: it tells that the two go together, not why.",
)


def combined_markdown(rows: pd.DataFrame) -> str:
    """Return ``combined.md`` from the rows of ``combined.csv``."""
    lines = ["# Removing tokens and leaving early", ""]
    for (task, backbone, combination), here in rows.groupby([*PAIR, "combination"], sort=False):
        metric = metric_name(here.metric.iloc[0])
        lines += [f"## {task}, {backbone}: {method_name(combination)} ({metric})", ""]
        for goal, parts in here.groupby("goal", sort=False):
            lines += [f"**{goal.words}**", "", *_table(parts), "", *_told(parts)]
    return "\n".join([*lines, *notes_list([*NOTES, *_published_note(rows)])])


def _table(parts: pd.DataFrame) -> list[str]:
    shown = [cost for cost in SAVINGS if parts[f"{cost}_speedup_mean"].notna().any()]
    headers = ["Method", "Leaves by", "Seeds", "Quality", "Loss, points"]
    headers += [COSTS[cost][1] for cost in shown] + ["Tokens left"]
    cells = [_cells(row, shown) for row in parts.itertuples()]
    return table("ll" + "r" * (len(headers) - 2), headers, cells)


def _cells(row: Any, shown: list[str]) -> list[str]:
    name = method_name(row.method) + (", nothing removed" if row.part == "nothing_removed" else "")
    return [
        name,
        rule_name(row.rule),
        str(row.seeds),
        spread_text(row.quality_mean, row.quality_std),
        "" if row.part == "full" else points_text(row.quality_difference_mean),
        *(_spread(row, f"{cost}_speedup") for cost in shown),
        _spread(row, "kept"),
    ]


def _spread(row: Any, name: str) -> str:
    return spread_text(getattr(row, f"{name}_mean"), getattr(row, f"{name}_std"), ".2f")


def _told(parts: pd.DataFrame) -> Iterator[str]:
    """Yield whether the savings multiply, and whether the same rows are easy for both."""
    row = next(parts[parts.part == "both"].itertuples(), None)
    if row is None:
        yield from ("No threshold of the method that does both meets the goal on the calibration split.", "")
        return
    told = [
        f"{words} {_spread(row, f'{cost}_over_product')}"
        for cost, (words, _) in COSTS.items()
        if pd.notna(getattr(row, f"{cost}_over_product_mean"))
    ]
    if told:
        seeds = counted(row.seeds, "seed")
        if pd.notna(row.timed_seeds) and row.timed_seeds != row.seeds:
            seeds += f", the clock {counted(int(row.timed_seeds), 'seed')}"
        yield from (
            f"Both over the product of each alone ({seeds}; 1: the savings multiply): {', '.join(told)}.",
            "",
        )
    if pd.notna(row.exit_correlation_mean):
        yield from (
            f"Rank correlation of exit layer and tokens left, over rows: {_spread(row, 'exit_correlation')} "
            "(positive: the rows that leave early are those that lose many tokens).",
            "",
        )


def _published_note(rows: pd.DataFrame) -> Iterator[str]:
    known = rows[rows.published_speedup_mean.notna()].drop_duplicates([*PAIR, "method"])
    if len(known):
        told = "; ".join(
            f"{method_name(row.method)} on {row.task}, {row.backbone}: {number(row.published_speedup_mean, '.2f')}× where "
            f"{number(row.flops_speedup_mean, '.2f')}× is counted here"
            for row in known.itertuples()
        )
        yield (
            f"As AdapLeR's paper would count FLOPs, with its error in the last layer: {told}. To read the paper's numbers "
            "by; no figure of this table."
        )
