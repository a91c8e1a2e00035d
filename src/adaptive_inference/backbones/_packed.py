"""Rows of unlike length without padding: dense layers run on the tokens of all rows, attention within each row.

Shape suffixes: B rows, N tokens of the longest row, T tokens of all rows, W width of all attention heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn


class Segments:
    """Where the rows of a packed state (T, ...) lie (adapler.md 6, back end C).

    Shorter rows lie first: rows of equal length are neighbours, and attend as one batch without a copy.

    Parameters
    ----------
    order_B
        The rows in the order in which they lie.
    lengths_B
        Tokens of each row, at least one; the rows as the batch counts them.
    positions_T
        Columns of the tokens in the batch as it was embedded.
    device
        Of the state.

    Attributes
    ----------
    lengths_B
        See above.
    """

    def __init__(
        self, order_B: np.ndarray, lengths_B: np.ndarray, positions_T: np.ndarray, device: torch.device
    ) -> None:
        self.lengths_B, self._positions_T, self._device = lengths_B, positions_T, device
        self._places_B = np.empty_like(order_B)
        self._places_B[order_B] = np.arange(len(order_B))
        ends_B = lengths_B[order_B].cumsum()
        self._starts_B = (ends_B - lengths_B[order_B])[self._places_B]
        lengths, counts = np.unique(lengths_B, return_counts=True)  # ascending, as the rows lie
        self._shapes = list(zip(counts.tolist(), lengths.tolist(), strict=True))
        self._sizes = (counts * lengths).tolist()
        self._pairs_of: Tensor | None = None
        self._pairs: list[Tensor] = []

    @classmethod
    def pack(cls, tokens_BN: np.ndarray, device: torch.device) -> tuple[Segments, Tensor]:
        """Pack a padded state.

        Parameters
        ----------
        tokens_BN
            Which of it are tokens, bool; at least one of each row.
        device
            Of the state.

        Returns
        -------
        segments : Segments
        index : Tensor, (T,)
            What to take of the state (B * N, ...), in this order.
        """
        rows, columns = tokens_BN.shape
        order_B, index_T = _order(tokens_BN, np.arange(rows) * columns)
        return cls(order_B, tokens_BN.sum(1), index_T % columns, device), _on(index_T, device)

    def keep(self, keep_BN: np.ndarray, rows: np.ndarray | None = None) -> tuple[Segments, Tensor]:
        """Keep some tokens, of some rows.

        Parameters
        ----------
        keep_BN
            Of each row that stays, which tokens do, bool; at least one.
        rows
            Those that stay, in the order wanted; None: all.

        Returns
        -------
        segments : Segments
        index : Tensor, (T',)
            What to take of the state (T, ...), in this order.
        """
        starts_B = self._starts_B if rows is None else self._starts_B[rows]
        order_B, index_T = _order(keep_BN, starts_B)
        kept = Segments(order_B, keep_BN.sum(1), self._positions_T[index_T], self._device)
        return kept, _on(index_T, self._device)

    def select(self, rows: np.ndarray) -> tuple[Segments, Tensor]:
        """Keep some rows with all their tokens; as `keep`."""
        lengths_B = self.lengths_B[rows]
        return self.keep(np.arange(lengths_B.max()) < lengths_B[:, None], rows)

    @classmethod
    def merge(cls, parts: Sequence[Segments]) -> tuple[Segments, Tensor]:
        """Bring packed states together: the rows of the first, then those of the second, and so on.

        Returns
        -------
        segments : Segments
        index : Tensor, (T,)
            What to take of the states one after the other, (T, ...), in this order.
        """
        sizes = [len(part._positions_T) for part in parts]
        before = np.cumsum([0, *sizes[:-1]])
        starts_B = np.concatenate([part._starts_B + at for part, at in zip(parts, before, strict=True)])
        lengths_B = np.concatenate([part.lengths_B for part in parts])
        positions_T = np.concatenate([part._positions_T for part in parts])
        order_B, index_T = _order(np.arange(lengths_B.max()) < lengths_B[:, None], starts_B)
        device = parts[0]._device
        return cls(order_B, lengths_B, positions_T[index_T], device), _on(index_T, device)

    @cached_property
    def tokens_BN(self) -> Tensor:
        """Which tokens of the padded form are none of padding, bool."""
        return _on(np.arange(self.lengths_B.max()) < self.lengths_B[:, None], self._device)

    @cached_property
    def _index_BN(self) -> Tensor:
        columns_BN = np.minimum(np.arange(self.lengths_B.max()), self.lengths_B[:, None] - 1)
        return _on(self._starts_B[:, None] + columns_BN, self._device)

    def pad(self, packed_T: Tensor) -> Tensor:
        """Return the padded form, (T, ...) -> (B, N, ...); what stands in the padding repeats the row's last token."""
        return packed_T[self._index_BN]

    def first(self, packed_T: Tensor) -> Tensor:
        """Return each row's first token, (T, ...) -> (B, ...)."""
        return packed_T[_on(self._starts_B, self._device)]

    def mean(self, packed_T: Tensor) -> Tensor:
        """Return the mean over each row's tokens, (T, ...) -> (B, ...)."""
        means = torch.cat([group.mean(1) for group in self._groups(packed_T)])
        return means[_on(self._places_B, self._device)]

    def pairs(self, pairs: Tensor) -> list[Tensor]:
        """Return what stands for the pairs of tokens, by the places that they had before any left.

        Made once, for all layers up to the next change of the rows.

        Parameters
        ----------
        pairs
            (1, heads, N, N) of the batch as it was embedded.

        Returns
        -------
        list of Tensor
            For rows of each length n, of which there are g: (g, heads, n, n).
        """
        if self._pairs_of is not pairs:
            positions = self._groups(_on(self._positions_T, self._device))
            square = pairs[0]
            self._pairs = [
                square[:, item[:, :, None], item[:, None, :]].transpose(0, 1).contiguous()
                for item in positions
            ]
            self._pairs_of = pairs
        return self._pairs

    def attend(
        self,
        query_TW: Tensor,
        key_TW: Tensor,
        value_TW: Tensor,
        head_size: int,
        dropout: nn.Dropout,
        pairs: Tensor | None = None,
    ) -> Tensor:
        """Attend within each row.

        Parameters
        ----------
        query_TW, key_TW, value_TW
            Of all tokens.
        head_size
            Width of one head.
        dropout
            Of the attention weights, when training.
        pairs
            Added to the scores, see `pairs`.

        Returns
        -------
        Tensor, (T, W)
        """
        rate = dropout.p if dropout.training else 0.0
        bias: Sequence[Tensor | None] = [None] * len(self._sizes) if pairs is None else self.pairs(pairs)
        split = (self._groups(item.unflatten(1, (-1, head_size))) for item in (query_TW, key_TW, value_TW))
        mixed = [
            nn.functional.scaled_dot_product_attention(
                query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), added, rate
            ).transpose(1, 2)
            for query, key, value, added in zip(*split, bias, strict=True)
        ]
        return torch.cat([item.flatten(2).flatten(0, 1) for item in mixed])

    def _groups(self, packed_T: Tensor) -> list[Tensor]:
        """Return the rows of each length: (T, ...) -> (g, n, ...) each, views."""
        parts = packed_T.split(self._sizes)
        return [part.unflatten(0, shape) for part, shape in zip(parts, self._shapes, strict=True)]


def _order(keep_BN: np.ndarray, starts_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows by what they keep, shortest first, and where what they keep lies, in that order."""
    order_B = keep_BN.sum(1).argsort(kind="stable")
    places_T, columns_T = keep_BN[order_B].nonzero()
    return order_B, starts_B[order_B][places_T] + columns_T


def _on(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device)
