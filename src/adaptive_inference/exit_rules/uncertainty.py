"""Leave when the normalised entropy is at most the threshold, FastBERT's "speed" (note, section 1.7)."""

from __future__ import annotations

import numpy as np

from adaptive_inference.exit_rules._softmax import normalised_entropy, plain_normalised_entropy
from adaptive_inference.exit_rules.base import ScoreRule, doubt_grid


class Uncertainty(ScoreRule):
    """Entropy divided by ln C, in [0, 1], ``<=`` threshold."""

    fires = np.less_equal
    limits = (-0.01, 1.0)

    def score(self, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        """Return the normalised entropy."""
        return normalised_entropy(logits)

    def score_one(self, logits: list[float], certainty: float | None = None) -> float:
        """Return the normalised entropy of one row."""
        return plain_normalised_entropy(logits)

    def grid(self, num_classes: int, count: int, num_exits: int) -> np.ndarray:
        """Return 1 down to 0, closer together towards 0, then -0.01."""
        return np.append(doubt_grid(count - 1), -0.01)


RULE = Uncertainty()
