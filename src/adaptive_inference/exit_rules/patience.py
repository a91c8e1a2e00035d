"""Leave when successive exits have agreed often enough (PABEE; PABEE/LeeBERT note, section 1.7)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules._softmax import near_tie, plain_argmax
from adaptive_inference.exit_rules.base import (
    TOLERANCE,
    ExitRule,
    OnlineStreak,
    first_firing,
    required,
    up_to_exit,
    whole_numbers,
)


@dataclass(frozen=True)
class Patience(ExitRule):
    """Threshold = patience t: leave at the exit that completes t agreements in a row with the exit before.

    Classes agree when they are the same (of equal logits the first counts), scores when they differ by strictly less
    than ``tolerance``. Counted are the model's exits, not its layers. The earliest exit is the one after t others;
    t = E - 1 fires at the last exit only and t >= E never; t = 0 is no rule at all: the last exit answers.

    Attributes
    ----------
    tolerance
        Of a regression task, in the units of its score; not read for classes. The reference's default, 0, never fires;
        its read-me gives 0.1 for STS-B's scores of 0 to 5, our default.
    """

    tolerance: float = 0.1
    kinds = ("classification", "regression")

    def __post_init__(self) -> None:
        """Refuse a tolerance that is no distance."""
        if not 0 <= self.tolerance < np.inf:
            raise UserError(
                f"tolerance {self.tolerance:g} of exit rule 'patience' must be 0 or more, e.g. 0.1"
            )

    def grid(self, num_classes: int, count: int, num_exits: int) -> np.ndarray:
        """Return 1 to E - 1, whatever ``count``; 0 for a single exit."""
        return np.arange(min(1, num_exits - 1), num_exits, dtype=np.float64)

    def agree(self, older: np.ndarray, newer: np.ndarray) -> np.ndarray:
        """Say where two answers agree, ``(..., C) -> (...)``; C = 1 is a score."""
        if newer.shape[-1] == 1:
            return np.abs(newer - older)[..., 0] < self.tolerance
        return older.argmax(-1) == newer.argmax(-1)

    def exit_indices(
        self,
        logits: np.ndarray,
        certainty: np.ndarray | None,
        labels: np.ndarray | None,
        thresholds: np.ndarray,
    ) -> np.ndarray:
        """Return the first exit whose count of agreements reaches the patience; see `ExitRule.exit_indices`."""
        inner = logits[:, :-1]
        counter = np.zeros(inner.shape[:2], dtype=np.int64)
        agree = self.agree(inner[:, :-1], inner[:, 1:])
        for k in range(1, inner.shape[1]):
            counter[:, k] = (counter[:, k - 1] + 1) * agree[:, k - 1]
        return first_firing(counter, self._needed(thresholds), np.greater_equal)

    def online(self, threshold: float | None) -> OnlineStreak:
        """Return the counter at one patience."""
        return _OnlinePatience(self, _needed(self, required(self, threshold)))

    def near_threshold(
        self,
        logits: np.ndarray,
        certainty: np.ndarray | None,
        threshold: float | None,
        tolerance: float | np.ndarray = TOLERANCE,
    ) -> np.ndarray:
        """Mark rows with a tie of classes, or a difference of scores near the tolerance, before they leave."""
        exits = self.exit_indices(logits, certainty, None, np.array([threshold]))[0]
        if logits.shape[-1] > 1:
            return up_to_exit(near_tie(logits, tolerance), exits)
        tolerance_E = np.broadcast_to(tolerance, logits.shape[1:2])
        close = np.zeros(logits.shape[:2], dtype=bool)
        off = np.abs(np.abs(np.diff(logits[..., 0], axis=1)) - self.tolerance)
        close[:, 1:] = off <= np.maximum(tolerance_E[1:], tolerance_E[:-1])
        return up_to_exit(close, exits)

    def never_fires(self, threshold: float, num_exits: int) -> bool:
        """Whether the patience is at least the number of exits."""
        return threshold >= num_exits

    def check(self, kind: str, has_certainty: bool) -> None:
        """Refuse also a regression without tolerance."""
        super().check(kind, has_certainty)
        if kind == "regression" and self.tolerance == 0:
            raise UserError(
                "exit rule 'patience(tolerance=0.0)' never fires on a regression task, as scores must differ by less "
                "than the tolerance; give one above 0 in the units of the score, e.g. patience(tolerance=0.2)"
            )

    def _needed(self, thresholds: np.ndarray | float) -> np.ndarray:
        counts = whole_numbers(self, thresholds, least=0)
        return np.where(counts == 0, np.inf, counts)


@cache  # asked once for every batch
def _needed(rule: Patience, threshold: float) -> float:
    return float(rule._needed(threshold))


class _OnlinePatience(OnlineStreak):
    compares = True

    def __init__(self, rule: Patience, needed: float) -> None:
        super().__init__(needed)
        self.rule = rule

    def holds(self, older: np.ndarray, newer: np.ndarray) -> np.ndarray:
        return self.rule.agree(older, newer)

    def holds_one(self, older: list[float], newer: list[float]) -> bool:
        if len(newer) == 1:
            return abs(newer[0] - older[0]) < self.rule.tolerance
        return plain_argmax(older) == plain_argmax(newer)


RULE = Patience()
