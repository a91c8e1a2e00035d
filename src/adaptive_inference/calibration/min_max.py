"""Range of the certainty heads on the calibration split (SWEET note, section 1.5)."""

from __future__ import annotations

import numpy as np


def fit_min_max(certainty: np.ndarray) -> tuple[list[float], list[float]]:
    """Return each exit's least and greatest certainty, ``(N, E) -> (E,), (E,)``; see `Calibrator.certainty`."""
    certainty = np.asarray(certainty, dtype=np.float64)
    return certainty.min(0).tolist(), certainty.max(0).tolist()
