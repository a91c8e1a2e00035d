"""MPNet: BERT's layers with one bias of relative positions for all of them; its head owns the dense layer."""

from collections.abc import Callable

from torch import Tensor, nn
from transformers import PreTrainedConfig

from adaptive_inference.backbones.base import Backbone, Batch, Context, HeadRecipe


class MpnetBackbone(Backbone):
    """Drives ``transformers.MPNetModel``.

    The bias is one learned embedding, made once per forward for all rows: (1, heads, N, N). Blocks above the first see it
    detached (`Context.detach`), so that a loss reaches its own block only.
    """

    reduces_tokens = True
    stock_head = ("classifier.dense", "classifier.out_proj")

    @classmethod
    def longest(cls, config: PreTrainedConfig) -> int:
        """Positions start at 2: the stock embedding counts from its padding index, 1, on."""
        return int(config.max_position_embeddings) - 2

    @property
    def head_recipe(self) -> HeadRecipe:
        """Dropout, dense, tanh, dropout."""
        rate = self.config.hidden_dropout_prob
        return HeadRecipe("tanh", rate, rate)

    def context(self, hidden_BNH: Tensor, tokens_BN: Tensor | None) -> Context:
        """See `Backbone.context`."""
        context = super().context(hidden_BNH, tokens_BN)
        context.pairs["bias"] = self.model.encoder.compute_position_bias(hidden_BNH[:1])
        return context

    def _embeddings(self, batch: Batch) -> Tensor:
        return self.model.embeddings(input_ids=batch["input_ids"])

    def run_layer(self, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        """See `Backbone.run_layer`; the stock layer returns (hidden,)."""
        if context.segments is not None:
            return self._run_parts(
                self._layers[index], hidden_BNH, context.segments.attend, context.pairs["bias"]
            )
        return self._layers[index](hidden_BNH, context.rows.get("attention"), context.pairs["bias"])[0]

    @staticmethod
    def _run_parts(
        layer: nn.Module, hidden: Tensor, attend: Callable[..., Tensor], bias: Tensor | None = None
    ) -> Tensor:
        attention = layer.attention
        inner = attention.attn
        attended = attend(
            inner.q(hidden),
            inner.k(hidden),
            inner.v(hidden),
            inner.attention_head_size,
            inner.dropout,
            bias,
        )
        attended = attention.LayerNorm(attention.dropout(inner.o(attended)) + hidden)
        return layer.output(layer.intermediate(attended), attended)


BACKBONE = MpnetBackbone
