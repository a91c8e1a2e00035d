"""Curves of several seeds on one grid of cost: mean and spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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

    Linear in *cost* (1 / speed-up), not in speed-up: a mixture of two thresholds costs the mixture of their costs, so
    every interpolated point could be reached. The grid covers the costs that all seeds reach; nothing is extrapolated.

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
    curves = []
    for speedup, quality in zip(speedups, qualities, strict=True):
        pairs = [(1.0 / s, q) for s, q in zip(speedup, quality, strict=True) if s and q is not None]
        if pairs:
            cost, inverse = np.unique(np.array([c for c, _ in pairs]), return_inverse=True)
            total = np.bincount(inverse, weights=np.array([q for _, q in pairs]))
            curves.append((cost, total / np.bincount(inverse)))
    if not curves:
        return None
    low, high = max(cost[0] for cost, _ in curves), min(cost[-1] for cost, _ in curves)
    if low > high:
        return None
    grid = np.linspace(high, low, points if high > low else 1)
    values = np.stack([np.interp(grid, cost, quality) for cost, quality in curves])
    std = values.std(axis=0, ddof=1) if len(curves) > 1 else None
    return Band(1.0 / grid, values.mean(axis=0), std, len(curves))
