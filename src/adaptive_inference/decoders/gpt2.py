"""GPT-2: learned positions at the embedding, queries, keys and values of one matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from adaptive_inference.decoders.base import Decoder, heads
from adaptive_inference.decoders.cache import RaggedCache, Step
from adaptive_inference.errors import UserError


class Gpt2Decoder(Decoder):
    """Blocks of GPT-2."""

    model_types = ("gpt2",)

    def __init__(self, model: PreTrainedModel) -> None:
        if model.config.add_cross_attention:
            raise UserError(
                "this GPT-2 has cross-attention (add_cross_attention), and nothing would feed it; use one without, or a T5"
            )
        super().__init__(model)
        self.longest = model.config.max_position_embeddings

    def embed(self, tokens_RT: torch.Tensor, positions_RT: torch.Tensor) -> torch.Tensor:
        """Return token plus position embeddings, (R, T, D)."""
        stock = self.model.transformer
        return stock.wte(tokens_RT) + stock.wpe(positions_RT)

    def norm(self, hidden_RTD: torch.Tensor) -> torch.Tensor:
        """Return the final layer norm, (R, T, D)."""
        return self.model.transformer.ln_f(hidden_RTD)

    def keys_values(
        self, block: int, hidden_RTD: torch.Tensor, step: Step, cache: RaggedCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return K and V, (R, H, T, D): the matrix without its third that makes queries."""
        layer = self.blocks[block - 1]
        joint, width = layer.attn.c_attn, layer.attn.embed_dim
        both_RTX = nn.functional.linear(layer.ln_1(hidden_RTD), joint.weight[:, width:].T, joint.bias[width:])
        keys_RTD, values_RTD = both_RTX.split(width, dim=-1)
        return heads(keys_RTD, layer.attn.head_dim), heads(values_RTD, layer.attn.head_dim)

    def _find_blocks(self) -> Sequence[nn.Module]:
        return self.model.transformer.h

    def _run_block(
        self, block: int, hidden_RTD: torch.Tensor, context: torch.Tensor | None, cache: RaggedCache
    ) -> torch.Tensor:
        return self.blocks[block - 1](hidden_RTD, past_key_values=cache, attention_mask=context)
