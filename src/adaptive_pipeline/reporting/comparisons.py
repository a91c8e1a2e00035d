"""Methods against references at an equal budget: paired differences, what is significant, and how it is shown.

A budget is a goal ``min_speedup_Y``: at least Y times fewer layers. Each method enters with one operating point, the
rule and threshold that were best on the calibration split; the evaluation split chooses nothing.
"""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.reporting.aggregate import TOLERANCE, Row, mean
from adaptive_pipeline.reporting.collect import Results
from adaptive_pipeline.reporting.markdown import number, table_line
from adaptive_pipeline.reporting.names import (
    method_name,
    natural_key,
    point_name,
    rule_key,
    rule_name,
    static_layers,
)
from adaptive_pipeline.reporting.paired import Scored, holm, paired_bootstrap, resample_quality
from adaptive_pipeline.reporting.tables import csv_text

#: What every method is compared with: the plainest early exit at the same goal, and the full model.
STANDING_REFERENCES = ("early_exit", "full")
GOAL = "min_speedup_"
LEVEL = 0.05  #: of Holm's adjusted p-value
#: The smallest p-value is 2 / (resamples + 1): few resamples could not pass Holm's correction in a long table.
RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """One line of ``comparisons.csv``: method minus reference over the same rows and seeds."""

    task: str
    backbone: str
    goal: str
    method: str
    rule: str
    reference: str
    reference_rule: str
    metric: str
    rows: int
    seeds: int
    difference_mean: float
    difference_std: float | None
    difference_low: float
    difference_high: float
    p_value: float
    p_holm: float
    comparisons: int  #: of this task and backbone: what Holm corrects for
    significant: bool
    layers_speedup: float | None
    reference_layers_speedup: float | None
    operating_point: str  #: the method's own: the goal, or that of a model without exits


COLUMNS = [field.name for field in fields(Comparison)]

#: (method, rule, operating point, seed) -> index among the sets of answers.
Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Answers:
    """All answers of one task and backbone: every seed and method answered the same rows."""

    sets: dict[Key, list[float]]
    labels: np.ndarray
    num_classes: int


def compare(results: Results, rows: Sequence[Row], resamples: int = RESAMPLES) -> list[Comparison]:
    """Return every comparison that the records allow, in table order; none where they keep no answers.

    Raises
    ------
    UserError
        The records of one task answered different rows.
    """
    found = []
    for task, backbone in results.pairs():
        answers = collect_answers(results, task, backbone)
        here = [row for row in rows if (row.task, row.backbone) == (task, backbone)]
        if answers is not None:
            asked = {name: method.references for name, method in results.params.methods.items()}
            found += _compare_here(here, answers, resamples, asked)
    return found


def collect_answers(results: Results, task: str, backbone: str) -> Answers | None:
    """Collect the answers of all cells of a task and backbone, None where no record holds any; see `compare`."""
    sets: dict[Key, list[float]] = {}
    first: Mapping[str, Any] = {}
    for files in results.cells:
        body, cell = files.predictions, files.cell
        if (cell.task, cell.backbone) != (task, backbone) or not body:
            continue
        first = first or body
        if any(body[name] != first[name] for name in ("ids", "labels", "num_classes")):
            raise UserError(
                f"{cell.name} answered other evaluation rows than the cells before it: rows can only be compared in "
                "pairs when they are the same; run prepare_data and all after it again for this task"
            )
        for point in body["points"]:
            key = (point["method"], point["rule"], point["operating_point"], cell.seed)
            sets[key] = point["predictions"]
    return Answers(sets, np.array(first["labels"]), first["num_classes"]) if first else None


def _compare_here(
    rows: Sequence[Row], answers: Answers, resamples: int, asked: Mapping[str, Sequence[str]]
) -> list[Comparison]:
    full = [row for row in rows if row.method == "full"]
    pairs: list[tuple[str, Row, Row]] = []
    for goal in sorted(
        {r.operating_point for r in rows if r.operating_point.startswith(GOAL)}, key=natural_key
    ):
        entries = at_goal(rows, goal)
        standing = [
            (goal, row, reference)
            for reference in [row for row in entries if row.method == STANDING_REFERENCES[0]] + full
            for row in entries
            if row is not reference
        ]
        known = {frozenset((a.method, b.method)) for _, a, b in standing}
        pairs += standing + _asked_pairs(rows, goal, asked, known)
    shared = [(goal, a, b, _shared_seeds(a, b, answers)) for goal, a, b in pairs]
    shared = [pair for pair in shared if pair[-1]]
    if not shared:
        return []
    wanted = list(dict.fromkeys(_key(r, s) for _, a, b, seeds in shared for r in (a, b) for s in seeds))
    sets = np.array([answers.sets[key] for key in wanted])
    scored = resample_quality(rows[0].metric, sets, answers.labels, answers.num_classes, resamples)

    def of(row: Row, seeds: Sequence[int]) -> Scored:
        return scored.of([wanted.index(_key(row, seed)) for seed in seeds])

    return _corrected(
        [_comparison(goal, a, b, seeds, of(a, seeds), of(b, seeds), answers) for goal, a, b, seeds in shared]
    )


