"""DistilBERT: BERT without token types and pooler; the stock head is dense + ReLU."""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptive_inference.backbones.base import Backbone, Batch, Context, HeadRecipe


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
    def _run_packed(layer: nn.Module, hidden_TH: Tensor, context: Context) -> Tensor:
        inner = layer.attention
        attended_TH = context.segments.attend(
            inner.q_lin(hidden_TH),
            inner.k_lin(hidden_TH),
            inner.v_lin(hidden_TH),
            inner.attention_head_size,
            inner.dropout,
        )
        attended_TH = layer.sa_layer_norm(inner.out_lin(attended_TH) + hidden_TH)
        return layer.output_layer_norm(layer.ffn(attended_TH) + attended_TH)


BACKBONE = DistilBertBackbone
