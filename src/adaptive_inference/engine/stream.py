"""Answer a stream of rows with full batches at every depth: rows that stay wait for others before each segment.

In a batch of its own a row that stays runs on in an ever smaller batch. Here the rows that stay wait in a pool before the
next segment (the layers between two cuts of the runner) until it holds a full batch; the deepest full pool runs first, and
new rows are started when none is full. No row leaves earlier or later for that, and each gets the answer that it gets
alone, up to rounding.

Rows are read in windows and sorted by length, up and down in turns, so that neighbours in a pool are of like length; a
pool's rows are padded to the longest. Rows of a window are answered before the window after the next is read: memory is
bounded, and none waits for ever in a pool that does not fill. What a runner cannot merge is answered in batches of a window,
one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from adaptive_inference.engine.engine import Engine
from adaptive_inference.engine.underway import Decisions, Left, Merging
from adaptive_inference.errors import UserError, first_line

#: Batches' worth of rows in a window.
WINDOW_BATCHES = 16

Feature = Mapping[str, Any]


class Answered(NamedTuple):
    """Rows that were answered together: their places in the stream (B,), from 0, ascending, and what was decided."""

    places: np.ndarray
    decisions: Decisions


class StreamStopped(UserError):
    """The model failed in the middle of a stream, as by running out of memory. All that was answered before was yielded.

    Attributes
    ----------
    answered, waiting
        Rows that were answered, and rows that were read and were not.
    finished
        For whoever gives answers in order: those that wait for one before them, by place.
    """

    def __init__(self, message: str, answered: int, waiting: int) -> None:
        super().__init__(message)
        self.answered, self.waiting = answered, waiting
        self.finished: dict[int, Any] = {}


class Stream:
    """Runs an engine on rows as they come.

    Parameters
    ----------
    engine
        Its runner, rule and calibration; of its exits all are asked.
    batch_size
        Rows of a full batch; no batch is larger.
    collate
        Makes a batch of the features of some rows, see `Engine.run`.

    Raises
    ------
    UserError
        The rule remembers something of rows and cannot bring those of several batches together.
    """

    def __init__(
        self, engine: Engine, batch_size: int, collate: Callable[[Sequence[Any]], Mapping[str, Any]]
    ) -> None:
        engine.rule.online(engine.threshold).merge([])
        self.engine, self.batch_size, self.collate = engine, batch_size, collate
        self.window = WINDOW_BATCHES * batch_size

    def run(self, rows: Iterable[Feature]) -> Iterator[Answered]:
        """Answer rows, of which each has its own ``length``; those that are answered first come first.

        Where the rows themselves raise, those that were read before are answered first.

        Raises
        ------
        StreamStopped
            The model failed.
        """
        flow, source = _Flow(self), enumerate(rows)
        begun, descending, failure = 0, False, None
        while failure is None:
            yield from flow.finish(begun)
            begun, window = flow.read, []
            try:
                window.extend(islice(source, self.window))
            except Exception as error:  # whatever it is: it is raised below
                failure = error
            flow.read += len(window)
            if not window:
                break
            window.sort(key=lambda row: row[1]["length"], reverse=descending)
            descending = not descending
            for at in range(0, len(window), self.batch_size):
                yield from flow.start(window[at : at + self.batch_size])
        yield from flow.finish()
        if failure is not None:
            raise failure


class _Flow:
    """What of one stream is under way."""

    def __init__(self, stream: Stream) -> None:
        self._engine, self._size, self._collate = stream.engine, stream.batch_size, stream.collate
        cuts = stream.engine.runner.cuts
        self._segments = [range(before + 1, cut + 1) for before, cut in zip((-1, *cuts), cuts, strict=False)]
        self._pools: list[deque[Merging]] = [deque() for _ in cuts]  # who waits before each segment
        self.read = self.answered = 0

    def start(self, rows: Sequence[tuple[int, Feature]]) -> Iterator[Answered]:
        """Run the first segment on new rows, and every other one that has a full batch after that."""
        places = np.array([place for place, _ in rows])
        order = places.argsort()
        batch = [rows[place][1] for place in order]
        if self._engine.runner.merges:
            yield from self._run(0, lambda: self._engine.start(self._collate(batch), places[order]))
            yield from self._full()
            return
        try:
            decisions = self._engine.run(self._collate(batch))
        except UserError:
            raise
        except Exception as error:
            raise self._stopped(error) from error
        self.answered += len(batch)
        yield Answered(places[order], decisions)

    def finish(self, before: int | None = None) -> Iterator[Answered]:
        """Answer what is under way of the places before one, or all, in full batches where there are any.

        The shallowest pool comes first: who stays of it fills up a deeper one.
        """
        while (k := self._shallowest(before)) is not None:
            yield from self._run(k, lambda k=k: self._batch(k))
            yield from self._full()

    def _full(self) -> Iterator[Answered]:
        while (k := self._deepest_full()) is not None:
            yield from self._run(k, lambda k=k: self._batch(k))

    def _deepest_full(self) -> int | None:
        for k in range(len(self._pools) - 1, 0, -1):
            if sum(part.carried for part in self._pools[k]) >= self._size:
                return k
        return None

    def _shallowest(self, before: int | None) -> int | None:
        for k, pool in enumerate(self._pools):
            if pool and (before is None or min(part.places.min() for part in pool) < before):
                return k
        return None

    def _batch(self, k: int) -> Merging:
        """Take a batch, full if it can be, out of a pool: those who have waited longest."""
        pool, parts, room = self._pools[k], [], self._size
        while pool and room:
            part = pool.popleft()
            if part.carried > room:
                pool.appendleft(part.split(room))
            room -= part.carried
            parts.append(part)
        if len(parts) > 1:
            parts[0].merge(parts[1:])
        return parts[0]

    def _run(self, k: int, batch_of: Callable[[], Merging]) -> Iterator[Answered]:
        """Run a segment; whoever does not leave waits before the next one."""
        left: list[Left] = []
        try:
            with self._engine.runner.inference():
                batch = batch_of()
                for index in self._segments[k]:
                    found = batch.ask(index)
                    if found is not None:
                        left.append(found)
                    if not batch.waiting:
                        break
                else:
                    batch.compact()
                    self._pools[k + 1].append(batch)
        except UserError:
            raise
        except Exception as error:
            raise self._stopped(error) from error
        if left:
            answered = Answered(*self._engine.gather(left))
            self.answered += len(answered.places)
            yield answered

    def _stopped(self, error: Exception) -> StreamStopped:
        waiting = self.read - self.answered
        return StreamStopped(
            f"the model failed after {self.answered} rows ({type(error).__name__}: {first_line(error)}); {waiting} more "
            f"were read and have no answer. If memory ran out, give a batch size below {self._size}",
            self.answered,
            waiting,
        )