def _asked_pairs(
    rows: Sequence[Row], goal: str, asked: Mapping[str, Sequence[str]], known: set[frozenset[str]]
) -> list[tuple[str, Row, Row]]:
    """Return the pairs that the params ask for, each method with its own best point; `known` ones, either way, not again."""
    pairs = []
    for name, references in asked.items():
        for reference in references:
            pair = frozenset((name, reference))
            found = [
                at_goal([row for row in rows if row.method == method], goal) for method in (name, reference)
            ]
            if pair not in known and all(found):
                known.add(pair)
                pairs.append((goal, found[0][0], found[1][0]))
    return pairs


def at_goal(rows: Iterable[Row], goal: str) -> list[Row]:
    """Return the best operating point of each method within a budget, chosen on the calibration split.

    Of a method's rules the one that meets the goal on the most seeds, then the best mean calibration quality, then the
    most layers saved. A model without exits (``whole``) enters where it is fast enough. The ``static_K`` are one method: of
    those that are fast enough the best on calibration.
    """
    least = float(goal.removeprefix(GOAL)) - TOLERANCE
    best: dict[str, Row] = {}
    for row in rows:
        static = static_layers(row.method) is not None
        whole = static or row.operating_point == "whole"
        fast = whole and row.calibration_speedup is not None and row.calibration_speedup >= least
        if not (fast or row.operating_point == goal) or not row.attainable or row.calibration_quality is None:
            continue
        family = "static" if static else row.method
        if family not in best or _rank(row) < _rank(best[family]):
            best[family] = row
    return list(best.values())


def _rank(row: Row) -> tuple[Any, ...]:
    return (
        -row.seeds,
        -(row.calibration_quality or 0.0),
        -(row.calibration_speedup or 0.0),
        rule_key(row.rule),
    )


def _key(row: Row, seed: int) -> Key:
    return row.method, row.rule, row.operating_point, seed


def _shared_seeds(a: Row, b: Row, answers: Answers) -> list[int]:
    seeds = sorted({point.cell.seed for point in a.points} & {point.cell.seed for point in b.points})
    return [seed for seed in seeds if _key(a, seed) in answers.sets and _key(b, seed) in answers.sets]


def _speedup(row: Row, seeds: Sequence[int]) -> float | None:
    """Return the mean over the seeds of a comparison, of which a row may have more."""
    return mean(point.layers_speedup for point in row.points if point.cell.seed in seeds)


def _comparison(
    goal: str, row: Row, reference: Row, seeds: Sequence[int], first: Scored, second: Scored, answers: Answers
) -> Comparison:
    difference = paired_bootstrap(first, second)
    return Comparison(
        task=row.task,
        backbone=row.backbone,
        goal=goal,
        method=row.method,
        rule=row.rule,
        reference=reference.method,
        reference_rule=reference.rule,
        metric=row.metric,
        rows=len(answers.labels),
        seeds=difference.seeds,
        difference_mean=difference.mean,
        difference_std=difference.std,
        difference_low=difference.low,
        difference_high=difference.high,
        p_value=difference.p_value,
        p_holm=1.0,  # set with the whole table at hand
        comparisons=0,
        significant=False,
        layers_speedup=_speedup(row, seeds),
        reference_layers_speedup=_speedup(reference, seeds),
        operating_point=row.operating_point,
    )


def _corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    adjusted = holm([item.p_value for item in comparisons])
    return [
        replace(item, p_holm=p, comparisons=len(comparisons), significant=p < LEVEL)
        for item, p in zip(comparisons, adjusted, strict=True)
    ]


def comparisons_csv(comparisons: Iterable[Comparison]) -> str:
    """Return ``comparisons.csv``; ``significant`` is true or false in words."""
    rows = (asdict(item) | {"significant": str(item.significant).lower()} for item in comparisons)
    return csv_text(COLUMNS, rows)


# ---- signs in the main table -----------------------------------------------------------------------------------------

BETTER, WORSE, DIFFERS = "†", "‡", "§"


def signs(comparisons: Iterable[Comparison]) -> dict[tuple[str, ...], dict[str, str]]:
    """Return, per row of the main table and standing reference, the sign of a significant difference.

    A model without exits has one row for all goals: the full model is the same at each of them, but early exit is not, so
    only its difference from the full model has a sign; and of the ``static_K`` only those that were compared (`at_goal`).
    """
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for item in comparisons:
        key = (item.task, item.backbone, item.method, item.rule, item.operating_point)
        marked = item.reference == "full" or (
            item.reference in STANDING_REFERENCES and item.operating_point == item.goal
        )
        if item.significant and marked:
            sign = BETTER if item.difference_mean > 0 else WORSE
            found.setdefault(key, {})[item.reference] = DIFFERS if item.reference == "full" else sign
    return found


