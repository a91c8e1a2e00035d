"""Leave at one exit, whatever the row: single exits, and full depth."""

from __future__ import annotations

import numpy as np

from adaptive_inference.exit_rules.base import ExitRule, OnlineRule, whole_numbers


class Fixed(ExitRule):
    """Threshold = exit index (0-based); None, or one past the end, is the last exit."""

    kinds = ("classification", "regression")

    def grid(self, num_classes: int, count: int, num_exits: int) -> np.ndarray:
        """Return every exit index."""
        return np.arange(num_exits, dtype=np.float64)

    def check_threshold(self, threshold: float, num_classes: int) -> None:
        """Refuse what is no index; see `ExitRule.check_threshold`."""
        whole_numbers(self, threshold, least=0)

    def exit_indices(
        self,
        logits: np.ndarray,
        certainty: np.ndarray | None,
        labels: np.ndarray | None,
        thresholds: np.ndarray,
    ) -> np.ndarray:
        """Return the clipped thresholds for all rows."""
        index = np.clip(np.ceil(np.asarray(thresholds, dtype=np.float64)), 0, logits.shape[1] - 1).astype(
            np.int64
        )
        return np.repeat(index[:, None], len(logits), axis=1)

    def decides(self, threshold: float | None, num_exits: int) -> range:
        """Return the exit itself; see `ExitRule.decides`."""
        last = num_exits - 1
        stop = last if threshold is None else int(np.clip(np.ceil(threshold), 0, last))
        return range(stop, min(stop + 1, last))

    def online(self, threshold: float | None) -> OnlineRule:
        """Return the comparison of the exit index."""
        return _OnlineFixed(np.inf if threshold is None else float(threshold))


class _OnlineFixed(OnlineRule):
    remembers = False

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def leave(self, k: int, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        return np.full(len(logits), k >= self.threshold)

    def leave_one(self, k: int, logits: list[float], certainty: float | None = None) -> bool:
        return k >= self.threshold


RULE = Fixed()
