"""ALBERT: one group of layer weights run again and again.

Layers share weights, so an exit has no block of its own: with blockwise gradients the gradient stops between blocks, yet
every exit still trains the same weights. See docs/backbones.md.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from adaptive_inference.backbones.base import Backbone, Batch, HeadRecipe


class AlbertBackbone(Backbone):
    """Drives ``transformers.AlbertModel``; one step is one layer group, as the stock encoder counts layers."""

    shares_layers = True
    reduces_tokens = True
    stock_head = ("albert.pooler", "classifier")

    @classmethod
    def truncate(cls, config: PreTrainedConfig, num_layers: int) -> None:
        """Change nothing: which group serves a layer depends on the whole depth, and the weights are shared."""

    @staticmethod
    def _take_pooler(model: PreTrainedModel) -> nn.Linear | None:
        pooler, model.pooler = model.pooler, None
        return pooler

    @staticmethod
    def _stock_layers(model: PreTrainedModel) -> Sequence[nn.Module]:
        layers, groups = model.config.num_hidden_layers, model.encoder.albert_layer_groups
        return [groups[int(i / (layers / len(groups)))] for i in range(layers)]

    @property
    def head_recipe(self) -> HeadRecipe:
        """Pooler, tanh, dropout."""
        return HeadRecipe("tanh", self.config.classifier_dropout_prob)

    def _embeddings(self, batch: Batch) -> Tensor:
        return self.model.encoder.embedding_hidden_mapping_in(super()._embeddings(batch))

    @staticmethod
    def _run_parts(
        layer: nn.Module, hidden: Tensor, attend: Callable[..., Tensor], bias: Tensor | None = None
    ) -> Tensor:
        for part in layer.albert_layers:
            inner = part.attention
            attended = attend(
                inner.query(hidden),
                inner.key(hidden),
                inner.value(hidden),
                inner.attention_head_size,
                inner.attention_dropout,
                bias,
            )
            attended = inner.LayerNorm(hidden + inner.output_dropout(inner.dense(attended)))
            hidden = part.full_layer_layer_norm(part.ff_chunk(attended) + attended)
        return hidden


BACKBONE = AlbertBackbone
