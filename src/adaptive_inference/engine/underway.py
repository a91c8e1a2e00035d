"""Rows of one batch on their way from exit to exit: who is still there, and what those who left were answered.

Shapes: B rows that are carried, n rows that left, C classes, L layers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from adaptive_inference.engine.looks import EveryExit, Look
from adaptive_inference.engine.runner import Run


class Decisions(NamedTuple):
    """Where the rows of a batch left, in the order in which they came.

    Attributes
    ----------
    logits
        (B, C) float32, of the exit that answered each row, before temperature.
    exit_indices
        (B,), positions of the exits, from 0.
    exit_layers
        (B,), layers before the exits, 1 to L (of a multi-model: of the member that answered).
    survivors
        (B, L) int64, the tokens that each layer ran on, 0 for layers that were not run; None where the model removes
        no tokens.
    """

    logits: np.ndarray
    exit_indices: np.ndarray
    exit_layers: np.ndarray
    survivors: np.ndarray | None = None


class Left(NamedTuple):
    """Rows that left at one exit: their places (n,), the exit, its logits (n, C), and the tokens (n, layers) or None."""

    places: np.ndarray
    exit: int
    logits: np.ndarray
    survivors: np.ndarray | None


class Underway:
    """A batch on its way. A row that left keeps the answer that it got there, for as long as it is carried further.

    Parameters
    ----------
    run, look
        Of the batch.
    last
        Index of the model's last exit, at which all rows leave.
    places_B
        What the caller calls the rows, (B,) int64.

    Attributes
    ----------
    carried, waiting
        Rows that are computed, and those of them that have not left.
    """

    def __init__(self, run: Run, look: Look, last: int, places_B: np.ndarray) -> None:
        self._run, self._look, self._last, self._places_B = run, look, last, places_B
        self.carried = self.waiting = len(places_B)
        self._there_B: np.ndarray | None = None  # who is still there; None: all that are carried

    @property
    def places(self) -> np.ndarray:
        """Places of the rows that have not left."""
        return self._places_B if self._there_B is None else self._places_B[self._there_B]

    def ask(self, k: int) -> Left | None:
        """Run on to exit ``k`` and return the rows that leave there; None where no row does."""
        leaves_B = np.ones(self.carried, bool) if k == self._last else self._look.leaving(k)
        if self._there_B is not None:
            leaves_B = leaves_B & self._there_B
        count = int(np.count_nonzero(leaves_B))
        if not count:
            return None
        logits, survivors = self._look.logits(k), self._run.survivors
        if count == self.carried:
            left = Left(self._places_B, k, logits, survivors)
        else:
            kept = None if survivors is None else survivors[leaves_B]
            left = Left(self._places_B[leaves_B], k, logits[leaves_B], kept)
        self.waiting -= count
        self._there_B = ~leaves_B if self._there_B is None else self._there_B & ~leaves_B
        return left

    def compact(self) -> None:
        """Carry the rows that have left no further."""
        if self._there_B is not None:
            keep = np.flatnonzero(self._there_B)
            self._places_B, self.carried, self._there_B = self._places_B[keep], len(keep), None
            self._look.select(keep)


class Merging(Underway):
    """Rows of batches that may be merged: no exit is asked late. `split` and `merge` are for compact batches at a cut."""

    _look: EveryExit

    def split(self, rows: int) -> Self:
        """Return what comes after the first rows as a batch of its own, and keep these."""
        every, behind = np.arange(self.carried), copy.copy(self)
        behind._look = self._look.take(every[rows:])
        behind._run = behind._look.run
        behind._places_B = self._places_B[rows:]
        behind.carried = behind.waiting = self.carried - rows
        self._look.select(every[:rows])
        self._places_B, self.carried, self.waiting = self._places_B[:rows], rows, rows
        return behind

    def merge(self, others: Sequence[Self]) -> None:
        """Take in the rows of other batches at the same cut, behind one's own."""
        self._look.merge([item._look for item in others])
        self._places_B = np.concatenate([item._places_B for item in (self, *others)])
        self.carried = self.waiting = len(self._places_B)


def gather(parts: Sequence[Left], exits: np.ndarray) -> tuple[np.ndarray, Decisions]:
    """Bring together rows that left.

    Parameters
    ----------
    parts
        At least one.
    exits
        Layers before each exit of the model.

    Returns
    -------
    places : array, (B,)
        Of all rows, ascending.
    decisions : Decisions
        In the order of the places.
    """
    first = parts[0]
    if len(parts) == 1:
        indices = np.full(len(first.places), first.exit)
        return first.places, Decisions(first.logits, indices, exits[indices], survivors_of(parts, exits))
    places = np.concatenate([part.places for part in parts])
    order = places.argsort()
    indices = np.repeat([part.exit for part in parts], [len(part.places) for part in parts])[order]
    logits = np.concatenate([part.logits for part in parts])[order]
    survivors = survivors_of(parts, exits)
    return places[order], Decisions(
        logits, indices, exits[indices], None if survivors is None else survivors[order]
    )


def survivors_of(parts: Sequence[Left], exits: Sequence[int] | np.ndarray) -> np.ndarray | None:
    """Return the tokens that each layer ran on of rows that left, (B, L), in their order, 0 for layers that did not run."""
    if parts[0].survivors is None:
        return None
    found = np.zeros((sum(len(part.places) for part in parts), exits[-1]), dtype=np.int64)
    at = 0
    for part in parts:
        rows, layers = part.survivors.shape
        found[at : at + rows, :layers] = part.survivors
        at += rows
    return found
