"""One row of the results: a method at one operating point, measured on the reported split from cached outputs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from adaptive_inference.calibration.curves import Curve, sweep
from adaptive_inference.calibration.operating_point import OperatingPoint, best_point
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.evaluation.statistics import bootstrap
from adaptive_inference.evaluation.survival import survival
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exit_rules._softmax import near_tie
from adaptive_inference.exit_rules.base import (
    TOLERANCE,
    ExitRule,
)
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.tasks.quality import quality

Row = dict[str, Any]
#: Share of rows that may keep other tokens in an engine than offline: contributions that lie at their threshold are rare.
MOVED = 0.01
logger = logging.getLogger("adaptive_inference")
#: By what files that stand beside the record name an operating point; see `row_key`.
KEY = ("method", "rule", "operating_point")
#: Figures that stand for a method.
HEADLINE = ("quality", "layers_speedup", "flops_speedup")


def measure_point(
    point: OperatingPoint,
    candidate: Candidate,
    full_parameters: int,
    resamples: int,
    seed: int,
) -> Row:
    """Return the row of an operating point.

    Parameters
    ----------
    point
        One that no threshold reaches gives a row without figures.
    candidate
        Who answers; see `Candidate.answering`.
    full_parameters
        Of the full model; ``added_parameters`` is what the candidate has more (negative: fewer).
    resamples, seed
        Of the quality's bootstrap interval over rows.
    """
    outputs, yardstick = candidate.outputs, candidate.yardstick
    row = {
        "method": candidate.method,
        "point": point,
        "metric": yardstick.metric,
        "attainable": load_rule(point.setting.rule).attainable,
        "added_parameters": candidate.parameters - full_parameters,
    }
    if not point.reached:
        return row
    curve = sweep_point(point, candidate)
    answers = curve.predictions[0]
    low, high = bootstrap(
        lambda rows: quality(yardstick.metric, answers[rows], outputs.labels[rows], yardstick.num_classes),
        len(answers),
        resamples,
        seed,
    )
    exits = np.asarray(outputs.exits)[curve.exits[0]]
    return row | {
        **curve.seen(0).to_json(),
        "quality_low": low,
        "quality_high": high,
        "exit_counts": _counts(exits, outputs),
        "tiers": _by_tier(outputs, curve, exits, yardstick),
        "survival": None if outputs.survivors is None else survival(outputs, exits),
    }


def sweep_point(point: OperatingPoint, candidate: Candidate) -> Curve:
    """Return the curve of an operating point's one threshold on the candidate's rows."""
    rule = load_rule(point.setting.rule)
    return sweep(rule, candidate.outputs, candidate.yardstick, np.array([point.setting.threshold]))


def row_key(point: OperatingPoint, method: str) -> dict[str, str]:
    """Return the `KEY` of an operating point, ``method`` being who answers."""
    return dict(zip(KEY, (method, point.setting.rule, point.goal.name), strict=True))


def best_at_goals(rows: Iterable[Row]) -> dict[str, Row]:
    """Return, for each goal that some rule reached, the row of the rule that was best on the calibration split.

    So any two methods can be compared at a goal that both meet. Rules that look at labels are left out, and what no
    threshold was chosen for.
    """
    goals: dict[str, list[Row]] = {}
    for row in rows:
        if row["attainable"] and row["point"].goal.chosen:
            goals.setdefault(row["point"].goal.name, []).append(row)
    best = {name: best_point(found, itemgetter("point")) for name, found in goals.items()}
    return {name: row for name, row in best.items() if row is not None}


def headlines(
    rows: Sequence[Row], recommended: OperatingPoint | None, timings: Iterable[Row]
) -> tuple[dict[str, float | None], dict[str, float]]:
    """Return the figures that stand for a method: of the recommended point, and under the goal's name of each goal.

    Parameters
    ----------
    rows
        Of `measure_point`.
    recommended
        One of the rows' points; None gives nulls.
    timings
        Of `wallclock.time_points`.

    Returns
    -------
    metrics, clock
        ``quality``, ``max_loss_1_quality``, ...; and ``wallclock_speedup``, ... of those that were timed.
    """
    own = next((row for row in rows if row["point"] == recommended), None)
    metrics: dict[str, float | None] = dict.fromkeys(HEADLINE) if own is None else {}
    shown = {f"{goal}_": row for goal, row in best_at_goals(rows).items()} | ({"": own} if own else {})
    clocked = {tuple(timing[name] for name in KEY): timing["wallclock_speedup"] for timing in timings}
    clock = {}
    for prefix, row in shown.items():
        metrics |= {prefix + name: row.get(name) for name in HEADLINE}
        key = tuple(row_key(row["point"], row["method"]).values())
        if key in clocked:
            clock[f"{prefix}wallclock_speedup"] = clocked[key]
    return metrics, clock


def _counts(exits: np.ndarray, outputs: ExitOutputs) -> dict[str, int]:
    """Return how many rows left at each exit layer."""
    return {str(layer): int((exits == layer).sum()) for layer in outputs.exits}


def _by_tier(
    outputs: ExitOutputs, curve: Curve, exits: np.ndarray, yardstick: Yardstick
) -> dict[str, Any] | None:
    """Return quality, mean exit layer and exit counts of each difficulty tier."""
    if outputs.tiers is None:
        return None
    table = {}
    for tier in np.unique(outputs.tiers):
        rows = outputs.tiers == tier
        answers, labels = curve.predictions[0, rows], outputs.labels[rows]
        table[str(int(tier))] = {
            "quality": float(quality(yardstick.metric, answers, labels, yardstick.num_classes)),
            "mean_exit_layer": float(exits[rows].mean()),
            "count": int(rows.sum()),
            "exit_counts": _counts(exits[rows], outputs),
        }
    return table


def check_agreement(
    rule: ExitRule,
    threshold: float | None,
    outputs: ExitOutputs,
    exits: np.ndarray,
    predictions: np.ndarray,
    certainty_width: float | np.ndarray = 1.0,
    survivors: np.ndarray | None = None,
) -> dict[str, int]:
    """Compare where an engine let rows leave, and its answers, with the offline sweep.

    Rounding may differ between a padded batch and a row alone. Logits agree within 1e-5 of their largest, so a row may
    leave elsewhere only where its score lies that close to the threshold (for a rule that compares classes: where its
    two largest logits lie that close at an exit on its way), and answer otherwise only where its two largest logits do;
    such rows are counted. Certainties, between 0 and 1, agree within 1e-5 before their exit's range is mapped to [0, 1],
    which enlarges rounding as it enlarges them.

    The score of a regression task must be that of the exit at which the row left, up to the same rounding.

    Where tokens are removed, rounding decides for one whose contribution lies at its threshold. Such a row is another one
    from there on and may leave anywhere; but they are few (`MOVED`).

    Parameters
    ----------
    rule, threshold
        What the engine ran.
    outputs
        The same rows, calibrated.
    exits, predictions
        The engine's exit indices, and its classes or scores, ``(N,)``.
    certainty_width
        What divided the certainties, one or ``(E,)``; see `Calibrator.certainty_width`.
    survivors
        The engine's, ``(N, L)``, 0 for layers not run; None where no tokens are removed.

    Returns
    -------
    dict
        ``rows``, ``near_threshold`` (rows that may differ) and ``differing`` (rows that did).

    Raises
    ------
    RuntimeError
        A row differs that may not: engine and sweep are not the same rule. Names the rows. Or too many rows kept other
        tokens.
    """
    moved = _moved(outputs, survivors)
    given = np.array([np.inf if threshold is None else threshold])
    offline = rule.exit_indices(outputs.logits, outputs.certainty, outputs.labels, given)[0]
    logits = outputs.logits[np.arange(len(offline)), offline]
    largest_E = np.abs(outputs.logits).max(
        axis=(0, 2)
    )  # a small temperature enlarges its own exit's rounding only
    tolerance_E = TOLERANCE * np.maximum(1.0, largest_E)
    score_tolerance = TOLERANCE / certainty_width if rule.needs_certainty else tolerance_E
    near = moved | rule.near_threshold(outputs.logits, outputs.certainty, given[0], score_tolerance)
    tolerance = tolerance_E[offline]
    differs = offline != exits
    if logits.shape[-1] > 1:
        near = near | near_tie(logits, tolerance)
        differs = differs | (logits.argmax(-1) != predictions)
    wrong = differs & ~near
    if logits.shape[-1] == 1:
        distance = np.abs(outputs.logits[np.arange(len(exits)), exits, 0] - predictions)
        wrong |= ~(distance <= tolerance_E[exits]) & ~moved
    if wrong.any():
        raise RuntimeError(
            f"rule {rule.name} at {threshold}: the engine left elsewhere or answered otherwise than the offline sweep "
            f"for rows {outputs.ids[wrong].tolist()[:10]}; this is a defect of the engine or of the rule"
        )
    if near.mean() > 0.5:
        logger.warning(
            "rule %s at %s: %d of %d rows lie so close to the threshold that rounding may move them; that engine and sweep "
            "agree says little here",
            rule.name,
            threshold,
            near.sum(),
            len(near),
        )
    return {"rows": len(offline), "near_threshold": int(near.sum()), "differing": int(differs.sum())}


def _moved(outputs: ExitOutputs, survivors: np.ndarray | None) -> np.ndarray:
    """Return which rows kept another number of tokens in the engine than offline, (N,) bool."""
    if survivors is None or outputs.survivors is None:
        return np.zeros(len(outputs.ids), dtype=bool)
    moved = ((survivors != outputs.survivors) & (survivors > 0)).any(1)
    if moved.sum() > max(1, MOVED * len(moved)):
        raise RuntimeError(
            f"the engine kept other tokens than the offline pass in {moved.sum()} of {len(moved)} rows, more than rounding "
            f"explains, e.g. {outputs.ids[moved].tolist()[:10]}; this is a defect of the engine or of the removal"
        )
    return moved
