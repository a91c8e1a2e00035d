"""Curves of quality against cost: area, ELUE score, mean and spread over seeds. Pure functions of arrays.

Cost is a share of the full model's, 1 / speed-up. Between two points a curve is the straight line *in cost*, not in
speed-up: a random mixture of two thresholds costs the mixture of their costs, so every point of the line could be
reached. Points of equal cost count as their mean, for the same reason. Where more cost gives less quality the curve
goes down: taking the best so far would choose on the split that is reported. Nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptive_pipeline.reporting.measures import std

#: Shares of the full model's FLOPs at which methods are scored: evenly spaced, so that no region weighs more because a
#: rule's thresholds crowd there (pabee_leebert.md, section 6).
SHARES = np.arange(1, 21) / 20


@dataclass(frozen=True)
class CostCurve:
    """Quality at each of P increasing costs."""

    cost: np.ndarray  #: (P,)
    quality: np.ndarray  #: (P,)

    def covers(self, low: float, high: float) -> bool:
        """Return whether all costs from ``low`` to ``high`` lie between points of the curve."""
        return bool(self.cost[0] <= low and high <= self.cost[-1])

    def at(self, cost: np.ndarray) -> np.ndarray:
        """Return the interpolated quality; only for costs that the curve covers."""
        return np.interp(cost, self.cost, self.quality)


def cost_curve(speedup: Sequence[float | None], quality: Sequence[float | None]) -> CostCurve | None:
    """Return the curve through points given by speed-up, in any order; None where none of them was measured."""
    points = np.array([speedup, quality], dtype=float)
    cost, values = 1.0 / points[0], points[1]
    measured = ~np.isnan(points).any(axis=0)
    if not measured.any():
        return None
    cost, inverse = np.unique(cost[measured], return_inverse=True)
    total = np.bincount(inverse, weights=values[measured])
    return CostCurve(cost, total / np.bincount(inverse))


def common_range(curves: Sequence[CostCurve]) -> tuple[float, float] | None:
    """Return the costs that all curves cover, or None where they share none."""
    if not curves:
        return None
    low, high = max(curve.cost[0] for curve in curves), min(curve.cost[-1] for curve in curves)
    return (float(low), float(high)) if low <= high else None


def area_under(curve: CostCurve, low: float, high: float) -> float | None:
    """Return the area under a curve from ``low`` to ``high`` divided by its width: a mean quality.

    None where the curve does not cover the range, or the range has no width.
    """
    if not low < high or not curve.covers(low, high):
        return None
    inside = curve.cost[(curve.cost > low) & (curve.cost < high)]
    cost = np.concatenate([[low], inside, [high]])
    return float(np.trapezoid(curve.at(cost), cost) / (high - low))


@dataclass(frozen=True)
class Elue:
    """A score, how many points it is the mean of, and how many lay outside the baseline's costs."""

    score: float | None
    used: int
    excluded: int


def elue_score(points: CostCurve, baseline: CostCurve) -> Elue:
    """Return the mean of (quality - the baseline's quality at the same cost) over points (pabee_leebert.md, section 6).

    Undefined outside the baseline's costs: such points are left out and counted; None where none is left.
    """
    inside = (points.cost >= baseline.cost[0]) & (points.cost <= baseline.cost[-1])
    used = int(inside.sum())
    gained = points.quality[inside] - baseline.at(points.cost[inside])
    return Elue(float(gained.mean()) if used else None, used, len(inside) - used)


def at_shares(curve: CostCurve, shares: np.ndarray = SHARES) -> CostCurve:
    """Return the curve's own points at the given costs, those that it covers."""
    reached = shares[(shares >= curve.cost[0]) & (shares <= curve.cost[-1])]
    return CostCurve(reached, curve.at(reached))


# ---- several seeds ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """Quality against speed-up over seeds, from slow to fast."""

    speedup: np.ndarray  #: (G,)
    mean: np.ndarray  #: (G,)
    std: np.ndarray | None  #: (G,), n - 1; None for one seed
    seeds: int


def band(
    speedups: Sequence[Sequence[float]], qualities: Sequence[Sequence[float]], points: int = 200
) -> Band | None:
    """Interpolate the curves of the seeds on a common grid.

    The grid covers the costs that all seeds reach; nothing is extrapolated.

    Parameters
    ----------
    speedups, qualities
        One sequence per seed, each over its own thresholds.
    points
        Of the grid.

    Returns
    -------
    Band or None
        None where no seed has a curve, or their costs do not overlap.
    """
    found = [cost_curve(speedup, quality) for speedup, quality in zip(speedups, qualities, strict=True)]
    curves = [curve for curve in found if curve is not None]
    reached = common_range(curves)
    if reached is None:
        return None
    low, high = reached
    grid = np.linspace(high, low, points if high > low else 1)
    values = np.stack([curve.at(grid) for curve in curves])
    spread = np.apply_along_axis(std, 0, values) if len(curves) > 1 else None
    return Band(1.0 / grid, values.mean(axis=0), spread, len(curves))
