"""An exit's head: read the hidden state, pool it, classify it.

Shape suffixes: B rows, N tokens, H hidden width, C outputs.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from adaptive_inference.backbones.base import HeadRecipe

#: Spread of freshly made weights, BERT's `initializer_range`.
INITIAL_STD = 0.02


class ExitHead(nn.Module):
    """Read -> (dense -> activation) -> dropout -> linear; sweet.md 1.2.

    Parameters
    ----------
    hidden_size
        H.
    outputs
        C: classes, or 1 for a score.
    pooler
        ``none``: the classifier reads the hidden state itself; ``shared``: the dense layer is given with each
        call; ``per_exit``: the head owns one.
    read
        ``first`` token, or the ``mean`` over the tokens that are no padding.
    recipe
        Activation and dropouts of the backbone's family.
    """

    def __init__(self, hidden_size: int, outputs: int, pooler: str, read: str, recipe: HeadRecipe) -> None:
        super().__init__()
        self.pooler, self.read = pooler, read
        self.dense = nn.Linear(hidden_size, hidden_size) if pooler == "per_exit" else None
        self.activation = ACT2FN[recipe.activation] if pooler != "none" else None
        self.input_dropout = nn.Dropout(recipe.input_dropout)
        self.dropout = nn.Dropout(recipe.dropout)
        self.classifier = nn.Linear(hidden_size, outputs)

    def features(
        self, hidden_BNH: Tensor, tokens_BN: Tensor | None, shared: nn.Linear | None = None
    ) -> Tensor:
        """Return what classifier and certainty head read, (B, H), with a fresh dropout mask."""
        if self.read == "first":
            read_BH = hidden_BNH[:, 0]
        elif tokens_BN is None:
            read_BH = hidden_BNH.mean(dim=1)
        else:
            weight_BN1 = tokens_BN.unsqueeze(-1).to(hidden_BNH.dtype)
            read_BH = (hidden_BNH * weight_BN1).sum(dim=1) / weight_BN1.sum(dim=1).clamp(min=1.0)
        if self.activation is not None:
            dense = shared if self.dense is None else self.dense
            read_BH = self.activation(dense(self.input_dropout(read_BH) if self.training else read_BH))
        return self.dropout(read_BH) if self.training else read_BH


def seeded(seed: int, *parts: int) -> torch.Generator:
    """Return a generator that depends on nothing but the seed and the parts (exit layer, purpose)."""
    generator = torch.Generator()
    value = seed
    for part in parts:
        value = value * 1_000_003 + part + 1
    return generator.manual_seed(value % (2**63))


def fresh_linear(linear: nn.Linear, generator: torch.Generator) -> nn.Linear:
    """Fill with N(0, 0.02) and zero bias, as BERT does; return the layer."""
    with torch.no_grad():
        linear.weight.normal_(0.0, INITIAL_STD, generator=generator)
        linear.bias.zero_()
    return linear


def pooler_copy(pretrained: nn.Linear | None, hidden_size: int, generator: torch.Generator) -> nn.Linear:
    """Return a copy of the pre-trained pooler's dense layer, or a fresh one where there is none."""
    if pretrained is not None:
        return copy.deepcopy(pretrained)
    return fresh_linear(nn.Linear(hidden_size, hidden_size), generator)
