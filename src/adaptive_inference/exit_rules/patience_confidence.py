"""Leave when several exits in a row were sure enough (PCEE-BERT, version 1; PABEE/LeeBERT note, section 1.7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules._softmax import normalised_entropy, plain_normalised_entropy
from adaptive_inference.exit_rules.base import (
    TOLERANCE,
    ExitRule,
    OnlineStreak,
    doubt_grid,
    first_firing,
    required,
    up_to_exit,
)


@dataclass(frozen=True)
class PatienceConfidence(ExitRule):
    """Normalised entropy strictly ``<`` threshold at ``patience`` exits in a row; their classes are not compared.

    The threshold that is swept is the entropy's, so that a curve is fine-grained; the patience is the option. The
    earliest exit is number ``patience``, and a patience of more than the number of exits never fires.

    Attributes
    ----------
    patience
        Exits in a row, from 1 (which is `uncertainty` with a strict comparison).
    """

    patience: int = 2

    def __post_init__(self) -> None:
        """Refuse a patience that counts nothing."""
        if self.patience < 1:
            raise UserError(f"patience {self.patience} of exit rule 'patience_confidence' must be 1 or more")

    def grid(self, num_classes: int, count: int, num_exits: int) -> np.ndarray:
        """Return 1.01 down to 0, closer together towards 0."""
        return 1.01 * doubt_grid(count)

    def exit_indices(
        self,
        logits: np.ndarray,
        certainty: np.ndarray | None,
        labels: np.ndarray | None,
        thresholds: np.ndarray,
    ) -> np.ndarray:
        """Return the first exit at which the least sure of the last ones is sure enough; see `ExitRule.exit_indices`."""
        doubt = normalised_entropy(logits[:, :-1])
        worst = np.full(doubt.shape, np.inf)
        if self.patience <= doubt.shape[1]:
            windows = np.lib.stride_tricks.sliding_window_view(doubt, self.patience, axis=1)
            worst[:, self.patience - 1 :] = windows.max(-1)
        return first_firing(worst, thresholds, np.less)

    def online(self, threshold: float | None) -> OnlineStreak:
        """Return the counter at one threshold."""
        return _OnlineSure(self.patience, required(self, threshold))

    def near_threshold(
        self,
        logits: np.ndarray,
        certainty: np.ndarray | None,
        threshold: float | None,
        tolerance: float | np.ndarray = TOLERANCE,
    ) -> np.ndarray:
        """Mark rows with an entropy within ``tolerance`` of the threshold before they leave."""
        exits = self.exit_indices(logits, certainty, None, np.array([threshold]))[0]
        return up_to_exit(np.abs(normalised_entropy(logits) - threshold) <= tolerance, exits)

    def never_fires(self, threshold: float, num_exits: int) -> bool:
        """Whether the patience is more than the number of exits."""
        return self.patience > num_exits


class _OnlineSure(OnlineStreak):
    def __init__(self, needed: int, threshold: float) -> None:
        super().__init__(needed)
        self.threshold = threshold

    def holds(self, older: np.ndarray | None, newer: np.ndarray) -> np.ndarray:
        return normalised_entropy(newer) < self.threshold

    def holds_one(self, older: list[float] | None, newer: list[float]) -> bool:
        return plain_normalised_entropy(newer) < self.threshold


RULE = PatienceConfidence()
