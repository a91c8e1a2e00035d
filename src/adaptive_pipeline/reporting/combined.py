"""Removing tokens and leaving early, each alone and both together: what each saves, and whether the savings multiply."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from adaptive_inference.calibration.operating_point import Goal
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.frame import PAIR, Results
from adaptive_pipeline.reporting.goal_rows import full_row, goal_of
from adaptive_pipeline.reporting.measures import KEY, mean, std
from adaptive_pipeline.reporting.statistics.comparisons import STANDING_REFERENCES, at_goal

#: Cost -> the column of points with its speed-up.
SAVINGS = {
    "layers": "layers_speedup",
    "flops": "flops_speedup",
    "wallclock": "wallclock_speedup",
    "wallclock_batch16": "wallclock_speedup_batch16",
}
_FIGURES = {"quality": "quality", "quality_difference": "quality_difference"}
#: Columns of ``combined.csv``; those of a product, and the correlation, stand on the row of both alone.
COLUMNS = [
    *PAIR, "goal", "combination", "part", "method", "rule", "operating_point", "seeds", "timed_seeds", "metric",
    *(f"{name}_{average}" for name in _FIGURES for average in ("mean", "std")),
    *(f"{cost}_speedup_{average}" for cost in SAVINGS for average in ("mean", "std")),
    "kept_mean", "kept_std",
    *(f"{cost}_over_product_{average}" for cost in SAVINGS for average in ("mean", "std")),
    "exit_correlation_mean", "exit_correlation_std", "published_speedup_mean",
]  # fmt: skip
SURVIVOR_COLUMNS = [*KEY, "exit_layer", "kept_above", "kept_up_to", "rows", "share"]


@dataclass(frozen=True)
class Combination:
    """Keys of methods that belong together: one removes tokens, one leaves early, one does both."""

    removal: str
    exits: str
    both: str


def combinations(params: Params) -> list[Combination]:
    """Return what is held together, one for each method that does both.

    These are the methods of ``train_adapler_exits`` and those of objective ``adapler_joint``. What removes tokens alone is
    ``pruned_body``, or where none is named the first method of objective ``adapler``; what leaves early alone is the
    standing reference, ``early_exit``.
    """
    by, methods = params.trained_by, params.methods
    objectives = {name: methods[name].train.objective for name in by.train_adapler}
    alone = [name for name, objective in objectives.items() if objective == "adapler"]
    removal = params.pruned_body or next(iter(alone), "")
    both = [name for name, objective in objectives.items() if objective == "adapler_joint"]
    both += by.train_adapler_exits
    exits = STANDING_REFERENCES[0]
    return [Combination(removal, exits, name) for name in both if removal and exits in methods]


def evaluated_combinations(results: Results) -> list[Combination]:
    """Return the combinations whose method that does both was evaluated, of one task and backbone."""
    there = {cell.method for cell in results.cells}
    return [item for item in combinations(results.params) if item.both in there]


# ---- what each saves -------------------------------------------------------------------------------------------------


def combined(results: Results) -> pd.DataFrame:
    """Return the parts of each combination at each goal, `COLUMNS`; ``goal`` is a `Goal`.

    A figure is the mean over the seeds that have it, those of the clock over the timed ones. ``..._over_product_...``:
    both's speed-up over the product of the other two's, of each seed that has all three, then mean and spread.
    """
    found = []
    for one in results.each:
        for combination in evaluated_combinations(one):
            for goal in _goals(one):
                found += _rows(one, combination, goal)
    return pd.DataFrame(found, columns=COLUMNS)


def _goals(results: Results) -> list[Goal]:
    """Return the goals of one task and backbone, the one that a recommendation is asked for first."""
    first, chosen = goal_of(results), {goal for goal in results.main.goal if goal.chosen}
    return sorted(chosen, key=lambda goal: (goal != first, goal.order))


def parts_at(results: Results, combination: Combination, goal: Goal) -> dict[str, Any]:
    """Return the rows of the main table of each part at a goal, by part; those that have none are left out.

    The model that removes tokens has one operating point, which stands at each goal whether or not it meets it.
    """
    rows = [row for row in results.main.itertuples() if row.seeds]
    own = [row for row in rows if row.method == combination.removal]
    parts = {"full": full_row(results)}
    for part, kind in (("nothing_removed", "nothing_removed"), ("removal", "whole")):
        parts[part] = next((row for row in own if row.goal.kind == kind), None)
    for part in ("exits", "both"):
        method = getattr(combination, part)
        parts[part] = next(iter(at_goal([row for row in rows if row.method == method], goal)), None)
    return {part: row for part, row in parts.items() if row is not None}


def _rows(results: Results, combination: Combination, goal: Goal) -> Iterator[dict[str, Any]]:
    parts = parts_at(results, combination, goal)
    points = {part: results.of_row(row).set_index("seed") for part, row in parts.items()}
    for part, row in parts.items():
        body = {name: getattr(row, name) for name in (*KEY, "metric", "seeds")}
        body |= {"goal": goal, "combination": combination.both, "part": part}
        body |= _figures(results, points[part], part)
        if part == "both" and {"removal", "exits"} <= set(points):
            body |= _over_product(points)
        yield body


def _figures(results: Results, points: pd.DataFrame, part: str) -> dict[str, Any]:
    timed = points[points.timed]
    found: dict[str, Any] = {"timed_seeds": len(timed) or math.nan}
    for name, source in _FIGURES.items():
        found |= _averaged(name, points[source])
    for cost, source in SAVINGS.items():
        found |= _averaged(f"{cost}_speedup", (timed if cost.startswith("wallclock") else points)[source])
    survival = [item for item in points.survival if not isinstance(item, float)]
    found |= _averaged("kept", [item.kept for item in survival])
    if part == "both":
        found |= _averaged("exit_correlation", [item.exit_correlation for item in survival])
    if part == "removal":
        published = [results.evaluation(cell).metrics.get("published_speedup") for cell in points.cell]
        found["published_speedup_mean"] = mean(published)
    return found


def _over_product(points: dict[str, pd.DataFrame]) -> dict[str, float]:
    found = {}
    for cost, source in SAVINGS.items():
        both, removal, exits = (points[part][source] for part in ("both", "removal", "exits"))
        found |= _averaged(f"{cost}_over_product", (both / (removal * exits)).dropna())  # by seed
    return found


def _averaged(name: str, values: Any) -> dict[str, float]:
    return {f"{name}_mean": mean(values), f"{name}_std": std(values)}


# ---- what is left when rows leave ------------------------------------------------------------------------------------


def exit_survivors(results: Results) -> pd.DataFrame:
    """Return, for each method that does both, how many rows left at each exit with which share of their tokens.

    `SURVIVOR_COLUMNS`: at the operating points of `combined`, seeds pooled; parts without a row are left out. A share lies
    above ``kept_above`` and at most at ``kept_up_to``; it is of the layer before the exit.
    """
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in results.each:
        for combination in evaluated_combinations(one):
            for goal in _goals(one):
                row = parts_at(one, combination, goal).get("both")
                if row is not None:
                    key = tuple(getattr(row, name) for name in KEY)
                    found.setdefault(key, list(_cells(one, row)))
    rows = [dict(zip(KEY, key, strict=True)) | cell for key, cells in found.items() for cell in cells]
    return pd.DataFrame(rows, columns=SURVIVOR_COLUMNS)


def _cells(results: Results, row: Any) -> Iterator[dict[str, Any]]:
    counts = pooled_counts(results, row)
    total = int(counts.to_numpy().sum())
    for layer in counts.columns:
        for part, number in enumerate(counts[layer]):
            if number:
                edges = {"kept_above": part / len(counts), "kept_up_to": (part + 1) / len(counts)}
                yield {"exit_layer": layer, "rows": int(number), "share": number / total} | edges


def pooled_counts(results: Results, row: Any) -> pd.DataFrame:
    """Return rows by share of tokens left (index, from few to all) and exit layer (columns), seeds pooled."""
    frames = [pd.DataFrame(item.kept_at_exit) for item in results.of_row(row).survival]
    counts = sum(frames[1:], frames[0])
    return counts.rename(columns=int)[sorted(map(int, counts.columns))]
