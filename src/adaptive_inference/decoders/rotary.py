"""Llama, Mistral, Qwen2 and Qwen3: pre-norm blocks, positions by rotation of queries and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import rotate_half

from adaptive_inference.decoders.base import Decoder, heads
from adaptive_inference.decoders.cache import RaggedCache, Step
from adaptive_inference.errors import UserError

#: Kinds of rotation whose angles change with the length of the text.
_BY_LENGTH = ("dynamic", "longrope")


class _Context(NamedTuple):
    mask: torch.Tensor | None
    rotation: tuple[torch.Tensor, torch.Tensor]  # cosines and sines, (R or 1, T, D)


class RotaryDecoder(Decoder):
    """Blocks of Llama's shape."""

    model_types = ("llama", "mistral", "qwen2", "qwen3")

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        kind = model.config.rope_parameters["rope_type"]
        if kind in _BY_LENGTH:
            raise UserError(
                f"rope_type {kind!r} turns one position by other angles as the text grows, and blocks that lag behind would "
                "mix them; use a model with fixed angles (default, linear, yarn, llama3)"
            )

    def embed(self, tokens_RT: torch.Tensor, positions_RT: torch.Tensor) -> torch.Tensor:
        """Return token embeddings, (R, T, D); positions enter at the attention."""
        return self.model.get_input_embeddings()(tokens_RT)

    def norm(self, hidden_RTD: torch.Tensor) -> torch.Tensor:
        """Return the final norm, (R, T, D)."""
        return self.model.model.norm(hidden_RTD)

    def keys_values(
        self, block: int, hidden_RTD: torch.Tensor, step: Step, cache: RaggedCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return K, rotated to its positions, and V, (R, H, T, D)."""
        layer = self.blocks[block - 1]
        attention = layer.self_attn
        normed_RTD = layer.input_layernorm(hidden_RTD)
        keys_RHTD = heads(attention.k_proj(normed_RTD), attention.head_dim)
        if hasattr(attention, "k_norm"):  # Qwen3
            keys_RHTD = attention.k_norm(keys_RHTD)
        cos, sin = (angle.unsqueeze(1) for angle in self._rotation(step, cache))
        values_RHTD = heads(attention.v_proj(normed_RTD), attention.head_dim)
        return keys_RHTD * cos + rotate_half(keys_RHTD) * sin, values_RHTD

    def _find_blocks(self) -> Sequence[nn.Module]:
        return self.model.model.layers

    def _context(self, step: Step, cache: RaggedCache) -> _Context:
        return _Context(step.mask(self._causal_kernel), self._rotation(step, cache))

    def _rotation(self, step: Step, cache: RaggedCache) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines at the positions of the new tokens."""
        # All angles at once, and again when the cache grows: a token then takes its own by a view.
        if cache.table is None or cache.table[0].shape[0] < cache.capacity:
            like = torch.empty(0, dtype=cache.dtype, device=cache.device)
            cos_1CD, sin_1CD = self.model.model.rotary_emb(like, position_ids=cache.numbers_C[None])
            cache.table = cos_1CD[0], sin_1CD[0]
        cos_CD, sin_CD = cache.table
        return step.take(cos_CD), step.take(sin_CD)

    def _run_block(
        self, block: int, hidden_RTD: torch.Tensor, context: _Context, cache: RaggedCache
    ) -> torch.Tensor:
        return self.blocks[block - 1](
            hidden_RTD,
            attention_mask=context.mask,
            past_key_values=cache,
            position_embeddings=context.rotation,
        )
