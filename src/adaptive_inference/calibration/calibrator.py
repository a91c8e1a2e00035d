"""Apply what calibration fitted, at one exit (the engine) or at all of them (the sweep), by the same arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Calibrator:
    """Temperatures and certainty ranges of the E exits, fitted each by itself.

    Computes in float64: the same row gives bit-equal scores whether it is alone or in a batch.
    """

    temperatures: tuple[float, ...]
    certainty_min: tuple[float, ...] | None = None
    certainty_max: tuple[float, ...] | None = None

    @classmethod
    def identity(cls, num_exits: int) -> Calibrator:
        """Return the calibration that changes nothing."""
        return cls((1.0,) * num_exits)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Calibrator:
        """Read the keys that it owns from the content of ``calibration.json``."""
        low, high = body.get("certainty_min"), body.get("certainty_max")
        ranged = low is not None and high is not None
        return cls(
            tuple(body["temperatures"]), tuple(low) if ranged else None, tuple(high) if ranged else None
        )

    def alone(self, k: int) -> Calibrator:
        """Return the calibration of exit index ``k`` as that of a model of one exit."""
        low, high = self.certainty_min, self.certainty_max
        return Calibrator(
            self.temperatures[k : k + 1],
            None if low is None else low[k : k + 1],
            None if high is None else high[k : k + 1],
        )

    @property
    def certainty_width(self) -> np.ndarray:
        """Width of each exit's range, ``(E,)``: what its certainties are divided by; 1 where there is none."""
        if self.certainty_min is None or self.certainty_max is None:
            return np.ones(len(self.temperatures))
        width = np.asarray(self.certainty_max) - np.asarray(self.certainty_min)
        return np.where(width > 0, width, 1.0)

    def logits(self, logits: np.ndarray, k: int | None = None) -> np.ndarray:
        """Divide by the temperature: ``(N, E, C)``, or ``(B, C)`` of exit index ``k``."""
        if k is not None:
            return np.asarray(logits, dtype=np.float64) / self.temperatures[k]
        return np.asarray(logits, dtype=np.float64) / np.asarray(self.temperatures)[:, None]

    def certainty(self, certainty: np.ndarray | None, k: int | None = None) -> np.ndarray | None:
        """Map the calibrated range to [0, 1] and clamp: ``(N, E)``, or ``(B,)`` of exit index ``k``.

        An exit whose range is empty (the same certainty for every calibration row) is left as it is, clamped.
        """
        if certainty is None:
            return None
        value = np.asarray(certainty, dtype=np.float64)
        if self.certainty_min is None or self.certainty_max is None:
            return np.clip(value, 0.0, 1.0)
        low, high, width = (
            np.asarray(self.certainty_min),
            np.asarray(self.certainty_max),
            self.certainty_width,
        )
        low = np.where(high > low, low, 0.0)
        if k is not None:
            low, width = low[k], width[k]
        return np.clip((value - low) / width, 0.0, 1.0)
