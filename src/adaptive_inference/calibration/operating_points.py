"""Choose thresholds by a stated goal, on the calibration split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptive_inference.calibration.risk_control import certify, hoeffding_bentkus

ROUNDING = 1e-9  #: a goal met up to float rounding is met


def choose(
    rule: str,
    thresholds: np.ndarray,
    quality: np.ndarray,
    layers_speedup: np.ndarray,
    full_quality: float,
    max_loss: float,
    min_speedup: Sequence[float],
) -> list[dict[str, Any]]:
    """Return one operating point per goal; where no threshold qualifies, one that says so.

    ``max_loss_X``: the most layers saved with quality >= ``full_quality`` - X / 100 (ties: better quality).
    ``min_speedup_Y``: the best quality with ``layers_speedup`` >= Y (ties: more layers saved).

    Parameters
    ----------
    rule
        Name of the rule that the thresholds belong to.
    thresholds, quality, layers_speedup
        The rule's curve on the calibration split, each ``(T,)``.
    full_quality
        Quality of the full model on the same rows, a fraction.
    max_loss
        Points (hundredths) that may be lost.
    min_speedup
        Least ratios of layers, each a goal.
    """
    thresholds, quality, layers_speedup = map(np.asarray, (thresholds, quality, layers_speedup))

    def pick(name: str, allowed: np.ndarray, first: np.ndarray, then: np.ndarray) -> dict[str, Any]:
        if not allowed.any():
            return point(name, rule, None, None, None, False)
        # lexsort takes the last key first; a stable sort of the negated keys keeps the grid's order on ties.
        best = next(i for i in np.lexsort((-then, -first)) if allowed[i])
        return point(name, rule, thresholds[best], quality[best], layers_speedup[best], True)

    enough = quality >= full_quality - max_loss / 100 - ROUNDING
    points = [pick(f"max_loss_{max_loss:g}", enough, layers_speedup, quality)]
    for ratio in min_speedup:
        fast = layers_speedup >= ratio - ROUNDING
        points.append(pick(f"min_speedup_{ratio:g}", fast, quality, layers_speedup))
    return points


def risk_point(
    rule: str,
    thresholds: np.ndarray,
    quality: np.ndarray,
    layers_speedup: np.ndarray,
    losses: np.ndarray,
    delta: float,
    epsilon: float,
) -> dict[str, Any]:
    """Return ``risk_DELTA``: the fastest threshold whose risk is certified, or one that says that none is.

    Parameters
    ----------
    rule, thresholds, quality, layers_speedup
        As in `choose`, from the fastest to the slowest (`ExitRule.grid`).
    losses
        Of the rows that certify, ``(T, N)`` in [0, 1]; see `risk_control.LOSSES`.
    delta, epsilon
        See `risk_control.certify`.

    Returns
    -------
    dict
        As `point`, with ``epsilon``, the observed ``risk`` on the ``rows`` that certify, and its ``p_value``; those of the
        slowest threshold, where the walk ended at once, if none qualifies.
    """
    safest_first = losses[::-1]
    found = certify(safest_first, delta, epsilon)
    risk, rows = float(safest_first[found or 0].mean()), losses.shape[1]
    evidence = {
        "epsilon": epsilon,
        "risk": risk,
        "rows": rows,
        "p_value": float(hoeffding_bentkus(risk, rows, delta)),
    }
    name = f"risk_{delta:g}"
    if found is None:
        return point(name, rule, None, None, None, False) | evidence
    best = len(losses) - 1 - found
    return point(name, rule, thresholds[best], quality[best], layers_speedup[best], True) | evidence


def static_points(
    layers: Sequence[int], quality: Sequence[float], num_layers: int, full_quality: float, max_loss: float
) -> list[dict[str, Any]]:
    """Return one point per member of a cascade when it answers alone: the first-K-layers baselines.

    ``threshold`` is the member's index.
    """
    return [
        whole_point(f"static_{depth}", k, score, num_layers / depth, full_quality, max_loss)
        | {"method": f"static_{depth}"}
        for k, (depth, score) in enumerate(zip(layers, quality, strict=True))
    ]


def whole_point(
    name: str, threshold: float, quality: float, layers_speedup: float, full_quality: float, max_loss: float
) -> dict[str, Any]:
    """Return the point of a model that every row runs through: it has figures whatever the goals.

    It qualifies when it keeps the quality that ``max_loss`` asks for.
    """
    least = full_quality - max_loss / 100 - ROUNDING
    return point(name, "fixed", threshold, quality, layers_speedup, quality >= least)


def point(
    name: str,
    rule: str,
    threshold: float | None,
    quality: float | None,
    layers_speedup: float | None,
    qualifies: bool,
) -> dict[str, Any]:
    """Return an operating point as ``calibration.json`` holds it."""
    numbers = {"threshold": threshold, "quality": quality, "layers_speedup": layers_speedup}
    plain = {key: None if value is None else float(value) for key, value in numbers.items()}
    return {"name": name, "rule": rule, "qualifies": bool(qualifies), **plain}


def recommend(points: Sequence[dict[str, Any]], num_exits: int) -> dict[str, Any]:
    """Return the rule and threshold to predict with: the fastest within ``max_loss``; full depth where none is.

    Parameters
    ----------
    points
        Operating points of rules that are attainable, those of members alone left out.
    num_exits
        Exits of the model.
    """
    goals = ("max_loss_", "full", "whole")
    fit = [p for p in points if p["qualifies"] and p["name"].startswith(goals)]
    if not fit:
        whole = "whole" if any(p["name"] == "whole" for p in points) else None
        return {"rule": "fixed", "threshold": float(num_exits - 1), "operating_point": whole}
    best = max(fit, key=lambda p: (p["layers_speedup"], p["quality"]))
    return {"rule": best["rule"], "threshold": best["threshold"], "operating_point": best["name"]}
