"""Attention as an explanation: the last layer's, and attention rollout (Abnar and Zuidema 2020).

What is read follows the head: one that reads the first token asks how much that token attends to each (``first``); one
that reads the mean of the tokens, how much each is attended to by all tokens on average (``mean``).

Shape suffixes: B rows, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from adaptive_inference.backbones.base import Batch
from adaptive_inference.exits.head import read_tokens
from adaptive_inference.exits.model import MultiExitModel


@torch.no_grad()
def attention_probabilities(model: MultiExitModel, batch: Batch) -> list[Tensor]:
    """Return each layer's probabilities, up to the last exit: (B, heads, N queries, N keys), 0 for keys of padding.

    The stock model is run in eval mode. What queries of padding attend to means nothing.
    """
    model.eval()
    names = ("input_ids", "attention_mask", "token_type_ids")
    given = {name: batch[name] for name in names if batch.get(name) is not None}
    with _eager(model.backbone.config):
        found = model.backbone.model(**given, output_attentions=True).attentions
    return list(found[: model.exits[-1]])


def last_layer_attention(model: MultiExitModel, batch: Batch, read: str | None = None) -> Tensor:
    """Return the last layer's attention to each token, the mean over heads: (B, N), each row sums to 1.

    Parameters
    ----------
    model, batch
        See `attention_probabilities`.
    read
        ``first`` or ``mean``; None: as the last exit's head reads.
    """
    return _attended(model, batch, attention_probabilities(model, batch)[-1].mean(1), read)


def attention_rollout(model: MultiExitModel, batch: Batch, read: str | None = None) -> Tensor:
    """Return the attention to each token through all layers: (B, N), each row sums to 1; see `last_layer_attention`."""
    layers = [layer.mean(1) for layer in attention_probabilities(model, batch)]
    return _attended(model, batch, rolled_out(layers), read)


def rolled_out(layers: Sequence[Tensor]) -> Tensor:
    """Return the product of the layers' attention with residual, (A + I) / 2: the row of a token says where it came from.

    Parameters
    ----------
    layers
        (B, N, N) each, from the first on; rows sum to 1, so that dividing by 2 normalises.
    """
    total = torch.eye(layers[0].shape[-1], device=layers[0].device).expand_as(layers[0])
    for layer in layers:
        total = (layer + torch.eye(layer.shape[-1], device=layer.device)) / 2 @ total
    return total


def _attended(model: MultiExitModel, batch: Batch, attention_BNN: Tensor, read: str | None) -> Tensor:
    """Read the queries as a head reads tokens."""
    return read_tokens(attention_BNN, batch.get("attention_mask"), read or model.heads[-1].read)


@contextmanager
def _eager(config: PreTrainedConfig) -> Iterator[None]:
    """Run attention in the form that gives its probabilities away; the fused one never holds them."""
    usual = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = usual
