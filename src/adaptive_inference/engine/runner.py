"""What an engine needs of whatever runs a model's layers. Exits are named by their index, from 0.

Shapes: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

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


class Runner(Protocol):
    """Starts batches; keeps nothing of them itself.

    Attributes
    ----------
    cuts
        Exits at which a batch can be stopped, ascending; the last is the model's last.
    looks_back
        Whether `Run.answer` works.
    waits
        Whether each call for answers waits for a device, so that a few more at once cost less than a second call.
    """

    cuts: tuple[int, ...]
    looks_back: bool
    waits: bool

    def start(self, features: Mapping[str, Any]) -> AbstractContextManager[Run]:
        """Take in a batch, see `Engine.run`; it is under way for as long as the context is entered."""
