"""Folds of cross-validation: which rows of the train split are held out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from random import Random

from adaptive_inference.errors import UserError
from adaptive_inference.tasks.schema import Split


@dataclass(frozen=True)
class Fold:
    """One fold: number ``number`` (from 0) of ``count``, all drawn from ``seed``."""

    number: int
    count: int
    seed: int

    def split(self, rows: Split) -> tuple[Split, Split]:
        """Return the rows to train on and the rows held out, both in their order.

        Raises
        ------
        UserError
            There is no such fold, the texts are too few for so many folds, or a part would hold one label only.
        """
        if not 0 <= self.number < self.count:
            raise UserError(f"no fold {self.number}; {self.count} folds are numbered 0 to {self.count - 1}")
        drawn = fold_of_rows([row.texts for row in rows], self.count, self.seed)
        parts = (
            Split(row for row, fold in zip(rows, drawn, strict=True) if fold != self.number),
            Split(row for row, fold in zip(rows, drawn, strict=True) if fold == self.number),
        )
        for name, part in zip(("trained on", "held out"), parts, strict=True):
            if len(set(part.labels)) < 2:
                raise UserError(
                    f"fold {self.number} of {self.count}: the {len(part)} rows {name} have one label only; ask for fewer "
                    "folds or give more rows"
                )
        return parts


def fold_of_rows(texts: Sequence[Hashable], count: int, seed: int) -> list[int]:
    """Return the fold of each row, 0 to ``count`` - 1.

    Rows of one text share a fold, so that nothing held out was trained on. The distinct texts are shuffled and dealt, each
    to the smallest fold so far: sizes differ by no more than the rows of one text.

    Parameters
    ----------
    texts
        What makes two rows the same.
    count, seed
        Of the folds; the shuffle depends on nothing else.

    Raises
    ------
    UserError
        There are fewer distinct texts than folds.
    """
    groups: dict[Hashable, list[int]] = {}
    for row, text in enumerate(texts):
        groups.setdefault(text, []).append(row)
    if not 2 <= count <= len(groups):
        raise UserError(
            f"{count} folds of {len(groups)} distinct texts; at least 2 folds, and at most as many as texts"
        )
    order = list(groups.values())
    Random(f"folds {count} {seed}").shuffle(order)
    sizes, fold_of = [0] * count, [0] * len(texts)
    for group in order:
        fold = sizes.index(min(sizes))
        sizes[fold] += len(group)
        for row in group:
            fold_of[row] = fold
    return fold_of
