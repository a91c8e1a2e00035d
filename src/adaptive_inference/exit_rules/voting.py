"""Leave when enough of the exits so far have named one class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from adaptive_inference.exit_rules._softmax import near_tie, plain_argmax
from adaptive_inference.exit_rules.base import (
    TOLERANCE,
    ExitRule,
    OnlineRule,
    first_firing,
    required,
    up_to_exit,
    whole_numbers,
)


class Voting(ExitRule):
    """Threshold = votes t: leave at the first exit where some class has been predicted by t exits, in a row or not.

    The class that reaches t votes does so by the newest exit's vote, so the newest exit's answer is the elected one:
    engine and sweep answer with the logits of one exit, as for any other rule. Where no class gets t votes the last exit
    answers, not the majority. t = 1 leaves at the first exit, t > E never fires.
    """

    def grid(self, num_classes: int, count: int, num_exits: int) -> np.ndarray:
        """Return 1 to E, whatever ``count``."""
        return np.arange(1, num_exits + 1, dtype=np.float64)

    def exit_indices(
        self,
        logits: np.ndarray,
        certainty: np.ndarray | None,
        labels: np.ndarray | None,
        thresholds: np.ndarray,
    ) -> np.ndarray:
        """Return the first exit at which the leading class has the votes; see `ExitRule.exit_indices`."""
        leading = votes(logits[:, :-1]).cumsum(axis=1).max(-1)
        return first_firing(leading, whole_numbers(self, thresholds, least=1), np.greater_equal)

    def online(self, threshold: float | None) -> OnlineRule:
        """Return the count of votes at one threshold."""
        return _OnlineVoting(float(whole_numbers(self, required(self, threshold), least=1)))

    def near_threshold(
        self,
        logits: np.ndarray,
        certainty: np.ndarray | None,
        threshold: float | None,
        tolerance: float | np.ndarray = TOLERANCE,
    ) -> np.ndarray:
        """Mark rows with a tie of classes before they leave."""
        exits = self.exit_indices(logits, certainty, None, np.array([threshold]))[0]
        return up_to_exit(near_tie(logits, tolerance), exits)

    def never_fires(self, threshold: float, num_exits: int) -> bool:
        """Whether there are fewer exits than votes asked for."""
        return threshold > num_exits


class _OnlineVoting(OnlineRule):
    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.votes_BC: np.ndarray | None = None
        self._votes_one: list[int] = []  # of a row by itself

    def leave(self, k: int, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        new = votes(logits)
        self.votes_BC = new if self.votes_BC is None else self.votes_BC + new
        return self.votes_BC.max(-1) >= self.threshold

    def leave_one(self, k: int, logits: list[float], certainty: float | None = None) -> bool:
        self._votes_one.append(plain_argmax(logits))
        return self._votes_one.count(self._votes_one[-1]) >= self.threshold

    def select(self, rows: np.ndarray) -> None:
        if self.votes_BC is not None:
            self.votes_BC = self.votes_BC[rows]

    def merge(self, others: Sequence[Self]) -> None:
        if self.votes_BC is not None:
            self.votes_BC = np.concatenate([item.votes_BC for item in (self, *others)])


def votes(logits: np.ndarray) -> np.ndarray:
    """Return 1 at the predicted class (the first of equal logits) and 0 elsewhere, ``(..., C) -> (..., C)``."""
    return (logits.argmax(-1)[..., None] == np.arange(logits.shape[-1])).astype(np.int64)


RULE = Voting()
