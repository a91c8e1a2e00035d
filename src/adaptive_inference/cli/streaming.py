"""Rows in, answers out: each beside its row, timed without the waits for input, with a bar. Loads no torch."""

from __future__ import annotations

import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from adaptive_inference.cli.rows import Row

Answer = TypeVar("Answer")


@dataclass
class Clock:
    """What a closing summary tells of time."""

    seconds: float = 0.0  #: of answering, without those of waiting for input
    waits: array[float] = field(default_factory=lambda: array("d"))  #: of each row for its answer, counted so

    def speed(self, unit: str) -> str:
        """Tell throughput and latency."""
        import numpy as np

        median, late = np.quantile(np.asarray(self.waits), [0.5, 0.95])
        speed = f"{len(self.waits) / self.seconds:.3g} {unit}s/s"
        return f"{speed}, each answered {median:.2g} s after it was read (95 %: {late:.2g} s)"


def answered(
    stream: Callable[[Iterator[tuple[str, ...]]], Iterable[Answer]],
    rows: Iterable[Row],
    total: int | None,
    unit: str,
    clock: Clock,
    check: Callable[[Row], None] = lambda row: None,
) -> Iterator[tuple[Row, Answer]]:
    """Yield each row with its answer, and show how far it is where a person looks on.

    Parameters
    ----------
    stream
        Answers texts in their order, as they come.
    rows, total
        What is asked, and how many where that is known.
    unit
        What the bar counts.
    clock
        Told the time.
    check
        Refuses a row before it is asked.
    """
    from tqdm import tqdm

    from adaptive_inference.engine.stream import StreamStopped

    asked: deque[tuple[Row, float]] = deque()
    idle = 0.0  # seconds of waiting for input

    def working() -> float:
        return time.monotonic() - idle

    def texts() -> Iterator[tuple[str, ...]]:
        nonlocal idle
        waiting = iter(rows)
        while True:
            since = time.monotonic()
            row = next(waiting, None)
            idle += time.monotonic() - since
            if row is None:
                return
            check(row)
            asked.append((row, working()))
            yield row.texts

    # a bar among answers that are printed to the same terminal would be torn
    hidden = not sys.stderr.isatty() or sys.stdout.isatty()
    began = working()
    with tqdm(total=total, unit=unit, file=sys.stderr, disable=hidden, leave=False) as bar:
        try:
            for answer in stream(texts()):
                bar.update()
                row, since = asked.popleft()
                clock.waits.append(working() - since)
                yield row, answer
        except StreamStopped as stopped:  # what it answered out of turn is kept
            given = len(clock.waits)
            for place, answer in stopped.finished.items():
                yield asked[place - given][0], answer
            raise
    clock.seconds += working() - began


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 row``, ``2 rows``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
