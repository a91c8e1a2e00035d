"""Leave when the entropy is below the threshold (DeeBERT; PABEE/LeeBERT note, section 1.7)."""

from __future__ import annotations

import numpy as np

from adaptive_inference.exit_rules.base import ScoreRule, doubt_grid, entropy_of


class Entropy(ScoreRule):
    """Entropy in nats, not normalised, strictly ``<`` threshold; 0 never fires."""

    name = "entropy"
    fires = np.less

    def score(self, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        """Return the entropy in nats."""
        return entropy_of(logits)

    def grid(self, num_classes: int, count: int, num_exits: int) -> np.ndarray:
        """Return 1.01 ln C down to 0, closer together towards 0."""
        return 1.01 * np.log(num_classes) * doubt_grid(count)


RULE = Entropy()
