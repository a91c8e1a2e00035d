"""DistilBERT: BERT without token types and pooler; the stock head is dense + ReLU."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptive_inference.backbones.base import Backbone, Batch, HeadRecipe


class DistilBertBackbone(Backbone):
    """Drives ``transformers.DistilBertModel``."""

    reduces_tokens = True
    stock_head = ("pre_classifier", "classifier")

    @staticmethod
    def _take_pooler(model: PreTrainedModel) -> None:
        return None

    @staticmethod
    def _stock_layers(model: PreTrainedModel) -> Sequence[nn.Module]:
        return model.transformer.layer

    @property
    def head_recipe(self) -> HeadRecipe:
        """``pre_classifier``, ReLU, dropout."""
        return HeadRecipe("relu", self.config.seq_classif_dropout)

    def _embeddings(self, batch: Batch) -> Tensor:
        return self.model.embeddings(input_ids=batch["input_ids"])

    @staticmethod
    def _run_parts(
        layer: nn.Module, hidden: Tensor, attend: Callable[..., Tensor], bias: Tensor | None = None
    ) -> Tensor:
        inner = layer.attention
        attended = attend(
            inner.q_lin(hidden),
            inner.k_lin(hidden),
            inner.v_lin(hidden),
            inner.attention_head_size,
            inner.dropout,
            bias,
        )
        attended = layer.sa_layer_norm(inner.out_lin(attended) + hidden)
        return layer.output_layer_norm(layer.ffn(attended) + attended)


BACKBONE = DistilBertBackbone
