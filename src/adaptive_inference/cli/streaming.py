"""Rows in, answers out: each beside its row, timed without the waits for input, with a bar. Loads no torch."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from adaptive_inference.cli.rows import Row

Answer = TypeVar("Answer")


@dataclass
class Clock:
    """What a closing summary tells of time."""

    seconds: float = 0.0  #: of answering, without those of waiting for input


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

    asked: deque[Row] = deque()

    def texts() -> Iterator[tuple[str, ...]]:
        waiting = iter(rows)
        while True:
            since = time.monotonic()
            row = next(waiting, None)
            clock.seconds -= time.monotonic() - since
            if row is None:
                return
            check(row)
            asked.append(row)
            yield row.texts

    # a bar among answers that are printed to the same terminal would be torn
    hidden = not sys.stderr.isatty() or sys.stdout.isatty()
    clock.seconds -= time.monotonic()
    with tqdm(total=total, unit=unit, file=sys.stderr, disable=hidden, leave=False) as bar:
        for answer in stream(texts()):
            bar.update()
            yield asked.popleft(), answer
    clock.seconds += time.monotonic()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 row``, ``2 rows``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
