"""Leave when the largest probability is at least the threshold (SWEET note, section 1.7)."""

from __future__ import annotations

from math import exp

import numpy as np

from adaptive_inference.exit_rules._softmax import shifted_exponentials
from adaptive_inference.exit_rules.base import ScoreRule, doubt_grid


class Confidence(ScoreRule):
    """Largest softmax probability ``>=`` threshold.

    The probability is computed as ``1 / sum exp(z - max z)``. Each term is at most 1 and one is exactly 1, so that
    after any rounding it lies in ``[1 / C, 1]``: a threshold of ``1 / C`` sends every row out at the first exit, exact
    ties included, and one above 1 sends every row through the whole model.
    """

    limits = (0.0, 1.01)

    def score(self, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        """Return the largest probability."""
        return 1.0 / shifted_exponentials(logits)[1].sum(-1)

    def score_one(self, logits: list[float], certainty: float | None = None) -> float:
        """Return the largest probability of one row."""
        most, total = max(logits), 0.0
        for value in logits:
            total += exp(value - most)
        return 1.0 / total

    def grid(self, num_classes: int, count: int, num_exits: int) -> np.ndarray:
        """Return ``1 / C`` to 1, closer together towards 1, then 1.01."""
        inner = 1.0 - (1.0 - 1.0 / num_classes) * doubt_grid(count - 1)
        inner[0] = 1.0 / num_classes
        return np.append(inner, 1.01)


RULE = Confidence()