def sign_note(comparisons: Sequence[Comparison]) -> str:
    """Return the note that explains the signs and says n."""
    n = dict.fromkeys(_n(item) for item in comparisons)
    return (
        f"{BETTER} better, {WORSE} worse than {method_name(STANDING_REFERENCES[0])} at the same goal; {DIFFERS} differs "
        f"from the full model: paired bootstrap and t-test over seeds, p < {LEVEL} after Holm's correction "
        f"({'; '.join(n)}). "
        "Per method and goal only the rule that was best on calibration is compared, of the first K layers only the best K; "
        "a model without exits has one row for all goals, marked against the full model alone: no sign elsewhere says "
        "nothing. "
        "See comparisons.md."
    )


def _n(item: Comparison) -> str:
    seeds = f"{item.seeds} seed{'' if item.seeds == 1 else 's'}"
    return f"{item.task}, {item.backbone}: n = {item.rows} rows, {seeds}, {item.comparisons} comparisons"


# ---- for readers -----------------------------------------------------------------------------------------------------

HEADERS = (
    "Goal",
    "Method",
    "Reference",
    "Rows",
    "Seeds",
    "Difference",
    "± std",
    "95 % interval",
    "p (Holm)",
    "",
)
NOTES = (
    "Method minus reference, quality as a fraction, mean over seeds, on the same evaluation rows. Each method enters with "
    "the rule and threshold that were best on the calibration split with at least the goal's layers speed-up.",
    "± std: over seeds, n − 1; empty for one seed. Interval and p-value: bootstrap that draws rows and seeds again, always "
    f"the same for both methods ({RESAMPLES} resamples). With few seeds it takes the chance of training as smaller than it "
    "is, with one seed as none: then it speaks of these trained models only (docs/protocol.md, Statistics).",
    f"**significant**: p < {LEVEL} after Holm's correction over all comparisons of the task and backbone. The interval is "
    "not corrected. Not significant does not mean equal.",
)


def unanswered(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    """Return the asked pairs (``methods.NAME.references``) and goals that have no line, in words."""
    found = {
        (item.task, item.backbone, item.goal, frozenset((item.method, item.reference)))
        for item in comparisons
    }
    goals = [f"{GOAL}{value:g}" for value in results.params.goal.min_speedup]
    told = []
    for task, backbone in results.pairs():
        for name, method in results.params.methods.items():
            for reference in method.references:
                pair = frozenset((name, reference))
                without = [goal for goal in goals if (task, backbone, goal, pair) not in found]
                if without or not goals:
                    at = ", ".join(point_name(goal) for goal in without) or "no goal is set"
                    told.append(
                        f"{method_name(name)} against {method_name(reference)} ({task}, {backbone}: {at})"
                    )
    return told


def comparisons_markdown(comparisons: Sequence[Comparison], without: Sequence[str] = ()) -> str:
    """Return ``comparisons.md``; ``without`` names asked pairs that have no line, see `unanswered`."""
    lines = ["# Differences between methods at an equal budget", ""]
    if not comparisons:
        lines += [
            "Nothing to compare: there is no goal `min_speedup` that methods meet, or the records keep no answers to rows "
            "(predictions.json).",
            "",
        ]
    for task, backbone in dict.fromkeys((item.task, item.backbone) for item in comparisons):
        here = [item for item in comparisons if (item.task, item.backbone) == (task, backbone)]
        lines += [f"## {task}, {backbone} ({metric_name(here[0].metric)})", ""]
        lines += [table_line(HEADERS), table_line([*["---"] * 3, *["---:"] * 6, "---"])]
        for item in here:
            interval = f"{number(item.difference_low, '+.4f')} to {number(item.difference_high, '+.4f')}"
            cells = [point_name(item.goal), f"{method_name(item.method)}, {rule_name(item.rule)}"]
            cells += [f"{method_name(item.reference)}, {rule_name(item.reference_rule)}"]
            cells += [str(item.rows), str(item.seeds), number(item.difference_mean, "+.4f")]
            cells += [number(item.difference_std, ".4f"), interval, number(item.p_holm, ".4f")]
            lines.append(table_line([*cells, "**significant**" if item.significant else ""]))
        lines.append("")
    notes = list(NOTES) if comparisons else []
    if without:
        notes.append(
            "**Asked for, but without a line** (not evaluated, no answers kept, or no operating point that meets the "
            f"goal on a shared seed): {'; '.join(without)}."
        )
    return "\n".join([*lines, *(["Notes", "", *(f"- {note}" for note in notes), ""] if notes else [])])
