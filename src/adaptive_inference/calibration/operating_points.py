"""Choose operating points by stated goals, from curves on the calibration split. Loads neither torch nor SciPy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from adaptive_inference.calibration.operating_point import (
    ROUNDING,
    Goal,
    OperatingPoint,
    Seen,
    Setting,
    best_point,
)
from adaptive_inference.exit_rules import load_rule

if TYPE_CHECKING:
    from adaptive_inference.calibration.curves import Curve


def choose(goal: Goal, rule: str, curve: Curve, full_quality: float) -> OperatingPoint:
    """Return the best threshold that meets a goal, the first of equals; where none does, a point that says so.

    Parameters
    ----------
    goal
        ``max_loss`` or ``min_speedup``; the best is told by `operating_point.rank`.
    rule
        Name of the rule that the curve belongs to.
    curve
        On the calibration split; with FLOPs where they are the goal's currency.
    full_quality
        Quality of the full model on the same rows, a fraction.
    """
    found = best_point(
        (point_at(goal, rule, curve, t, full_quality) for t in range(len(curve.thresholds))), _itself
    )
    return found or OperatingPoint(goal, Setting(rule, None), False)


def point_at(goal: Goal, rule: str, curve: Curve, t: int, full_quality: float) -> OperatingPoint:
    """Return the point of the curve's threshold of index ``t``."""
    seen = curve.seen(t)
    return OperatingPoint(
        goal, Setting(rule, float(curve.thresholds[t])), meets(goal, seen, full_quality), seen
    )


def meets(goal: Goal, seen: Seen, full_quality: float) -> bool:
    """Return whether what was seen meets a goal of quality or of speed."""
    wanted = goal.value or 0.0
    if goal.kind == "min_speedup":
        return (seen.speedup(goal.cost) or 0.0) >= wanted - ROUNDING
    return seen.quality >= full_quality - wanted / 100 - ROUNDING


def risk_point(goal: Goal, rule: str, curve: Curve, losses: np.ndarray, epsilon: float) -> OperatingPoint:
    """Return the fastest threshold whose risk is certified, or a point that says that none is.

    Parameters
    ----------
    goal
        ``risk``; its value is delta, see `risk_control.certify`.
    rule, curve
        As in `choose`, from the fastest to the slowest (`ExitRule.grid`).
    losses
        Of the rows that certify, ``(T, N)`` in [0, 1]; see `risk_control.LOSSES`.
    epsilon
        See `risk_control.certify`.

    Returns
    -------
    OperatingPoint
        With the evidence ``epsilon``, the observed ``risk`` on the ``rows`` that certify, and its ``p_value``; those of the
        slowest threshold, where the walk ended at once, if none qualifies.
    """
    from adaptive_inference.calibration.risk_control import certify, hoeffding_bentkus

    safest_first, delta = losses[::-1], goal.value or 0.0
    found = certify(safest_first, delta, epsilon)
    risk, rows = float(safest_first[found or 0].mean()), losses.shape[1]
    p_value = float(hoeffding_bentkus(risk, rows, delta))
    evidence = {"epsilon": epsilon, "risk": risk, "rows": rows, "p_value": p_value}
    if found is None:
        return OperatingPoint(goal, Setting(rule, None), False, None, evidence)
    best = len(losses) - 1 - found
    setting = Setting(rule, float(curve.thresholds[best]))
    return OperatingPoint(goal, setting, True, curve.seen(best), evidence)


def recommend(points: Iterable[OperatingPoint]) -> OperatingPoint | None:
    """Return the point to predict with: the cheapest of the model's own that keep the quality.

    Where none keeps it, that of a model of one exit all the same, since it is all that there is; else None: the whole
    model answers. Members alone, rules that look at labels, and certified risks (a choice among rules would void the
    promise) are never recommended.
    """
    own = [
        point
        for point in points
        if point.setting.member is None
        and point.goal.keeps_quality
        and load_rule(point.setting.rule).attainable
    ]
    return best_point(own, _itself) or next((point for point in own if point.goal.kind == "whole"), None)


def _itself(point: OperatingPoint) -> OperatingPoint:
    return point
