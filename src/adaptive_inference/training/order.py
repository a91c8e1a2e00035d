"""In which order an epoch visits the training rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

#: Batches whose rows are sorted by length together; more means less padding and less mixing.
POOL_BATCHES = 50
#: Streams of the generator beside that of the order itself, further apart than there are epochs.
_SPLIT, _OTHER = 500_009, 750_019


def epoch_order(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, group_by_length: bool
) -> list[int]:
    """Return a permutation of the rows, to be cut into batches of ``batch_size``.

    It depends on the arguments alone, not on the global generator: methods that draw more or fewer random numbers
    (dropout of more heads) still see the same batches, and a resumed run needs no replay to find its place.

    With ``group_by_length``, rows are shuffled, sorted by length within pools of `POOL_BATCHES` batches, and the
    batches are shuffled again. (transformers' sampler leaves the batches sorted, so that an epoch, and with a
    decaying rate the whole training, ends on the shortest rows.)

    Parameters
    ----------
    lengths
        Tokens of each row.
    batch_size
        Rows of an optimiser step, accumulated batches together.
    seed, epoch
        Of the permutation.
    group_by_length
        Batch rows of like length together.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    rows = torch.randperm(len(lengths), generator=generator).tolist()
    if not group_by_length:
        return rows
    pool = POOL_BATCHES * batch_size
    pools = (rows[start : start + pool] for start in range(0, len(rows), pool))
    ordered = [row for part in pools for row in sorted(part, key=lambda row: lengths[row])]
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    # An incomplete batch stays at the end: elsewhere it would shift the borders of those that follow.
    last = [batches.pop()] if batches and len(batches[-1]) < batch_size else []
    shuffled = [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
    return [row for batch in shuffled + last for row in batch]


def split_halves(rows: int, seed: int, epoch: int) -> tuple[list[int], list[int]]:
    """Cut rows into two random halves, anew for each epoch (pabee_leebert.md 1.4: D1 and D2).

    An odd row goes to the first half. Rows stand in ascending order.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch + _SPLIT) % 2**63)
    drawn = torch.randperm(rows, generator=generator).tolist()
    first = rows - rows // 2
    return sorted(drawn[:first]), sorted(drawn[first:])


def other_half(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, group_by_length: bool
) -> list[int]:
    """Return the second half of `split_halves` in an `epoch_order` that tells nothing of the first half's."""
    rows = split_halves(len(lengths), seed, epoch)[1]
    return _ordered(rows, lengths, batch_size, seed, epoch + _OTHER, group_by_length)


def _ordered(
    rows: list[int], lengths: Sequence[int], batch_size: int, seed: int, epoch: int, group_by_length: bool
) -> list[int]:
    order = epoch_order([lengths[row] for row in rows], batch_size, seed, epoch, group_by_length)
    return [rows[place] for place in order]


class OtherHalf:
    """Rows of the half that the network does not learn from, for each optimiser step; arguments as of `epoch_order`.

    The n-th step of an epoch has the n-th of them: nothing to remember over a kill.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, group_by_length: bool) -> None:
        self.lengths, self.batch_size = lengths, batch_size
        self.settings = seed, group_by_length
        self._drawn: tuple[int, list[int]] = (-1, [])  # an epoch and its order

    def rows(self, step: int) -> list[int]:
        """Return ``batch_size`` rows, fewer at the end of the half; ``step`` counts from 0 over the whole training."""
        (seed, grouped), size = self.settings, self.batch_size
        epoch, within = divmod(step, math.ceil((len(self.lengths) - len(self.lengths) // 2) / size))
        if self._drawn[0] != epoch:
            self._drawn = epoch, other_half(self.lengths, size, seed, epoch, grouped)
        order = self._drawn[1]
        start = within * size % len(order)
        return order[start : start + size]


class EpochOrder(Sampler[int]):
    """`epoch_order` as the sampler of a data loader, which calls `set_epoch`; with ``halved``, of the first half."""

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, group_by_length: bool, halved: bool = False
    ) -> None:
        self.lengths, self.settings, self.halved, self.epoch = (
            lengths,
            (batch_size, seed, group_by_length),
            halved,
            0,
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        rows = len(self.lengths)
        return rows - rows // 2 if self.halved else rows

    def __iter__(self) -> Iterator[int]:
        size, seed, grouped = self.settings
        rows = list(range(len(self.lengths)))
        if self.halved:
            rows = split_halves(len(rows), seed, self.epoch)[0]
        return iter(_ordered(rows, self.lengths, size, seed, self.epoch, grouped))
