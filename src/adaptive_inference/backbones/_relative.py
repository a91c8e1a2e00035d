"""What DeBERTa v1 and v2 share: relative positions, made once per forward, and the context pooler."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adaptive_inference.backbones.base import Backbone, Batch, Context, HeadRecipe, padding_mask


class RelativeBackbone(Backbone):
    """An encoder with disentangled attention.

    ``rel_embeddings`` serves every layer of every block. `Context.detach` cuts it for all blocks but the first,
    so that a loss reaches its own block only.
    """

    @staticmethod
    def _take_pooler(model: PreTrainedModel) -> None:
        return None

    @property
    def head_recipe(self) -> HeadRecipe:
        """``ContextPooler`` (dense + GELU), then dropout."""
        config = self.config
        dropout = getattr(config, "cls_dropout", None)
        return HeadRecipe(
            activation=config.pooler_hidden_act,
            dropout=config.hidden_dropout_prob if dropout is None else dropout,
            input_dropout=config.pooler_dropout,
        )

    def embed(self, batch: Batch) -> tuple[Tensor, Context]:
        """See `Backbone.embed`; padded positions are zeroed, as the stock model does."""
        tokens_BN = padding_mask(batch)
        hidden_BNH = self.model.embeddings(
            input_ids=batch["input_ids"], token_type_ids=batch.get("token_type_ids"), mask=tokens_BN
        )
        return hidden_BNH, self.context(hidden_BNH, tokens_BN)

    def context(self, hidden_BNH: Tensor, tokens_BN: Tensor | None) -> Context:
        """See `Backbone.context`."""
        encoder = self.model.encoder
        pairs = {"positions": encoder.get_rel_pos(hidden_BNH)}
        shared = {"embeddings": encoder.get_rel_embedding()}
        if tokens_BN is None:  # one true cell broadcasts to every pair of tokens
            shared["attention"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=hidden_BNH.device)
            return Context(pairs=pairs, shared=shared)
        rows = {"attention": encoder.get_attention_mask(tokens_BN)}
        return Context(tokens_BN, rows, pairs, shared)

    def run_layer(self, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        """See `Backbone.run_layer`; the stock layer returns (hidden, attention)."""
        attention = context.rows["attention"] if context.rows else context.shared["attention"]
        return self._layers[index](
            hidden_BNH,
            attention,
            relative_pos=context.pairs["positions"],
            rel_embeddings=context.shared["embeddings"],
        )[0]
