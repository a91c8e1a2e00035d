"""Methods against references at an equal budget: paired differences and what is significant.

A budget is a goal of speed: a cost at least Y times lower, in the goal's currency. Each method enters with one operating
point, the rule and threshold that were best on the calibration split; the evaluation split chooses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from adaptive_inference.calibration.operating_point import ROUNDING, Goal, Seen, rank, static_layers
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.measures import KEY, mean
from adaptive_pipeline.reporting.names import method_name, rule_key
from adaptive_pipeline.reporting.statistics.answers import Answers, answer_key, collect_answers
from adaptive_pipeline.reporting.statistics.paired import Difference, holm, paired_bootstrap, resample_quality

#: What every method is compared with: the plainest early exit at the same goal, and the full model.
STANDING_REFERENCES = ("early_exit", "full")
LEVEL = 0.05  #: of Holm's adjusted p-value
#: Fewer seeds tell nothing of what another training would give: one has no spread, and two are alike or far apart by chance.
TESTABLE_SEEDS = 3
#: The smallest p-value is 2 / (resamples + 1): few resamples could not pass Holm's correction in a long table.
RESAMPLES = 10_000
#: Columns of ``comparisons.csv``: method minus reference over the same rows and seeds.
COLUMNS = [
    "task", "backbone", "goal", "method", "rule", "reference", "reference_rule", "metric", "rows", "seeds",
    "difference_mean", "difference_std", "difference_low", "difference_high", "p_value", "p_holm",
    "comparisons",  # tested ones of this task and backbone: what Holm corrects for
    "significant", "layers_speedup", "reference_layers_speedup",
    "operating_point",  # the method's own: the goal, or that of a model without exits
    "not_tested",  # why there is no p-value; empty where there is one
]  # fmt: skip

#: A goal, and two rows of the main table that are compared at it.
Duel = tuple[Goal, Any, Any]


def compare(results: Results, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Return every comparison that the records allow, in table order; none where they keep no answers.

    Columns are `COLUMNS`, with ``goal`` a `Goal`, and ``flops_speedup``, ``reference_flops_speedup``. With fewer than
    `TESTABLE_SEEDS` seeds ``p_value``, ``p_holm`` and ``significant`` are missing; the interval stays.

    Raises
    ------
    UserError
        The records of one task answered different rows.
    """
    asked = {name: method.references for name, method in results.params.methods.items()}
    found: list[dict[str, Any]] = []
    for one in results.each:
        answers = collect_answers(one)
        if answers is not None:
            found += _compare_here(one, answers, resamples, asked)
    return pd.DataFrame(found, columns=[*COLUMNS, "flops_speedup", "reference_flops_speedup"])


