"""Leave when the entropy is below the threshold (DeeBERT; PABEE/LeeBERT note, section 1.7)."""

from __future__ import annotations

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules._softmax import entropy_of, plain_entropy
from adaptive_inference.exit_rules.base import ScoreRule, doubt_grid


class Entropy(ScoreRule):
    """Entropy in nats, not normalised, strictly ``<`` threshold; 0 never fires."""

    fires = np.less

    def score(self, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        """Return the entropy in nats."""
        return entropy_of(logits)

    def score_one(self, logits: list[float], certainty: float | None = None) -> float:
        """Return the entropy in nats of one row."""
        return plain_entropy(logits)

    def grid(self, num_classes: int, count: int, num_exits: int) -> np.ndarray:
        """Return 1.01 ln C down to 0, closer together towards 0."""
        return 1.01 * np.log(num_classes) * doubt_grid(count)

    def check_threshold(self, threshold: float, num_classes: int) -> None:
        """Refuse a threshold above ln C: no entropy reaches it, so it is most likely in other units."""
        if threshold > np.log(num_classes):
            raise UserError(
                f"entropy threshold {threshold:g} is above ln {num_classes} = {np.log(num_classes):.4g}, the largest "
                f"entropy of {num_classes} classes in nats: every row would leave at the first exit; give less, or rule "
                "fixed with threshold 0 if that is wanted"
            )


RULE = Entropy()
