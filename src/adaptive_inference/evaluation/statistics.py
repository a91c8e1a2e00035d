"""Percentile bootstrap over rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adaptive_inference.tasks.quality import quality

LEVEL = 0.95
CHUNK = 100  #: resamples held at once


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], rows: int, resamples: int, seed: int
) -> tuple[float | None, float | None]:
    """Return the 95 % percentile interval of a statistic under resampling of rows with replacement.

    Parameters
    ----------
    statistic
        From row indices ``(R, N)`` to values ``(R,)``: paired quantities are resampled together by indexing both.
    rows
        N.
    resamples
        R; 0 gives no interval.
    seed
        Of the generator: the same seed, the same interval.

    Returns
    -------
    low, high : float or None
    """
    if resamples == 0 or rows == 0:
        return None, None
    generator = np.random.default_rng(seed)
    values = [
        statistic(generator.integers(0, rows, (min(CHUNK, resamples - start), rows)))
        for start in range(0, resamples, CHUNK)
    ]
    low, high = np.quantile(np.concatenate(values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def loss_in_points(
    metric: str,
    full: np.ndarray,
    own: np.ndarray,
    labels: np.ndarray,
    classes: int,
    resamples: int,
    seed: int,
) -> tuple[float, float | None, float | None]:
    """Return what answers lose against the full model's, in points (hundredths of quality), with its 95 % interval.

    Parameters
    ----------
    metric, classes
        See `quality`.
    full, own, labels
        ``(N,)``; both models' rows are resampled together.
    resamples, seed
        See `bootstrap`.
    """

    def lost(rows: np.ndarray) -> np.ndarray:
        before, after = (quality(metric, item[rows], labels[rows], classes) for item in (full, own))
        return 100.0 * (np.asarray(before) - np.asarray(after))

    low, high = bootstrap(lost, len(labels), resamples, seed)
    return float(lost(np.arange(len(labels)))), low, high
