"""What a decoder must be able to do for early exit: run some blocks, make keys and values of others, read logits anywhere.

Shape suffixes: B rows of the cache, R rows at hand, H heads, T new tokens, D width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel

from adaptive_inference.decoders.cache import RaggedCache, Step
from adaptive_inference.errors import UserError


class Decoder(ABC):
    """A language model's decoder, driven block by block; made by `families.adapter_for`.

    It holds no weights and no state of its own: the model stays as it is, and `RaggedCache` holds what a run has seen.

    Attributes
    ----------
    model
        The stock model.
    num_blocks
        L.
    width
        D, of the residual stream.
    vocabulary
        V, of the LM head.
    encoder_decoder
        Whether blocks look at an encoder's states too.
    longest
        Positions that the model has embeddings for; None: no such limit.
    """

    encoder_decoder: ClassVar[bool] = False
    model_types: ClassVar[tuple[str, ...]]  #: as transformers spells them

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.blocks: Sequence[nn.Module] = tuple(
            self._find_blocks()
        )  # a ModuleList looks names up at each index
        self.num_blocks = len(self.blocks)
        self.head: nn.Module = model.get_output_embeddings()
        self.vocabulary = int(self.head.weight.shape[0])
        self.width = int(model.config.hidden_size)
        self.longest: int | None = None
        self._causal_kernel = model.config._attn_implementation == "sdpa"

    def start(
        self,
        rows: int,
        *,
        capacity: int,
        encoder_hidden: torch.Tensor | None = None,
        encoder_mask: torch.Tensor | None = None,
        padding_B: torch.Tensor | Sequence[int] | None = None,
    ) -> RaggedCache:
        """Return an empty cache for a batch.

        Parameters
        ----------
        rows
            B.
        capacity
            Columns that the longest row is expected to need, padding included; the cache grows beyond them.
        encoder_hidden
            (B, S, D), the encoder's output; of an encoder-decoder alone.
        encoder_mask
            (B, S), 1 at real tokens of the source; None: all are real.
        padding_B
            Columns of left padding of each row. A tensor is read to the host, once.

        Raises
        ------
        UserError
            The model is in training mode, or has too few positions.
        """
        if self.model.training:
            raise UserError(
                "the model is in training mode, so dropout would change what it says; call model.eval()"
            )
        padding = padding_B.tolist() if isinstance(padding_B, torch.Tensor) else padding_B
        needed = capacity - (min(padding) if padding else 0)
        if self.longest is not None and needed > self.longest:
            raise UserError(
                f"{needed} positions are needed and {self.model.config.model_type} has {self.longest}; shorten the prompt "
                "or max_new_tokens"
            )
        return RaggedCache(rows, self.num_blocks, capacity, self.model.device, self.model.dtype, padding)

    def plain_cache(self) -> Cache:
        """Return a new, empty cache of transformers for the model's own ``generate(past_key_values=...)``.

        The one that transformers 5.23 makes by itself has as many layers as the encoder, so that plain `generate` fails on
        a T5 with a deeper decoder.
        """
        own = DynamicCache()
        return EncoderDecoderCache(own, DynamicCache()) if self.encoder_decoder else own

    @abstractmethod
    def embed(self, tokens_RT: torch.Tensor, positions_RT: torch.Tensor) -> torch.Tensor:
        """Return what block 1 reads, (R, T, D); positions count from the first token that is no padding."""

    def run(self, hidden_RTD: torch.Tensor, first: int, last: int, cache: RaggedCache) -> torch.Tensor:
        """Run blocks ``first..last`` (1-based, inclusive) on T new tokens of each of the cache's rows at hand.

        Keys and values are appended at the rows' lengths at these blocks; a token sees what its row holds there, and the
        new tokens up to itself (free.md 1b).

        Parameters
        ----------
        hidden_RTD
            ``h_{first-1}`` of the new tokens; `embed`'s answer where ``first`` is 1.

        Returns
        -------
        ``h_last``, (R, T, D).
        """
        step = cache.open(first, last, hidden_RTD.shape[1])
        context = self._context(step, cache)
        for block in range(first, last + 1):
            hidden_RTD = self._run_block(block, hidden_RTD, context, cache)
        return hidden_RTD

    def propagate(self, hidden_RTD: torch.Tensor, first: int, last: int, cache: RaggedCache) -> None:
        """Give blocks ``first..last`` keys and values of tokens that skip them: their projections of LN(h).

        No attention and no feed-forward runs (state propagation of CALM, free.md 1d).
        """
        if first > last:
            return
        step = cache.open(first, last, hidden_RTD.shape[1])
        for block in range(first, last + 1):
            keys_RHTD, values_RHTD = self.keys_values(block, hidden_RTD, step, cache)
            cache.update(keys_RHTD, values_RHTD, block - 1)

    def logits(self, hidden_RTD: torch.Tensor) -> torch.Tensor:
        """Return ``W(c * N(h))``, (R, T, V): any block's residual stream read by the shared norm and head."""
        return self.head(self.norm(hidden_RTD))

    @abstractmethod
    def norm(self, hidden_RTD: torch.Tensor) -> torch.Tensor:
        """Return what the head reads, (R, T, .): final norm, scale and projections of the family."""

    @abstractmethod
    def keys_values(
        self, block: int, hidden_RTD: torch.Tensor, step: Step, cache: RaggedCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return K and V, (R, H, T, D), that a block would make of a residual stream it is given."""

    @abstractmethod
    def _find_blocks(self) -> Sequence[nn.Module]:
        """Return the stock blocks in order."""

    def _context(self, step: Step, cache: RaggedCache) -> Any:
        """Return what all blocks of a step share: by default the mask alone."""
        return step.mask(self._causal_kernel)

    @abstractmethod
    def _run_block(
        self, block: int, hidden_RTD: torch.Tensor, context: Any, cache: RaggedCache
    ) -> torch.Tensor:
        """Run one stock block."""


def heads(states_RTX: torch.Tensor, width: int) -> torch.Tensor:
    """Split the last axis into heads of a width: (R, T, H * D) to (R, H, T, D)."""
    return states_RTX.view(*states_RTX.shape[:-1], -1, width).transpose(1, 2)
