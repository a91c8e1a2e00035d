"""What an engine and a stream need of whatever runs a model's layers. Exits are named by their index, from 0.

Shapes: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, Self

import numpy as np


class Answer(NamedTuple):
    """What an exit says of the rows that are still there: float32 logits (B, C), and certainty (B,) or None."""

    logits: np.ndarray
    certainty: np.ndarray | None = None


class Run(Protocol):
    """One batch under way. An exit that was passed is held until it has answered, once, or is released.

    Attributes
    ----------
    survivors
        Where tokens are removed on the way, the tokens that each layer run so far ran on, (B, layers) int64, of the rows
        that are still there; else None.
    """

    survivors: np.ndarray | None

    def advance(self, index: int, answers: Sequence[int] = ()) -> dict[int, Answer]:
        """Run on to an exit, one of the runner's `cuts`, and return what some of the exits that are held answer."""

    def answer(self, indices: Sequence[int]) -> dict[int, Answer]:
        """Return late answers; only asked of a runner that looks back."""

    def release(self, indices: Sequence[int]) -> None:
        """Let go of exits that will not be asked."""

    def select(self, rows: np.ndarray) -> None:
        """Keep some rows, (B',) indices in ascending order; the others have left."""

    def take(self, rows: np.ndarray) -> Self:
        """Return some rows, as `select` would keep them, as a run of their own; this one is left as it was.

        Only asked of a runner that merges.
        """

    def merge(self, others: Sequence[Self]) -> None:
        """Take in all rows of other runs of the same runner, behind one's own, padded to the longest; they are used up.

        All stand at the same exit and hold no exit that was passed; only asked of a runner that merges.
        """


class Single(Protocol):
    """One row under way, in plain numbers; exits may be asked late, and more than once. It enters what inference needs.

    Attributes
    ----------
    survivors
        As of `Run`, (1, layers).
    """

    @property
    def survivors(self) -> np.ndarray | None:
        """See above."""

    def advance(self, index: int) -> None:
        """Run on to an exit, unless it lies behind."""

    def answer(self, index: int) -> tuple[list[float], float | None]:
        """Run on to an exit, and return its logits and, where they are asked for, its certainty."""

    def forget(self, oldest: int) -> None:
        """Let go of exits before one that were passed and will not be asked."""

    def close(self) -> None:
        """Hand back what it uses, and leave what it entered."""


class Runner(Protocol):
    """Starts batches; keeps nothing of them itself.

    Attributes
    ----------
    cuts
        Exits at which a batch can be stopped, ascending; the last is the model's last.
    looks_back
        Whether `Run.answer` works.
    merges
        Whether `Run.take` and `Run.merge` work.
    waits
        Whether each call for answers waits for a device, so that a few more at once cost less than a second call.
    """

    cuts: tuple[int, ...]
    looks_back: bool
    merges: bool
    waits: bool

    def inference(self) -> AbstractContextManager[Any]:
        """Return what is entered around all that is done with runs; no run is bound to the one it was started in."""

    def single(self, features: Mapping[str, Any], ascending: bool) -> Single:
        """Take in a batch of one row.

        Parameters
        ----------
        features
            See `start`.
        ascending
            Whether exits are asked from the first on, so that none is asked that lies behind another.
        """

    def start(self, features: Mapping[str, Any], alone: bool = True) -> Run:
        """Take in a batch, see `Engine.run`.

        Parameters
        ----------
        features
            Of B rows.
        alone
            Whether the run will never be merged with others, so that any form will do.
        """
