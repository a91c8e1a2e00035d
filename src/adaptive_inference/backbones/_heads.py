"""Attention heads taken out for real: their rows and columns of the projections go, and their FLOPs with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from adaptive_inference.backbones.base import Backbone
from adaptive_inference.errors import UserError


def check_removable(kind: type[Backbone]) -> None:
    """Refuse families whose stock layers do not read the number of heads off their weights.

    Raises
    ------
    UserError
        Names the family.
    """
    if not kind.removable_heads:
        raise UserError(
            f"attention heads of {kind.family()} cannot be taken out one by one; use bert or roberta"
        )


def head_counts(backbone: Backbone) -> list[int] | None:
    """Return the heads of each layer where some were taken out, else None."""
    if not backbone.removable_heads:
        return None
    counts = [layer.attention.self.num_attention_heads for layer in backbone.layers]
    return None if set(counts) == {backbone.config.num_attention_heads} else counts


def keep_heads(layer: nn.Module, heads: Sequence[int]) -> None:
    """Leave a stock layer these of its heads, in place.

    Parameters
    ----------
    layer
        Of a backbone that `check_removable` passes.
    heads
        Ascending, at least one.
    """
    attention = layer.attention.self
    width = attention.attention_head_size
    kept = torch.cat([torch.arange(head * width, (head + 1) * width) for head in heads])
    for linear in (attention.query, attention.key, attention.value):
        _keep(linear.weight, kept, 0)
        _keep(linear.bias, kept, 0)
        linear.out_features = len(kept)
    mixed = layer.attention.output.dense
    _keep(mixed.weight, kept, 1)
    mixed.in_features = attention.all_head_size = len(kept)
    attention.num_attention_heads = len(heads)


def _keep(parameter: nn.Parameter, kept: torch.Tensor, dim: int) -> None:
    parameter.data = parameter.data.index_select(dim, kept.to(parameter.device))
