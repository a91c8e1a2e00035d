"""Splits cut at random from one list of rows, so that no two of them share a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Protocol, TypeVar

from adaptive_inference.errors import UserError

#: Fewest rows of train (evaluation aside) that four splits can be cut from: one tenth is at least one row.
FEWEST_ROWS = 10


class Row(Protocol):
    """What is carved: its position in the source, and the texts by which rows belong together."""

    @property
    def id(self) -> int:
        """Position in the source."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that a model reads."""


R = TypeVar("R", bound=Row)


def carve(rows: Iterable[R], count: int, random: Random) -> tuple[list[R], list[R]]:
    """Draw up to ``count`` rows at random, all rows of one text or none; return them and the rest, both in source order."""
    rows = list(rows)
    groups: dict[tuple[str, ...], list[R]] = {}
    for row in rows:
        groups.setdefault(row.texts, []).append(row)
    order = list(groups.values())
    random.shuffle(order)
    chosen: set[int] = set()
    for group in order:
        if len(chosen) + len(group) <= count:  # a group that does not fit any more stays behind
            chosen.update(row.id for row in group)
    return [row for row in rows if row.id in chosen], [row for row in rows if row.id not in chosen]


def subset(rows: Sequence[R], count: int | None, random: Random, key: str) -> list[R]:
    """Draw ``count`` rows at random (None: all), in source order; ``key`` is the params' name of the count.

    Raises
    ------
    UserError
        There are fewer.
    """
    enough_to_train(key, count, len(rows))
    if count is None or count == len(rows):
        return list(rows)
    chosen = set(random.sample([row.id for row in rows], count))
    return [row for row in rows if row.id in chosen]


def enough(origin: str, rows: int) -> None:
    """Refuse a source of too few rows to cut splits from."""
    if rows < FEWEST_ROWS:
        raise UserError(
            f"{origin} leaves {max(rows, 0)} rows for training, development and calibration; at least {FEWEST_ROWS} "
            "are needed: give more rows or ask for fewer `evaluation_rows`"
        )


def enough_to_train(key: str, asked: int | None, left: int) -> None:
    """Refuse a wish for more training rows than there are."""
    if asked is not None and asked > left:
        raise UserError(
            f"{key}: {asked} asked for, but {left} are left beside the other splits; ask for "
            "at most that many, or remove `train_rows` to use all"
        )
