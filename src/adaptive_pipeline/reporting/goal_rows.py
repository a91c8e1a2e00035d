"""What each method gives at the goal, a loss of at most ``goal.max_loss`` points: one row per method, told first.

Chosen on the calibration split (`at_goal`), told on the evaluation split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptive_inference.calibration.operating_point import Goal, static_layers
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.names import method_name
from adaptive_pipeline.reporting.statistics.answers import Answers, answer_key, collect_answers
from adaptive_pipeline.reporting.statistics.comparisons import at_goal
from adaptive_pipeline.reporting.statistics.paired import Difference, paired_bootstrap, resample_quality

RESAMPLES = 2000  #: of an interval; no p-value is read off
#: What two rules of a method agree in where they let the same rows leave at the same exits.
ALIKE = ("method", "operating_point", "attainable", "quality_mean", "layers_speedup", "exit_share")


@dataclass(frozen=True)
class GoalRow:
    """A method at the goal.

    Attributes
    ----------
    row
        Of the main table.
    rules
        The row's, and those that coincide with it.
    against_full
        Method minus full model, quality as a fraction; None where the records keep no answers of all its seeds.
    """

    row: Any
    rules: tuple[str, ...]
    against_full: Difference | None = None


def goal_of(results: Results) -> Goal:
    """Return the goal that a recommendation is asked for."""
    return Goal("max_loss", results.params.goal.max_loss, results.cost)


def full_row(results: Results) -> Any:
    """Return the full model's row of one task and backbone; None where it was not evaluated."""
    rows = results.main
    return next(rows[(rows.method == "full") & (rows.seeds > 0)].itertuples(), None)


def goal_rows(results: Results) -> list[GoalRow]:
    """Return one row per method that meets the goal on at least one seed, in table order; of one task and backbone."""
    main = list(results.main.itertuples())
    rows = [row for row in at_goal(main, goal_of(results)) if row.seeds]
    rules = {row.Index: names for row, names in coinciding(main)}
    differences = _against_full(results, rows)
    found = [GoalRow(row, rules.get(row.Index, (row.rule,)), differences.get(row.Index)) for row in rows]
    return sorted(found, key=lambda item: item.row.Index)


def without_row(results: Results, rows: Iterable[GoalRow]) -> list[str]:
    """Return the names of the evaluated methods that have no row at the goal, in table order."""
    there = {_family(item.row.method) for item in rows} | {"full"}
    return list(dict.fromkeys(n for m in results.main.method if (n := _family(m)) not in there))


def family_name(family: str) -> str:
    """Return how a method is shown, the first-K-layers models as one."""
    return "the first K layers alone" if family == "static" else method_name(family)


def _family(method: str) -> str:
    return "static" if static_layers(method) is not None else method


def coinciding(rows: Iterable[Any]) -> list[tuple[Any, tuple[str, ...]]]:
    """Return the rows of a main table with the names of the rules that coincide there, the first row for all of them.

    Rows without figures coincide in nothing.
    """
    found: dict[Any, tuple[Any, tuple[str, ...]]] = {}
    for row in rows:
        key = tuple(_plain(getattr(row, name)) for name in ALIKE) if row.seeds else row.Index
        first, names = found.get(key, (row, ()))
        found[key] = first, (*names, row.rule)
    return list(found.values())


def _plain(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, Mapping) else value


def _against_full(results: Results, rows: Iterable[Any]) -> dict[int, Difference]:
    """Return the paired difference of each row from the full model of the same seeds, by the row's place."""
    answers, full = collect_answers(results), full_row(results)
    if answers is None or full is None:
        return {}
    sides = {row.Index: both for row in rows if (both := _both_sides(row, full, answers))}
    wanted = list(dict.fromkeys(key for both in sides.values() for side in both for key in side))
    if not wanted:
        return {}
    sets = np.array([answers.sets[key] for key in wanted])
    scored = resample_quality(full.metric, sets, answers.labels, answers.num_classes, RESAMPLES)
    return {
        place: paired_bootstrap(*(scored.of([wanted.index(key) for key in side]) for side in both))
        for place, both in sides.items()
    }


def _both_sides(row: Any, full: Any, answers: Answers) -> tuple[list[Any], list[Any]] | None:
    """Return what the answers of a row and of the full model are found under; None where those of a seed are not kept."""
    seeds = answers.shared_seeds(row, full)
    if set(seeds) != set(row.in_seeds):
        return None
    return [answer_key(row, seed) for seed in seeds], [answer_key(full, seed) for seed in seeds]
