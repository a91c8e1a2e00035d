"""Keys and values of a decoder where every row has, at every block, its own length.

Early exit lets the deep blocks lag behind the shallow ones, and rows of one batch behind each other (free.md 1b, 6).
Stock blocks write here through `update`, as into any cache of transformers; nothing is copied to append a token.

Shape suffixes: B rows of the cache, R rows at hand, H heads, T new tokens, N key columns, C columns reserved, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from transformers import Cache


class Step:
    """One pass of T new tokens of the rows at hand through blocks of equal lengths.

    Attributes
    ----------
    new
        T, the new tokens of each row.
    past
        Columns held before, the most of any row.
    keys
        N, the columns seen: ``past + new``.
    index_R
        The rows at hand; None for all.
    columns_RT
        Column of every new token, where rows differ in length; None where they do not.
    """

    __slots__ = (
        "_dtype",
        "_numbers_C",
        "_padding_R",
        "after",
        "before",
        "columns_RT",
        "index_R",
        "keys",
        "new",
        "past",
        "rows",
    )

    def __init__(self, cache: RaggedCache, before: Sequence[int], new: int) -> None:
        # Parts of the cache, not the cache: a circle would keep its memory until the collector comes by.
        self._numbers_C, self._dtype, self._padding_R = cache.numbers_C, cache.dtype, cache.padding_B
        self.before, self.new = before, new
        self.rows, self.index_R = cache.at_hand, cache.index_R
        if self._padding_R is not None and self.index_R is not None:
            self._padding_R = self._padding_R[self.index_R]
        self.past = max(before)
        self.keys = self.past + new
        self.after = [length + new for length in before]
        self.columns_RT: torch.Tensor | None = None
        if min(before) != self.past:
            start_R = torch.tensor(before, device=cache.device)
            self.columns_RT = start_R[:, None] + self._numbers_C[:new]

    def columns(self) -> torch.Tensor:
        """Return the column of every new token, (R, T), or (1, T) where rows do not differ."""
        if self.columns_RT is not None:
            return self.columns_RT
        return self._numbers_C[None, self.past : self.keys]

    def take(self, table_CX: torch.Tensor) -> torch.Tensor:
        """Return a table's rows at the positions of the new tokens, (R, T, X), or a view (1, T, X) of it.

        A position counts from the first token that is no padding; padding itself has position 0.
        """
        padding_R = self._padding_R
        if padding_R is None and self.columns_RT is None:
            return table_CX[None, self.past : self.keys]
        positions_RT = self.columns()
        if padding_R is not None:
            positions_RT = (positions_RT - padding_R[:, None]).clamp_min(0)
        return table_CX[positions_RT]

    def mask(self, causal_kernel: bool) -> torch.Tensor | None:
        """Return what is added to the scores, (R or 1, 1, T, N): 0 where a new token may look, else the lowest number.

        Parameters
        ----------
        causal_kernel
            The attention masks the future by itself where no mask is given and nothing was held before.

        Returns
        -------
        None where no mask is needed: one new token after rows of equal length.
        """
        padding_R = self._padding_R
        if (
            padding_R is None
            and self.columns_RT is None
            and (self.new == 1 or (causal_kernel and not self.past))
        ):
            return None
        key_N, query_RT1 = self._numbers_C[: self.keys], self.columns()[..., None]
        seen_RTN = key_N <= query_RT1
        if padding_R is not None:
            # A padding token sees itself, since a softmax over nothing is no number; nobody sees it.
            seen_RTN = seen_RTN & ((key_N >= padding_R[:, None, None]) | (key_N == query_RT1))
        dtype = self._dtype
        lowest = torch.finfo(dtype).min
        return torch.zeros(seen_RTN.shape, dtype=dtype, device=key_N.device).masked_fill_(~seen_RTN, lowest)[
            :, None
        ]


class RaggedCache(Cache):
    """Preallocated keys and values with a length per row and block.

    A row that is shorter than another leaves columns behind its end free; masks hide them. Lengths are Python numbers, so
    asking for them never waits for the device.

    Parameters
    ----------
    rows, blocks
        B rows, L blocks.
    capacity
        Columns reserved; more are made by doubling.
    device, dtype
        Where keys and values lie, and what scores are masked in: the model's.
    padding
        Columns before the first real token of each row (left padding); None or all zero: no padding.
    """

    def __init__(
        self,
        rows: int,
        blocks: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
        padding: Sequence[int] | None = None,
    ) -> None:
        super().__init__(layers=[])
        self.count, self.capacity = rows, max(capacity, 1)
        self.device, self.dtype = device, dtype
        self.at_hand: list[int] | None = None  #: rows that blocks see now; None: all
        self.index_R: torch.Tensor | None = None
        self.padding = list(padding) if padding is not None and any(padding) else None
        self.padding_B = None if self.padding is None else torch.tensor(self.padding, device=device)
        self.numbers_C = torch.arange(self.capacity, device=device)
        self._all_B = torch.arange(rows, device=device)
        self.cross: CrossStates | None = None
        self.table: object = None  #: what the adapter computed for the positions up to `capacity`
        self._lengths: list[list[int]] = [[0] * rows for _ in range(blocks)]
        self._keys: list[torch.Tensor | None] = [None] * blocks
        self._values: list[torch.Tensor | None] = [None] * blocks
        self._step: Step | None = None

    def lengths(self, block: int) -> list[int]:
        """Return the columns held of each row at hand by a block (1..L), padding included."""
        held = self._lengths[block - 1]
        return list(held) if self.at_hand is None else [held[row] for row in self.at_hand]

    def positions(self, block: int, new: int) -> torch.Tensor:
        """Return the positions of the next ``new`` tokens after what a block holds, (R, T) or (1, T)."""
        self._reserve(max(self.lengths(block)) + new)
        return Step(self, self.lengths(block), new).take(self.numbers_C)

    def states(self, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views of K and V of a block for all rows, (B, H, N, D), N the longest row; beyond a row's end: anything."""
        keys, values = self._keys[block - 1], self._values[block - 1]
        if keys is None or values is None:
            raise ValueError(f"block {block} has not run yet")
        longest = max(self._lengths[block - 1])
        return keys[:, :, :longest], values[:, :, :longest]

    @contextlib.contextmanager
    def rows(self, index: Sequence[int] | None) -> Iterator[None]:
        """Let blocks see these rows alone, in this order; None, or all rows in order: no copy is made."""
        before = self.at_hand, self.index_R
        if index is None or list(index) == list(range(self.count)):
            self._look_at(None, None)
        else:
            self._look_at(list(index), torch.tensor(list(index), device=self.device))
        try:
            yield
        finally:
            self._look_at(*before)

    def _look_at(self, at_hand: list[int] | None, index_R: torch.Tensor | None) -> None:
        self.at_hand, self.index_R = at_hand, index_R
        if self.cross is not None:
            self.cross.look_at(index_R)

    def open(self, first: int, last: int, new: int) -> Step:
        """Begin a pass of ``new`` tokens of the rows at hand through blocks ``first..last``.

        Raises
        ------
        ValueError
            The blocks hold different lengths of these rows, so that they cannot go on together.
        """
        before = self.lengths(first)
        for block in range(first + 1, last + 1):
            if self.lengths(block) != before:
                raise ValueError(
                    f"blocks {first} and {block} hold {before} and {self.lengths(block)} columns of the rows at hand; "
                    "bring the shorter one up to date first"
                )
        self._reserve(max(before) + new)
        self._step = Step(self, before, new)
        return self._step

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append K and V of the step's new tokens, (R, H, T, D), and return all columns seen, (R, H, N, D).

        Called by the stock attention; ``layer_idx`` counts from 0 as transformers does.
        """
        step = self._step
        if step is None:
            raise ValueError("no step is open: run blocks through a Decoder, not by a forward of the model")
        keys, values = self._buffers(layer_idx, key_states, value_states)
        out = self._write(keys, key_states, step), self._write(values, value_states, step)
        if step.rows is None:
            self._lengths[layer_idx] = step.after
        else:
            held = list(self._lengths[layer_idx])
            for row, length in zip(step.rows, step.after, strict=True):
                held[row] = length
            self._lengths[layer_idx] = held
        return out

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the columns of the longest row at hand; ``layer_idx`` counts from 0 as transformers does."""
        return max(self.lengths(layer_idx + 1))

    def crop(self, rows: Sequence[int] | None, length: int | Sequence[int]) -> None:
        """Cut rows to a length, at every block that holds more of them; what lies behind is written over later.

        Parameters
        ----------
        rows
            Rows of the whole cache; None: all.
        length
            Columns kept, padding included: one number, or one for each of the rows.
        """
        chosen = range(self.count) if rows is None else rows
        wanted = [length] * len(chosen) if isinstance(length, int) else length
        limit = dict(zip(chosen, wanted, strict=True))
        self._lengths = [
            [min(columns, limit.get(row, columns)) for row, columns in enumerate(held)]
            for held in self._lengths
        ]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows alone, in this order: the others are finished."""
        if self.at_hand is not None:
            raise ValueError("rows can be dropped only where all of them are at hand")
        if list(rows) == list(range(self.count)):
            return
        index_R = torch.tensor(list(rows), device=self.device)
        self.count, self._all_B = len(rows), self._all_B[: len(rows)]
        self._lengths = [[held[row] for row in rows] for held in self._lengths]
        self._keys = [None if states is None else states[index_R] for states in self._keys]
        self._values = [None if states is None else states[index_R] for states in self._values]
        if self.padding is not None:
            self.padding = [self.padding[row] for row in rows]
            self.padding_B = torch.tensor(self.padding, device=self.device) if any(self.padding) else None
        if self.cross is not None:
            self.cross.keep(index_R)

    def _reserve(self, columns: int) -> None:
        if columns > self.capacity:
            self.capacity = max(columns, 2 * self.capacity)
            self.numbers_C = torch.arange(self.capacity, device=self.device)

    def _buffers(
        self, layer: int, key_RHTD: torch.Tensor, value_RHTD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys = self._keys[layer] = self._room(self._keys[layer], key_RHTD)
        values = self._values[layer] = self._room(self._values[layer], value_RHTD)
        return keys, values

    def _room(self, held: torch.Tensor | None, new_RHTD: torch.Tensor) -> torch.Tensor:
        if held is not None and held.shape[2] >= self.capacity:
            return held
        # Zeros, not whatever lies in memory: a masked column is multiplied by 0, and 0 times no number is no number.
        grown = new_RHTD.new_zeros(self.count, new_RHTD.shape[1], self.capacity, new_RHTD.shape[3])
        if held is not None:
            grown[:, :, : held.shape[2]] = held
        return grown

    def _write(self, held_BHCD: torch.Tensor, new_RHTD: torch.Tensor, step: Step) -> torch.Tensor:
        seen_BHND = held_BHCD[:, :, : step.keys]
        if step.columns_RT is not None:
            index_R = self._all_B if step.index_R is None else step.index_R
            held_BHCD[index_R[:, None], :, step.columns_RT] = new_RHTD.transpose(1, 2)
        elif step.index_R is not None:
            held_BHCD[step.index_R, :, step.past : step.keys] = new_RHTD
        else:
            seen_BHND[:, :, step.past :] = new_RHTD
        return seen_BHND if step.index_R is None else seen_BHND[step.index_R]


class _CrossLayer:
    """Keys and values of the encoder's states at one block, as the stock cross-attention asks for them."""

    def __init__(self) -> None:
        self.index_R: torch.Tensor | None = None  #: rows at hand; None: all
        self.all_keys: torch.Tensor | None = None
        self.all_values: torch.Tensor | None = None

    @property
    def keys(self) -> torch.Tensor | None:
        return self._at_hand(self.all_keys)

    @property
    def values(self) -> torch.Tensor | None:
        return self._at_hand(self.all_values)

    def _at_hand(self, states: torch.Tensor | None) -> torch.Tensor | None:
        return states if self.index_R is None or states is None else states[self.index_R]


