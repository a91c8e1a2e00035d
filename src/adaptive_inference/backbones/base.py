"""What every encoder family offers: embed a batch, run one layer, hand over the pre-trained pooler.

Shape suffixes here and in the adapters: B rows, N tokens, T tokens of all rows, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from adaptive_inference.backbones._packed import Segments

Batch = dict[str, Any]


@dataclass(frozen=True)
class Context:
    """What a forward makes once, after the embeddings, and every layer and head reads.

    Attributes
    ----------
    tokens_BN
        1 for tokens, 0 for padding; None when no row is padded, and then no mask work is done at all.
    rows
        Tensors with one entry per row, in the form that the stock layer wants (attention masks): (B, ..., N or 1, N).
    pairs
        Tensors of pairs of tokens that all rows share (relative positions, or a bias made of them): (..., N, N).
    shared
        Other tensors that all rows share (embeddings of positions).
    segments
        Where the rows of a packed state (T, H) lie; None: the state is padded, (B, N, H). A packed state has neither
        ``tokens_BN`` nor ``rows``, and its ``pairs`` stay those of the batch as it was embedded.
    """

    tokens_BN: Tensor | None = None
    rows: dict[str, Tensor] = field(default_factory=dict)
    pairs: dict[str, Tensor | None] = field(default_factory=dict)
    shared: dict[str, Tensor | None] = field(default_factory=dict)
    segments: Segments | None = None

    def select(self, rows: Tensor, length: int | None = None) -> Context:
        """Keep some rows, in the order given, and of their columns the first ``length``; None keeps all."""
        tokens_BN = None if self.tokens_BN is None else self.tokens_BN[rows, :length]
        of_rows = {name: item[rows][..., :length, :length].contiguous() for name, item in self.rows.items()}
        pairs = {
            # one for all rows, or one for each after `keep`
            name: item if item is None else (item if len(item) == 1 else item[rows])[..., :length, :length]
            for name, item in self.pairs.items()
        }
        return replace(self, tokens_BN=tokens_BN, rows=of_rows, pairs=pairs)

    def keep(self, columns_BK: Tensor, tokens_BK: Tensor | None, dtype: torch.dtype) -> Context:
        """Keep other columns of each row, for encoders of `Backbone.reduces_tokens`.

        Parameters
        ----------
        columns_BK
            Indices of the columns.
        tokens_BK
            Which of them are tokens; None: all.
        dtype
            Of the attention bias that hides the others.
        """
        bias = {}
        if tokens_BK is not None:
            lowest = torch.finfo(dtype).min
            hidden_BK = tokens_BK.logical_not()
            bias["attention"] = torch.zeros_like(hidden_BK, dtype=dtype).masked_fill(hidden_BK, lowest)[
                :, None, None
            ]
        pairs = {
            name: item if item is None else _pairs(item, columns_BK) for name, item in self.pairs.items()
        }
        return replace(self, tokens_BN=tokens_BK, rows=bias, pairs=pairs)

    def pack(self, hidden_BNH: Tensor) -> tuple[Tensor, Context]:
        """Take the padding out, for encoders of `Backbone.reduces_tokens`: (B, N, H) -> (T, H), and its context."""
        if self.tokens_BN is None:
            tokens_BN = np.ones(hidden_BNH.shape[:2], dtype=bool)
        else:
            tokens_BN = self.tokens_BN.bool().cpu().numpy()
        segments, index_T = Segments.pack(tokens_BN, hidden_BNH.device)
        return hidden_BNH.flatten(0, 1)[index_T], Context(
            pairs=self.pairs, shared=self.shared, segments=segments
        )

    def detach(self) -> Context:
        """Cut the gradient of what blocks share: relative embeddings, biases, what removal says (sweet.md 1.2)."""
        rows, pairs, shared = (
            {name: item if item is None else item.detach() for name, item in items.items()}
            for items in (self.rows, self.pairs, self.shared)
        )
        tokens_BN = None if self.tokens_BN is None else self.tokens_BN.detach()
        return replace(self, tokens_BN=tokens_BN, rows=rows, pairs=pairs, shared=shared)


def _pairs(item: Tensor, columns_BK: Tensor) -> Tensor:
    """Return the pairs of the columns that each row keeps: (1 or B, heads, N, N) -> (B, heads, K, K)."""
    rows, kept = columns_BK.shape
    item = item.expand(rows, -1, -1, -1)
    index = columns_BK[:, None, :, None].expand(-1, item.shape[1], -1, item.shape[3])
    return item.gather(2, index).gather(3, columns_BK[:, None, None].expand(-1, item.shape[1], kept, -1))


@dataclass(frozen=True)
class HeadRecipe:
    """How the family's stock classification head treats what it reads.

    Attributes
    ----------
    activation
        After the pooler's dense layer: ``tanh``, ``relu`` or ``gelu``.
    dropout
        Before the classifier.
    input_dropout
        Before the pooler's dense layer.
    """

    activation: str = "tanh"
    dropout: float = 0.0
    input_dropout: float = 0.0


class Layers(Protocol):
    """What a forward needs of an encoder."""

    def embed(self, batch: Batch) -> tuple[Tensor, Context]:
        """See `Backbone.embed`."""

    def context(self, hidden_BNH: Tensor, tokens_BN: Tensor | None) -> Context:
        """See `Backbone.context`."""

    def run_layer(self, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        """See `Backbone.run_layer`."""


class Delegate:
    """Stands between a forward and a backbone, and leaves all to it: a base for those who run some layers otherwise."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def embed(self, batch: Batch) -> tuple[Tensor, Context]:
        """See `Backbone.embed`."""
        return self.backbone.embed(batch)

    def context(self, hidden_BNH: Tensor, tokens_BN: Tensor | None) -> Context:
        """See `Backbone.context`."""
        return self.backbone.context(hidden_BNH, tokens_BN)

    def run_layer(self, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        """See `Backbone.run_layer`."""
        return self.backbone.run_layer(index, hidden_BNH, context)


class Backbone(nn.Module):
    """A stock encoder, driven one layer at a time.

    Parameters
    ----------
    model
        The stock base model (``BertModel``, ...). Its pooler is taken off: heads own copies of it.
    num_layers
        Layers that may be run; default all that the model has.

    Attributes
    ----------
    shares_layers
        True where the same weights serve several layers, so that no block has weights of its own (ALBERT).
    removable_heads
        True where layers are built like BERT's, so that single attention heads can be taken out of them.
    reduces_tokens
        Whether each row may lose tokens of its own on the way: a bias on attention can fade them in training.
    autocasts
        False where the stock layers cannot run under autocast to bf16.
    stock_head
        Where the family's ``...ForSequenceClassification`` keeps the dense layer of its head, and the classifier.
    """

    shares_layers: ClassVar[bool] = False
    removable_heads: ClassVar[bool] = False
    reduces_tokens: ClassVar[bool] = False
    autocasts: ClassVar[bool] = True
    stock_head: ClassVar[tuple[str, str]] = ("pooler.dense", "classifier")

    def __init__(self, model: PreTrainedModel, num_layers: int | None = None) -> None:
        super().__init__()
        # In a tuple, so that the pooler is no sub-module: it would be a dead parameter of the optimiser.
        self._pooler: tuple[nn.Linear | None] = (self._take_pooler(model),)
        self._classifier: tuple[nn.Linear | None] = (None,)
        self.model = model
        # A plain list beside the registered modules: indexing a ModuleList costs a string conversion per layer.
        self._layers = list(self._stock_layers(model))
        self.num_layers = len(self._layers) if num_layers is None else num_layers

    @classmethod
    def family(cls) -> str:
        """Name of the family, as transformers spells its ``model_type``."""
        return cls.__module__.rpartition(".")[2].replace("_", "-")

    # ------------------------------------------------------------------ what an adapter says

    @classmethod
    def truncate(cls, config: PreTrainedConfig, num_layers: int) -> None:
        """Make the configuration describe a model of the first ``num_layers`` layers."""
        config.num_hidden_layers = num_layers

    @classmethod
    def longest(cls, config: PreTrainedConfig) -> int:
        """Longest input in tokens that the family's positions allow."""
        return int(config.max_position_embeddings)

    @staticmethod
    def _take_pooler(model: PreTrainedModel) -> nn.Linear | None:
        """Remove the pooler from the stock model and return its dense layer."""
        pooler, model.pooler = getattr(model, "pooler", None), None
        return None if pooler is None else pooler.dense

    @staticmethod
    def _stock_layers(model: PreTrainedModel) -> Sequence[nn.Module]:
        """Return the stock layers in the order in which they are run, one entry per layer run."""
        return model.encoder.layer

    @property
    def head_recipe(self) -> HeadRecipe:
        """What the family's stock classification head does."""
        config = self.config
        dropout = config.classifier_dropout
        return HeadRecipe("tanh", config.hidden_dropout_prob if dropout is None else dropout)

    def embed(self, batch: Batch) -> tuple[Tensor, Context]:
        """Turn tokens into the first hidden state.

        Parameters
        ----------
        batch
            ``input_ids`` (B, N) and, where there is padding, ``attention_mask`` (B, N); ``token_type_ids``
            (B, N) where the family has them. Other keys are ignored.

        Returns
        -------
        hidden : Tensor, (B, N, H)
        context : Context
        """
        hidden_BNH = self._embeddings(batch)
        return hidden_BNH, self.context(hidden_BNH, padding_mask(batch))

    def context(self, hidden_BNH: Tensor, tokens_BN: Tensor | None) -> Context:
        """Return what layers read beside the state: made after the embeddings, and again where batches are merged.

        Parameters
        ----------
        hidden_BNH
            The state; only its shape, type and device are looked at.
        tokens_BN
            1 for tokens, 0 for padding; None where there is no padding.
        """
        if tokens_BN is None:
            return Context()
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_BNH, attention_mask=tokens_BN
        )
        return Context(tokens_BN, {} if mask is None else {"attention": mask})  # None: there is no padding

    def _embeddings(self, batch: Batch) -> Tensor:
        return self.model.embeddings(input_ids=batch["input_ids"], token_type_ids=batch.get("token_type_ids"))

    def run_layer(self, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        """Run stock layer ``index`` (0-based) on a padded or packed state. The only place that calls a stock layer.

        Where nothing is trained its parts are called one by one: the same bits, without what the stock layer does around
        them in Python, which at batch 1 takes up to a tenth of its time.
        """
        layer = self._layers[index]
        if context.segments is not None:
            return self._run_parts(layer, hidden_BNH, context.segments.attend)
        if self.reduces_tokens and torch.is_inference_mode_enabled() and self._attends_fused(layer):
            return self._run_parts(layer, hidden_BNH, attend, context.rows.get("attention"))
        return layer(hidden_BNH, context.rows.get("attention"))

    def _attends_fused(self, layer: nn.Module) -> bool:
        """Whether the stock layer, as it is now, does what its parts and `attend` do."""
        return not layer.training and self.config._attn_implementation == "sdpa"

    @staticmethod
    def _run_parts(
        layer: nn.Module, hidden: Tensor, attend: Callable[..., Tensor], bias: Tensor | None = None
    ) -> Tensor:
        """Run the parts of a stock layer on a state (B, N, H) or (T, H); for families of `reduces_tokens`.

        Parameters
        ----------
        layer, hidden
            Any row, any token: only ``attend`` knows rows.
        attend
            Called as `attend` or `Segments.attend`.
        bias
            Handed on to it.
        """
        inner = layer.attention.self
        attended = attend(
            inner.query(hidden),
            inner.key(hidden),
            inner.value(hidden),
            inner.attention_head_size,
            inner.dropout,
            bias,
        )
        return layer.feed_forward_chunk(layer.attention.output(attended, hidden))

    # ------------------------------------------------------------------ what all share

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Stock layers in the order in which `run_layer` counts them."""
        return self._layers

    def copy_layer(self, index: int, other: Backbone, source: int) -> None:
        """Take over the weights of layer ``source`` of another encoder of the same family (0-based)."""
        self._layers[index].load_state_dict(other._layers[source].state_dict())

    def lend(self, layers: Sequence[nn.Module]) -> None:
        """Add layers for the time of a training, numbered on from the last; they train and are saved with the others."""
        self.lent = nn.ModuleList(layers)
        self._layers += layers

    def take_back(self) -> None:
        """Forget the layers of `lend`."""
        del self._layers[len(self._layers) - len(self.lent) :], self.lent

    @property
    def config(self) -> PreTrainedConfig:
        """Configuration of the stock model."""
        return self.model.config

    @property
    def hidden_size(self) -> int:
        """Width of the hidden state."""
        return int(self.config.hidden_size)

    def pool_dense(self) -> nn.Linear | None:
        """Return the pre-trained pooler's dense layer, to be copied into heads, or None where there is none."""
        return self._pooler[0]

    def classifier(self) -> nn.Linear | None:
        """Return a fine-tuned checkpoint's own classifier after the last layer, to be copied, or None; see `bring_head`."""
        return self._classifier[0]

    def bring_head(self, dense: nn.Linear, classifier: nn.Linear | None) -> None:
        """Keep a fine-tuned checkpoint's own head for the exits; no classifier where its layer was not loaded."""
        self._pooler, self._classifier = (dense,), (classifier,)

    def layer_parameters(self, start: int, stop: int) -> list[nn.Parameter]:
        """Return the parameters of layers ``start`` to ``stop - 1``, each once."""
        found: dict[int, nn.Parameter] = {}
        for layer in self._layers[start:stop]:
            found.update((id(item), item) for item in layer.parameters())
        return list(found.values())

    def input_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the stock model outside its layers: embeddings and what goes with them."""
        inner = {id(item) for item in self.layer_parameters(0, len(self._layers))}
        return [item for item in self.parameters() if id(item) not in inner]


def attend(
    query_BNW: Tensor,
    key_BNW: Tensor,
    value_BNW: Tensor,
    head_size: int,
    dropout: nn.Dropout,
    bias: Tensor | None,
) -> Tensor:
    """Attend within each row of a padded state, as the stock layers do with fused attention; see `Segments.attend`.

    Parameters
    ----------
    query_BNW, key_BNW, value_BNW
        W is the width of all attention heads.
    head_size, dropout
        Width of one head; dropout of the attention weights, when training.
    bias
        The mask or bias of `Context.rows`, (B, 1, N or 1, N); None: all are tokens.
    """
    split = (item.unflatten(-1, (-1, head_size)).transpose(1, 2) for item in (query_BNW, key_BNW, value_BNW))
    rate = dropout.p if dropout.training else 0.0
    return nn.functional.scaled_dot_product_attention(*split, bias, rate).transpose(1, 2).flatten(2)


def padding_mask(batch: Batch) -> Tensor | None:
    """Return the attention mask, or None when it masks nothing."""
    mask = batch.get("attention_mask")
    return None if mask is None or bool(mask.all()) else mask
