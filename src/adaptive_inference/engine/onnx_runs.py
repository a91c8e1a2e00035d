"""Batches under way in ONNX Runtime: those that keep their memory to the end, and those that wait for others on the way.

Shape suffixes: B rows, N tokens, H hidden width, E exits of a segment, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self

import numpy as np

from adaptive_inference.engine.onnx_graphs import (
    CERTAINTY,
    IDS,
    LOGITS,
    MASK,
    OF_ROWS,
    ROWS,
    TOKENS,
    Axes,
    Segment,
    State,
    Workspace,
    fill,
    taken,
)
from adaptive_inference.engine.runner import Answer


class Graphs(Protocol):
    """What runs need of their runner."""

    cuts: tuple[int, ...]
    segments: list[Segment]
    free: list[Workspace]

    def workspace(self) -> Workspace:
        """Return memory that nobody uses."""


Found = tuple[np.ndarray, np.ndarray | None]
"""Logits (B, E, C) and certainty (B, E) or None of a segment's exits."""


class _Asked:
    """Answers of the exits that were passed; see `Run`."""

    survivors = None

    def __init__(self, runner: Graphs) -> None:
        self._runner = runner
        self._place = 0  # of the next segment
        self._held: dict[int, Answer] = {}

    def _run_segment(self) -> Found:
        raise NotImplementedError

    def advance(self, index: int, answers: Sequence[int] = ()) -> dict[int, Answer]:
        """See `Run.advance`."""
        cuts = self._runner.cuts
        while self._place < len(cuts) and cuts[self._place] <= index:
            first = cuts[self._place - 1] + 1 if self._place else 0
            logits_BEC, certainty_BE = self._run_segment()
            for column in range(logits_BEC.shape[1]):
                sure_B = None if certainty_BE is None else certainty_BE[:, column]
                self._held[first + column] = Answer(logits_BEC[:, column], sure_B)
            self._place += 1
        return self.answer(answers)

    def answer(self, indices: Sequence[int]) -> dict[int, Answer]:
        """See `Run.answer`; the graphs have answered already."""
        return {index: self._held.pop(index) for index in indices}

    def release(self, indices: Sequence[int]) -> None:
        """See `Run.release`."""
        for index in indices:
            del self._held[index]

    def select(self, rows: np.ndarray) -> None:
        """Keep the answers of some rows; see `Run.select`."""
        self._held = {
            index: Answer(logits[rows], None if sure is None else sure[rows])
            for index, (logits, sure) in self._held.items()
        }


class Part:
    """Rows that go through the graphs together, and their state in a workspace."""

    def __init__(self, space: Workspace, columns: Mapping[str, np.ndarray]) -> None:
        self._space, self._form = space, space.form(*columns[IDS].shape)
        fill(self._form.arrays[0], columns)
        self._ends_B = ends(columns.get(MASK), columns[IDS])

    def run(self, place: int, segment: Segment) -> Found:
        """Run a segment."""
        return answered(self._form.arrays[place], segment, self._form.bindings[place])

    def select(self, place: int, rows: np.ndarray) -> None:
        """Keep some rows before a segment is run, and of their columns those that one of them has a token in."""
        self._ends_B = self._ends_B[rows]
        state = self._space.state(self._form, place, rows, int(self._ends_B.max()))
        self._form = self._space.load(state, place)


class OnnxRun(_Asked):
    """One batch under way, which has its memory to itself; see `Run`."""

    def __init__(self, runner: Graphs, parts: list[Part]) -> None:
        super().__init__(runner)
        self._parts = parts

    def _run_segment(self) -> Found:
        found = [part.run(self._place, self._runner.segments[self._place]) for part in self._parts]
        if len(found) == 1:
            return found[0]
        sure = None if found[0][1] is None else np.concatenate([item[1] for item in found])
        return np.concatenate([item[0] for item in found]), sure

    def select(self, rows: np.ndarray) -> None:
        """See `Run.select`."""
        if len(self._parts) > 1:
            self._parts = [self._parts[row] for row in rows]
        else:
            self._parts[0].select(self._place, rows)
        super().select(rows)


