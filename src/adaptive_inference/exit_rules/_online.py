"""A rule at one threshold, as the engine asks it: of the rows of a batch, or of one row in plain numbers.

Shapes: B rows of a batch, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from adaptive_inference.errors import UserError


class OnlineRule(ABC):
    """A rule at one threshold, asked once per exit; keeps what it needs to remember of each row."""

    #: Whether it may keep something, so that each batch needs one of its own.
    remembers: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        """See `plain_goes_with_arrays`."""
        super().__init_subclass__()
        plain_goes_with_arrays(cls, "leave", "leave_one", OnlineRule)

    @abstractmethod
    def leave(self, k: int, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        """Say which rows leave at exit index ``k`` (0-based).

        Parameters
        ----------
        k
            Index among the model's exits; asked in order 0, 1, 2, ...
        logits
            Calibrated logits, ``(B, C)``.
        certainty
            Calibrated certainty, ``(B,)``, where the model has certainty heads.

        Returns
        -------
        array of bool, ``(B,)``
        """

    def leave_one(self, k: int, logits: list[float], certainty: float | None = None) -> bool:
        """Say whether a row by itself leaves at exit index ``k``: `leave` in plain numbers, up to rounding.

        Asked in place of `leave`, never beside it. One that makes no arrays is faster at batch 1, see `engine.alone`.
        """
        sure = None if certainty is None else np.array([certainty])
        return bool(self.leave(k, np.array([logits]), sure)[0])

    def select(self, rows: np.ndarray) -> None:  # noqa: B027 - a rule without memory has nothing to do
        """Keep the state of these rows only, in this order (others have left the batch), in new arrays."""

    def merge(self, others: Sequence[Self]) -> None:
        """Take in the state of the rows of other batches, asked as often as this one, behind one's own."""
        if type(self).select is not OnlineRule.select:
            raise UserError(
                f"{type(self).__name__} remembers something of each row and does not say how rows of several batches come "
                "together; give it a `merge` beside its `select`, or answer row by row"
            )


def plain_goes_with_arrays(cls: type, arrays: str, plain: str, base: type) -> None:
    """Let a class that says anew how arrays are judged lose what it inherits for plain numbers, unless it says that too."""
    if arrays in vars(cls) and plain not in vars(cls):
        setattr(cls, plain, vars(base)[plain])


class OnlineStreak(OnlineRule):
    """Leaves at the exit that completes a run of ``needed`` consecutive exits that hold.

    Whether an exit holds depends on its own logits and, where the rule ``compares``, on those of the exit before: then
    the first exit never holds. So an engine may look at a run from its newest exit backwards, see `engine.looks`.

    Parameters
    ----------
    needed
        Length of the run; infinity never fires.
    """

    compares: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """See `plain_goes_with_arrays`."""
        super().__init_subclass__()
        plain_goes_with_arrays(cls, "holds", "holds_one", OnlineStreak)

    def __init__(self, needed: float) -> None:
        self.needed = needed
        self._run_B: np.ndarray | None = None
        self._older: np.ndarray | None = None
        self._run_one, self._older_one = 0, None  # of a row by itself

    @abstractmethod
    def holds(self, older: np.ndarray | None, newer: np.ndarray) -> np.ndarray:
        """Say which rows hold, ``(B,)``, from the logits ``(B, C)`` of the exit before and of the exit itself."""

    def leave(self, k: int, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        """Lengthen each row's run or start it anew; see `OnlineRule.leave`."""
        if self._run_B is None:
            self._run_B = np.zeros(len(logits), np.int64)
        if not (self.compares and self._older is None):
            self._run_B = (self._run_B + 1) * self.holds(self._older, logits)
        self._older = logits
        return self._run_B == self.needed

    def holds_one(self, older: list[float] | None, newer: list[float]) -> bool:
        """Say whether a row by itself holds: `holds` in plain numbers."""
        before = None if older is None else np.array([older])
        return bool(self.holds(before, np.array([newer]))[0])

    def leave_one(self, k: int, logits: list[float], certainty: float | None = None) -> bool:
        """Lengthen the row's run or start it anew; see `OnlineRule.leave_one`."""
        if not (self.compares and self._older_one is None):
            self._run_one = self._run_one + 1 if self.holds_one(self._older_one, logits) else 0
        self._older_one = logits
        return self._run_one == self.needed

    def select(self, rows: np.ndarray) -> None:
        """Keep the runs of these rows; see `OnlineRule.select`."""
        if self._run_B is not None and self._older is not None:
            self._run_B, self._older = self._run_B[rows], self._older[rows]

    def merge(self, others: Sequence[Self]) -> None:
        """Put the runs of other rows behind one's own; see `OnlineRule.merge`."""
        if self._run_B is not None and self._older is not None:
            every = [self, *others]
            self._run_B = np.concatenate([item._run_B for item in every])
            self._older = np.concatenate([item._older for item in every])
