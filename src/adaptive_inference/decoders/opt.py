"""OPT: learned positions, a norm before or after each part, and a narrower embedding at some sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from adaptive_inference.decoders.base import Decoder, heads
from adaptive_inference.decoders.cache import RaggedCache, Step


class OptDecoder(Decoder):
    """Blocks of OPT."""

    model_types = ("opt",)

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.longest = model.config.max_position_embeddings

    def embed(self, tokens_RT: torch.Tensor, positions_RT: torch.Tensor) -> torch.Tensor:
        """Return token embeddings, widened where they are narrower, plus positions, (R, T, D)."""
        stock = self.model.model.decoder
        tokens_RTD = stock.embed_tokens(tokens_RT)
        if stock.project_in is not None:
            tokens_RTD = stock.project_in(tokens_RTD)
        return tokens_RTD + stock.embed_positions(
            None, position_ids=positions_RT
        )  # adds its offset of 2 itself

    def norm(self, hidden_RTD: torch.Tensor) -> torch.Tensor:
        """Return the final norm, where there is one, made as narrow as the embeddings."""
        stock = self.model.model.decoder
        if stock.final_layer_norm is not None:
            hidden_RTD = stock.final_layer_norm(hidden_RTD)
        return hidden_RTD if stock.project_out is None else stock.project_out(hidden_RTD)

    def keys_values(
        self, block: int, hidden_RTD: torch.Tensor, step: Step, cache: RaggedCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return K and V, (R, H, T, D); a block with its norms behind (350M) projects h itself."""
        layer = self.blocks[block - 1]
        attention = layer.self_attn
        if layer.do_layer_norm_before:
            hidden_RTD = layer.self_attn_layer_norm(hidden_RTD)
        return (
            heads(attention.k_proj(hidden_RTD), attention.head_dim),
            heads(attention.v_proj(hidden_RTD), attention.head_dim),
        )

    def _find_blocks(self) -> Sequence[nn.Module]:
        return self.model.model.decoder.layers

    def _run_block(
        self, block: int, hidden_RTD: torch.Tensor, context: torch.Tensor | None, cache: RaggedCache
    ) -> torch.Tensor:
        return self.blocks[block - 1](hidden_RTD, past_key_values=cache, attention_mask=context)