class MergingRun(_Asked):
    """One batch under way that others may join; see `Run`.

    Between segments its state is its own, so that a batch that waits holds no memory of the graphs.
    """

    def __init__(self, runner: Graphs, place: int, state: State, ends_B: np.ndarray) -> None:
        super().__init__(runner)
        self._place, self._state, self._ends_B = place, state, ends_B

    @classmethod
    def begin(cls, runner: Graphs, columns: Mapping[str, np.ndarray]) -> Self:
        """Take in a batch, by the names of its columns (B, N); padding that none of its rows needs is left out."""
        ends_B = ends(columns.get(MASK), columns[IDS])
        columns = {name: item[:, : ends_B.max()] for name, item in columns.items()}
        shape = columns[IDS].shape
        state = {name: (axes, np.empty(shape, dtype)) for name, axes, dtype in runner.segments[0].reads}
        fill({name: item for name, (_, item) in state.items()}, columns)
        return cls(runner, 0, state, ends_B)

    def _run_segment(self) -> Found:
        place, space = self._place, self._runner.workspace()
        try:
            form = space.load(self._state, place)
            found = answered(form.arrays[place], self._runner.segments[place], form.bindings[place])
            self._state = space.state(form, place + 1)
        finally:
            self._runner.free.append(space)
        return found

    def select(self, rows: np.ndarray) -> None:
        """See `Run.select`; padding that none of the rows needs goes too."""
        self._state, self._ends_B = self._cut(rows)
        super().select(rows)

    def take(self, rows: np.ndarray) -> MergingRun:
        """See `Run.take`."""
        return MergingRun(self._runner, self._place, *self._cut(rows))

    def _cut(self, rows: np.ndarray) -> tuple[State, np.ndarray]:
        ends_B = self._ends_B[rows]
        length = int(ends_B.max())
        state = {name: (axes, taken(item, axes, rows, length)) for name, (axes, item) in self._state.items()}
        return state, ends_B

    def merge(self, others: Sequence[MergingRun]) -> None:
        """See `Run.merge`."""
        every = [self, *others]
        longest = max(every, key=lambda item: item._ends_B.max())
        self._ends_B, merged = np.concatenate([item._ends_B for item in every]), {}
        for name, (axes, item) in longest._state.items():
            if axes[0] == ROWS:
                item = _below_each_other([run._state[name][1] for run in every], axes, _hides(name, item))
            merged[name] = axes, item  # what all rows share: that of the longest holds those of the others
        self._state = merged


def answered(arrays: Mapping[str, np.ndarray], segment: Segment, binding: object) -> Found:
    """Run a segment; its answers are copies."""
    segment.session.run_with_iobinding(binding)
    certainty = arrays.get(CERTAINTY)
    return arrays[LOGITS].copy(), None if certainty is None else certainty.copy()


def ends(mask_BN: np.ndarray | None, ids_BN: np.ndarray) -> np.ndarray:
    """Return the place after each row's last token, (B,)."""
    rows, columns = ids_BN.shape
    return np.full(rows, columns) if mask_BN is None else columns - mask_BN[:, ::-1].argmax(1)


def _below_each_other(parts: Sequence[np.ndarray], axes: Axes, filler: float) -> np.ndarray:
    """Return all rows of some arrays, where they have fewer tokens than others filled up on the right."""
    tokens = max(part.shape[at] for part in parts for at, axis in enumerate(axes) if axis == TOKENS)
    shape = [tokens if axis == TOKENS else size for size, axis in zip(parts[0].shape, axes, strict=True)]
    whole = np.full([sum(map(len, parts)), *shape[1:]], filler, parts[0].dtype)
    at = 0
    for part in parts:
        whole[(slice(at, at + len(part)), *map(slice, part.shape[1:]))] = part
        at += len(part)
    return whole


def _hides(name: str, array: np.ndarray) -> float:
    """Return what hides a column in a mask: 0, or, in one that is added to scores, the least number."""
    return float(np.finfo(np.float32).min) if name.startswith(OF_ROWS) and array.dtype == np.float32 else 0
