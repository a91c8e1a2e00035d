"""T5, mT5 and LongT5: blocks with cross-attention, positions by a bias that block 1 owns and all share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers import EncoderDecoderCache, PreTrainedModel

from adaptive_inference.decoders.base import Decoder, heads
from adaptive_inference.decoders.cache import CrossStates, RaggedCache, Step
from adaptive_inference.errors import UserError


class _Context(NamedTuple):
    mask: torch.Tensor | None
    bias_RHTN: torch.Tensor
    cross_bias_R11S: torch.Tensor
    pair: EncoderDecoderCache  # by which the stock blocks tell the two kinds of attention apart


class T5Decoder(Decoder):
    """The decoder of a T5; the encoder always runs in full, by the stock module."""

    encoder_decoder = True
    model_types = ("t5", "mt5", "longt5")

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        # mT5 knows no such field and does not scale; the tie of the embeddings says nothing (free.md 6).
        scaled = getattr(model.config, "scale_decoder_outputs", False)
        self._scale = model.config.d_model**-0.5 if scaled else None

    def start(
        self,
        rows: int,
        *,
        capacity: int,
        encoder_hidden: torch.Tensor | None = None,
        encoder_mask: torch.Tensor | None = None,
        padding_B: torch.Tensor | Sequence[int] | None = None,
    ) -> RaggedCache:
        """Return an empty cache, as `Decoder.start`; ``encoder_hidden`` must be given."""
        if encoder_hidden is None:
            raise UserError(
                "a T5 decodes from an encoder's states; give encoder_hidden = model.get_encoder()(...).last_hidden_state"
            )
        cache = super().start(rows, capacity=capacity, padding_B=padding_B)
        bias_B11S = torch.zeros(rows, 1, 1, encoder_hidden.shape[1], dtype=cache.dtype, device=cache.device)
        if encoder_mask is not None:
            lowest = torch.finfo(cache.dtype).min
            bias_B11S.masked_fill_(encoder_mask[:, None, None, :] == 0, lowest)
        cache.cross = CrossStates(self.num_blocks, encoder_hidden, bias_B11S)
        return cache

    def embed(self, tokens_RT: torch.Tensor, positions_RT: torch.Tensor) -> torch.Tensor:
        """Return token embeddings, (R, T, D); positions enter at the attention."""
        return self.model.decoder.embed_tokens(tokens_RT)

    def norm(self, hidden_RTD: torch.Tensor) -> torch.Tensor:
        """Return the final norm, times c where the family scales its output, (R, T, D)."""
        normed_RTD = self.model.decoder.final_layer_norm(hidden_RTD)
        return normed_RTD if self._scale is None else normed_RTD * self._scale

    def keys_values(
        self, block: int, hidden_RTD: torch.Tensor, step: Step, cache: RaggedCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return K and V of the self-attention, (R, H, T, D)."""
        layer = self.blocks[block - 1].layer[0]
        return _keys_values(layer.SelfAttention, layer.layer_norm(hidden_RTD))

    def _find_blocks(self) -> Sequence[nn.Module]:
        return self.model.decoder.block

    def _context(self, step: Step, cache: RaggedCache) -> _Context:
        pair = EncoderDecoderCache(cache, cache.cross)
        return _Context(step.mask(self._causal_kernel), self._bias(step, cache), cache.cross.bias_R11S, pair)

    def _bias(self, step: Step, cache: RaggedCache) -> torch.Tensor:
        """Return the position bias of the new tokens, (R or 1, H, T, N): never the bias of another step (free.md 6)."""
        if cache.table is None or cache.table.shape[-1] < cache.capacity:
            # By distance alone, 1 - C up to 0: what lies ahead is masked.
            attention = self.blocks[0].layer[0].SelfAttention
            cache.table = attention.compute_bias(1, cache.capacity, past_seen_tokens=cache.capacity - 1)
        table_1H1C, zero = cache.table, cache.table.shape[-1] - 1
        if step.new == 1 and step.columns_RT is None:
            return table_1H1C[..., zero - step.past :].contiguous()
        distance_RTN = cache.numbers_C[: step.keys] - step.columns()[..., None]
        return table_1H1C[0, :, 0][:, distance_RTN.clamp_max_(0) + zero].transpose(0, 1)

    def _run_block(
        self, block: int, hidden_RTD: torch.Tensor, context: _Context, cache: RaggedCache
    ) -> torch.Tensor:
        layer, cross = self.blocks[block - 1], cache.cross
        states = cross.layers[block - 1]
        if states.all_keys is None:  # for all rows, whoever comes first
            states.all_keys, states.all_values = _keys_values(
                layer.layer[1].EncDecAttention, cross.hidden_BSD
            )
        return layer(
            hidden_RTD,
            attention_mask=context.mask,
            position_bias=context.bias_RHTN,
            encoder_hidden_states=cross.hidden_BSD,  # says that there is cross-attention; its K and V are held
            encoder_decoder_position_bias=context.cross_bias_R11S,
            past_key_values=context.pair,
        )[0]


def _keys_values(attention: nn.Module, states_RTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    width = attention.key_value_proj_dim
    return heads(attention.k(states_RTD), width), heads(attention.v(states_RTD), width)
