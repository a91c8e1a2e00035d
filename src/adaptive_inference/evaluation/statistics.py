"""Percentile bootstrap over rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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