def _compare_here(
    results: Results, answers: Answers, resamples: int, asked: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    rows = list(results.main.itertuples())
    goals = sorted({row.goal for row in rows if row.goal.kind == "min_speedup"}, key=lambda goal: goal.order)
    duels = [duel for goal in goals for duel in _duels(rows, goal, asked)]
    shared = [(*duel, seeds) for duel in duels if (seeds := answers.shared_seeds(*duel[1:]))]
    if not shared:
        return []
    wanted = list(dict.fromkeys(answer_key(r, s) for _, a, b, seeds in shared for r in (a, b) for s in seeds))
    sets = np.array([answers.sets[key] for key in wanted])
    scored = resample_quality(rows[0].metric, sets, answers.labels, answers.num_classes, resamples)
    found = []
    for goal, row, reference, seeds in shared:
        both = (scored.of([wanted.index(answer_key(r, seed)) for seed in seeds]) for r in (row, reference))
        found.append(_comparison(goal, row, reference, paired_bootstrap(*both)))
        for side, prefix in ((row, ""), (reference, "reference_")):
            points = results.of_row(side)
            points = points[points.seed.isin(seeds)]  # of which a row may have more
            for name in ("layers_speedup", "flops_speedup"):
                found[-1][prefix + name] = mean(points[name])
    _test(found)
    return [item | {"rows": len(answers.labels)} for item in found]


def _test(found: list[dict[str, Any]]) -> None:
    """Add to comparisons of one family what is significant, or why it cannot be told."""
    tested = [item for item in found if item["seeds"] >= TESTABLE_SEEDS]
    for item in found:
        item |= {"p_holm": None, "significant": None, "comparisons": len(tested), "not_tested": ""}
    for item, p in zip(tested, holm([item["p_value"] for item in tested]), strict=True):
        item |= {"p_holm": p, "significant": p < LEVEL}
    for item in found:
        if item["seeds"] < TESTABLE_SEEDS:
            item |= {
                "p_value": None,
                "not_tested": "not testable with "
                + ("1 seed" if item["seeds"] == 1 else f"{item['seeds']} seeds"),
            }


def _duels(rows: Sequence[Any], goal: Goal, asked: Mapping[str, Sequence[str]]) -> list[Duel]:
    """Return who meets whom at a goal: all the standing references, then the pairs that the params ask for."""
    entries = at_goal(rows, goal)
    references = [row for row in entries if row.method == STANDING_REFERENCES[0]]
    references += [row for row in rows if row.method == "full"]
    duels = [(goal, row, reference) for reference in references for row in entries if row is not reference]
    known = {frozenset((a.method, b.method)) for _, a, b in duels}
    return duels + _asked_duels(rows, goal, asked, known)


def _asked_duels(
    rows: Sequence[Any], goal: Goal, asked: Mapping[str, Sequence[str]], known: set[frozenset[str]]
) -> list[Duel]:
    """Return the pairs that the params ask for, each method with its own best point; `known` ones, either way, not again."""
    duels = []
    for name, references in asked.items():
        for reference in references:
            pair = frozenset((name, reference))
            found = [at_goal([r for r in rows if r.method == method], goal) for method in (name, reference)]
            if pair not in known and all(found):
                known.add(pair)
                duels.append((goal, found[0][0], found[1][0]))
    return duels


def at_goal(rows: Iterable[Any], goal: Goal) -> list[Any]:
    """Return the best operating point of each method at a goal, chosen on the calibration split.

    Of a method's rules the one that meets the goal on the most seeds, then what `rank` puts first by the means over seeds.
    A model without exits (``whole``) enters where it meets the goal (`_whole_meets`). The ``static_K`` are one method: the
    best of those that meet it.
    """
    best: dict[str, Any] = {}
    for row in rows:
        static = static_layers(row.method) is not None
        whole = static or row.goal.kind == "whole"
        meets = whole and _whole_meets(row, goal)
        if not (meets or row.goal == goal) or not row.attainable or np.isnan(row.calibration_quality):
            continue
        family = "static" if static else row.method
        if family not in best or _order(row, goal) < _order(best[family], goal):
            best[family] = row
    return list(best.values())


def _whole_meets(row: Any, goal: Goal) -> bool:
    """Whether a model without exits is fast enough; of a goal of loss: within it on each seed, and cheaper than full."""
    speedup = getattr(row, f"calibration_{goal.cost}_speedup")
    if goal.kind == "min_speedup":
        return speedup >= (goal.value or 0.0) - ROUNDING
    met, _, evaluated = row.qualifying_seeds.partition("/")
    return met == evaluated and speedup > 1.0 + ROUNDING


def _order(row: Any, goal: Goal) -> tuple[Any, ...]:
    seen = Seen(row.calibration_quality, row.calibration_layers_speedup, row.calibration_flops_speedup)
    return -row.seeds, *(-value for value in rank(goal, seen)), rule_key(row.rule)


def _comparison(goal: Goal, row: Any, reference: Any, difference: Difference) -> dict[str, Any]:
    same = {name: getattr(row, name) for name in (*KEY, "metric")}
    figures = {f"difference_{name}": getattr(difference, name) for name in ("mean", "std", "low", "high")}
    return same | figures | {
        "goal": goal,
        "reference": reference.method,
        "reference_rule": reference.rule,
        "seeds": difference.seeds,
        "p_value": difference.p_value,
    }  # fmt: skip


def unanswered(results: Results, comparisons: pd.DataFrame) -> list[str]:
    """Return the asked pairs (``methods.NAME.references``) and goals that have no line, in words."""
    found = {
        (item.task, item.backbone, item.goal, frozenset((item.method, item.reference)))
        for item in comparisons.itertuples()
    }
    goals = [Goal("min_speedup", value, results.cost) for value in results.params.goal.min_speedup]
    told = []
    for task, backbone in (one.pair for one in results.each):
        for name, method in results.params.methods.items():
            for reference in method.references:
                pair = frozenset((name, reference))
                without = [goal for goal in goals if (task, backbone, goal, pair) not in found]
                if without or not goals:
                    at = ", ".join(goal.words for goal in without) or "no goal is set"
                    told.append(
                        f"{method_name(name)} against {method_name(reference)} ({task}, {backbone}: {at})"
                    )
    return told
