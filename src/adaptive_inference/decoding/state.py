"""Texts in writing: their tokens, which of them go on, and the decoder's calls, each of which the trace counts.

Shapes: B rows of the batch, R rows that go on, T new columns, C columns, V vocabulary, D width. A column is a place in
the padded batch; row ``b`` has its first token in column ``padding[b]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptive_inference.decoding.trace import Pass, RowTrace, Trace

if TYPE_CHECKING:
    from transformers import LogitsProcessorList, StoppingCriteriaList

    from adaptive_inference.decoders.base import Decoder
    from adaptive_inference.decoders.cache import RaggedCache


class Texts:
    """The rows of one call of ``generate``.

    Parameters
    ----------
    decoder, cache
        The model, and its cache with nothing in it.
    prompt_BC
        Token ids that the texts begin with.
    padding_B
        Columns of padding on the left of each row.
    limit
        Columns that a row may have.
    processors, criteria
        What ``generate`` made of its options.
    sampling
        Whether tokens are drawn.
    threshold
        Written into the trace.

    Attributes
    ----------
    rows
        Rows of the batch that go on, ascending; a tensor's axis R follows it.
    ends
        Columns that each of the B rows has; the token of the last one has not been through the decoder.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: RaggedCache,
        prompt_BC: Tensor,
        padding_B: Sequence[int],
        *,
        limit: int,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        sampling: bool,
        threshold: float,
    ) -> None:
        self.decoder, self.cache = decoder, cache
        self.batch, self.prompt = prompt_BC.shape
        self.limit, self.sampling = limit, sampling
        self._processors, self._criteria = processors, criteria
        self.rows = list(range(self.batch))
        self.ends = [self.prompt] * self.batch
        device = prompt_BC.device
        self._tokens_BC = torch.zeros(self.batch, limit + 1, dtype=torch.long, device=device)
        self._tokens_BC[:, : self.prompt] = prompt_BC
        # Made once: a step then takes a view, and sends nothing to the device.
        padding_B1 = torch.tensor(padding_B, device=device)[:, None]
        self._positions_BC = (torch.arange(limit + 1, device=device) - padding_B1).clamp_min(0)
        self.trace = Trace([RowTrace() for _ in range(self.batch)], threshold)

    # ---- the decoder --------------------------------------------------------------------------------------------

    def run(self, hidden_RTD: Tensor, first: int, last: int, rows: Sequence[int] | None = None) -> Tensor:
        """Run blocks on new columns of all rows that go on, or of some of them (by their place among these)."""
        with self.cache.rows(rows):
            self._count(hidden_RTD, first, last, propagated=False)
            return self.decoder.run(hidden_RTD, first, last, self.cache)

    def propagate(self, hidden_RTD: Tensor, first: int, last: int, rows: Sequence[int] | None = None) -> None:
        """Make keys and values of blocks that are skipped."""
        with self.cache.rows(rows):
            self._count(hidden_RTD, first, last, propagated=True)
            self.decoder.propagate(hidden_RTD, first, last, self.cache)

    def _count(self, hidden_RTD: Tensor, first: int, last: int, propagated: bool) -> None:
        past = tuple(self.cache.lengths(first))
        self.trace.passes.append(Pass(first, last, past, hidden_RTD.shape[1], propagated))

    def logits(self, hidden_RTD: Tensor) -> Tensor:
        """Return logits, ``(R, T, D) -> (R, T, V)``."""
        self.trace.head_calls += 1
        self.trace.head_rows += hidden_RTD.shape[0] * hidden_RTD.shape[1]
        return self.decoder.logits(hidden_RTD)

    def prefill(self, depth: int) -> Tensor | None:
        """Run the prompt through blocks 1 to ``depth``.

        The last token of an encoder-decoder's prompt is left to the first step: it may leave early as any other. A
        decoder-only model's prompt goes in whole, and the state of its last token is returned, ``(B, 1, D)``.
        """
        columns = self.prompt - 1 if self.decoder.encoder_decoder else self.prompt
        if not columns:
            return None
        tokens_BT = self._tokens_BC[:, :columns]
        hidden_BTD = self.run(self.decoder.embed(tokens_BT, self._positions_BC[:, :columns]), 1, depth)
        return None if self.decoder.encoder_decoder else hidden_BTD[:, -1:]

    def embed_last(self) -> Tensor:
        """Embed the last token of each row that goes on, ``(R, 1, D)``."""
        if self._even():
            end = self.ends[0]
            return self.decoder.embed(self._tokens_BC[:, end - 1 : end], self._positions_BC[:, end - 1 : end])
        place = self._places(-1)
        return self.decoder.embed(self._tokens_BC[place][:, None], self._positions_BC[place][:, None])

    # ---- tokens -------------------------------------------------------------------------------------------------

    def choose(self, logits_RV: Tensor, rows: Sequence[int], ends: Sequence[int]) -> Tensor:
        """Return the token that follows the first ``ends`` columns of each of some rows of the batch, ``(R,)``.

        In float32, as ``generate`` does, so that ties fall as they fall there.
        """
        scores_RV = logits_RV.to(torch.float32, copy=bool(self._processors))  # a processor may write into it
        if self._processors:
            scores_RV = self._by_end(self._processors, rows, ends, scores_RV)
        if self.sampling:
            return torch.multinomial(scores_RV.softmax(-1), 1).squeeze(1)
        return scores_RV.argmax(-1)

    def choose_each(self, logits_RTV: Tensor, rows: Sequence[int], ends: Sequence[Sequence[int]]) -> Tensor:
        """Return `choose`'s answers at T places of each row, ``(R, T)``; ``ends`` has a list of R for each place."""
        if not self._processors and not self.sampling:
            return logits_RTV.to(torch.float32).argmax(-1)
        return torch.stack([self.choose(logits_RTV[:, i], rows, those) for i, those in enumerate(ends)], 1)

    def put(self, tokens_R: Tensor, rows: Sequence[int], ends: Sequence[int]) -> Tensor:
        """Write a token after the first ``ends`` columns of each row, and return whether the row is to stop, ``(R,)``."""
        if len(rows) == self.batch and len(set(ends)) == 1:
            self._tokens_BC[:, ends[0]] = tokens_R
        else:
            self._tokens_BC[self._index(rows, ends)] = tokens_R
        return self.stops(rows, [end + 1 for end in ends])

    def stops(self, rows: Sequence[int], ends: Sequence[int]) -> Tensor:
        """Return which rows stop when they have the first ``ends`` columns, ``(R,)`` of bool."""
        return self._by_end(lambda ids_BC, _: self._criteria(ids_BC, None), rows, ends)

    def _by_end(
        self, call: Callable, rows: Sequence[int], ends: Sequence[int], scores_RV: Tensor | None = None
    ) -> Tensor:
        """Call what takes a rectangle of tokens, once per length; always with B rows, which it may number."""
        if len(rows) == self.batch and len(set(ends)) == 1:
            return call(self._tokens_BC[:, : ends[0]], scores_RV)
        found: list[Tensor | None] = [None] * len(rows)
        for end in sorted(set(ends)):
            places = [place for place, own in enumerate(ends) if own == end]
            among = torch.tensor([rows[place] for place in places], device=self._tokens_BC.device)
            scores_BV = None
            if scores_RV is not None:
                scores_BV = scores_RV.new_zeros(self.batch, scores_RV.shape[-1])
                scores_BV[among] = scores_RV[places]
            for place, value in zip(places, call(self._tokens_BC[:, :end], scores_BV)[among], strict=True):
                found[place] = value
        return torch.stack(found)

    def read(self, *tensors: Tensor) -> list[list[float]]:
        """Bring tensors to the host, all in one read; the only place of a run where the host waits.

        In the widest type among them: float32 has every token id below 16 million exactly.
        """
        self.trace.host_reads += 1
        values = torch.cat([tensor.reshape(-1) for tensor in tensors]).tolist()
        lists, start = [], 0
        for tensor in tensors:
            lists.append(values[start : start + tensor.numel()])
            start += tensor.numel()
        return lists

    # ---- rows ---------------------------------------------------------------------------------------------------

    def finish(self, rows: Sequence[int]) -> list[int]:
        """Let rows of the batch leave, and return the places among R of those that stay."""
        stay = [place for place, row in enumerate(self.rows) if row not in rows]
        self.rows = [self.rows[place] for place in stay]
        if self.rows:
            self.cache.keep(stay)
        return stay

    def sequences(self, pad: Tensor | None) -> Tensor:
        """Return prompt and text of all rows, ``(B, C)``, shorter ones filled with ``pad`` on the right."""
        longest = max(self.ends)
        ids_BC = self._tokens_BC[:, :longest].clone()
        for row, end in enumerate(self.ends):
            if end < longest:
                ids_BC[row, end:] = pad
        return ids_BC

    def _even(self) -> bool:
        return len(self.rows) == self.batch and len(set(self.ends)) == 1

    def _places(self, shift: int) -> tuple[Tensor, Tensor]:
        return self._index(self.rows, [self.ends[row] + shift for row in self.rows])

    def _index(self, rows: Sequence[int], columns: Sequence[int]) -> tuple[Tensor, Tensor]:
        device = self._tokens_BC.device
        return torch.tensor(list(rows), device=device), torch.tensor(list(columns), device=device)
