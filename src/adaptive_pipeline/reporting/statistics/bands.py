"""Curves of several seeds on one grid of cost: mean and spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptive_pipeline.reporting.statistics.curve_area import common_range, cost_curve


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

    Linear in cost, see `curve_area`. The grid covers the costs that all seeds reach; nothing is extrapolated.

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
    std = values.std(axis=0, ddof=1) if len(curves) > 1 else None
    return Band(1.0 / grid, values.mean(axis=0), std, len(curves))
