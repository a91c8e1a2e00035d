"""Leave when the two largest probabilities differ by at least the threshold."""

from __future__ import annotations

import numpy as np

from adaptive_inference.exit_rules._softmax import plain_exponentials, shifted_exponentials
from adaptive_inference.exit_rules.base import ScoreRule, doubt_grid


class Margin(ScoreRule):
    """Largest minus second largest softmax probability, ``>=`` threshold; 0 on a tie."""

    limits = (0.0, 1.01)

    def score(self, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        """Return the difference of the two largest probabilities."""
        exponentials = shifted_exponentials(logits)[1]
        second = np.partition(exponentials, -2, axis=-1)[..., -2]  # the largest is exactly 1
        return (1.0 - second) / exponentials.sum(-1)

    def score_one(self, logits: list[float], certainty: float | None = None) -> float:
        """Return the difference of the two largest probabilities of one row."""
        exponentials = plain_exponentials(logits)[1]
        return (1.0 - sorted(exponentials)[-2]) / sum(exponentials)

    def grid(self, num_classes: int, count: int, num_exits: int) -> np.ndarray:
        """Return 0 to 1, closer together towards 1, then 1.01."""
        return np.append(1.0 - doubt_grid(count - 1), 1.01)


RULE = Margin()
