"""Leave when the model's own estimate of being right is high enough (LTE; SWEET note, section 1.5)."""

from __future__ import annotations

import numpy as np

from adaptive_inference.exit_rules.base import ScoreRule


class LearningToExit(ScoreRule):
    """Certainty of the exit's second head after min-max calibration, in [0, 1], ``>=`` threshold."""

    needs_certainty = True
    limits = (0.0, 1.01)

    def score(self, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        """Return the calibrated certainty."""
        if certainty is None:
            self.check("classification", has_certainty=False)
        return np.asarray(certainty, dtype=np.float64)

    def score_one(self, logits: list[float], certainty: float | None) -> float:
        """Return the calibrated certainty of one row."""
        if certainty is None:
            self.check("classification", has_certainty=False)
        return certainty

    def grid(self, num_classes: int, count: int, num_exits: int) -> np.ndarray:
        """Return an even grid from 0 to 1, then 1.01."""
        return np.append(np.linspace(0.0, 1.0, count - 1), 1.01)


RULE = LearningToExit()