class CrossStates(Cache):
    """The encoder's states, and their keys and values at the blocks that have run.

    Parameters
    ----------
    blocks
        L.
    hidden_BSD
        The encoder's output.
    bias_B11S
        Added to the scores of the cross-attention: 0, or the lowest number at padding.
    """

    def __init__(self, blocks: int, hidden_BSD: torch.Tensor, bias_B11S: torch.Tensor) -> None:
        super().__init__(layers=[_CrossLayer() for _ in range(blocks)])
        self.hidden_BSD, self._bias_B11S = hidden_BSD, bias_B11S
        self._index_R: torch.Tensor | None = None

    @property
    def bias_R11S(self) -> torch.Tensor:
        """What is added to the scores of the rows at hand."""
        return self._bias_B11S if self._index_R is None else self._bias_B11S[self._index_R]

    def look_at(self, index_R: torch.Tensor | None) -> None:
        """Let blocks see these rows alone; None: all."""
        self._index_R = index_R
        for layer in self.layers:
            layer.index_R = index_R

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the encoder's length."""
        return self.hidden_BSD.shape[1]

    def keep(self, index_R: torch.Tensor) -> None:
        """Keep these rows alone."""
        self.hidden_BSD, self._bias_B11S = self.hidden_BSD[index_R], self._bias_B11S[index_R]
        for layer in self.layers:
            if layer.all_keys is not None:
                layer.all_keys, layer.all_values = layer.all_keys[index_R], layer.all_values[index_R]
