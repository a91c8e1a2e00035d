"""An exit's head: read the hidden state, pool it, classify it.

Shape suffixes: B rows, N tokens, T tokens of all rows, H hidden width, C outputs.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from adaptive_inference.backbones._packed import Segments
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
        self, hidden_BNH: Tensor, tokens_BN: Tensor | Segments | None, shared: nn.Linear | None = None
    ) -> Tensor:
        """Return what classifier and certainty head read, (B, H), with a fresh dropout mask."""
        read_BH = read_tokens(hidden_BNH, tokens_BN, self.read)
        if self.activation is not None:
            dense = shared if self.dense is None else self.dense
            read_BH = self.activation(dense(self.input_dropout(read_BH) if self.training else read_BH))
        return self.dropout(read_BH) if self.training else read_BH


class AttentionHead(nn.Module):
    """FastBERT's student head: narrow, attend over the tokens, read, dense, classify; pabee_leebert.md 1.1.

    Dense H -> 128 and tanh, self-attention of 2 heads, the token(s) that ``read`` says, dense and tanh, linear.
    Parameters as in `ExitHead`.
    """

    WIDTH, HEADS = 128, 2

    def __init__(self, hidden_size: int, outputs: int, read: str, recipe: HeadRecipe) -> None:
        super().__init__()
        self.read = read
        self.narrow = nn.Linear(hidden_size, self.WIDTH)
        self.query_key_value = nn.Linear(self.WIDTH, 3 * self.WIDTH)
        self.mix = nn.Linear(self.WIDTH, self.WIDTH)
        self.dense = nn.Linear(self.WIDTH, self.WIDTH)
        self.dropout = nn.Dropout(recipe.dropout)
        self.classifier = nn.Linear(self.WIDTH, outputs)

    def features(
        self, hidden_BNH: Tensor, tokens_BN: Tensor | Segments | None, shared: nn.Linear | None = None
    ) -> Tensor:
        """Return what the classifier reads, (B, 128); ``shared`` is not used."""
        if isinstance(tokens_BN, Segments):  # attends as one padded batch: it is narrow
            hidden_BNH, tokens_BN = tokens_BN.pad(hidden_BNH), tokens_BN.tokens_BN
        narrow_BNW = torch.tanh(self.narrow(hidden_BNH))
        split = self.query_key_value(narrow_BNW).unflatten(-1, (3, self.HEADS, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = split  # each (B, heads, N, W / heads)
        scores = query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5
        if tokens_BN is not None:
            scores = scores.masked_fill(~tokens_BN.bool()[:, None, None], torch.finfo(scores.dtype).min)
        mixed_BNW = (self.dropout(scores.softmax(-1)) @ value).transpose(1, 2).flatten(2)
        return torch.tanh(self.dense(read_tokens(self.mix(mixed_BNW), tokens_BN, self.read)))


def read_tokens(hidden_BNH: Tensor, tokens_BN: Tensor | Segments | None, read: str) -> Tensor:
    """Return the ``first`` token's state or the ``mean`` over tokens that are no padding, (B, H).

    Parameters
    ----------
    hidden_BNH
        Padded, or packed (T, H).
    tokens_BN
        Which of it are tokens, None: all; of a packed state its segments.
    read
        ``first`` or ``mean``.
    """
    if isinstance(tokens_BN, Segments):
        return tokens_BN.first(hidden_BNH) if read == "first" else tokens_BN.mean(hidden_BNH)
    if read == "first":
        return hidden_BNH[:, 0]
    if tokens_BN is None:
        return hidden_BNH.mean(dim=1)
    weight_BN1 = tokens_BN.unsqueeze(-1).to(hidden_BNH.dtype)
    return (hidden_BNH * weight_BN1).sum(dim=1) / weight_BN1.sum(dim=1).clamp(min=1.0)


def make_heads(
    count: int, hidden_size: int, outputs: int, pooler: str, read: str, recipe: HeadRecipe, inner: str
) -> list[ExitHead | AttentionHead]:
    """Return the heads of a model; ``inner: attention`` gives all but the last one FastBERT's form."""
    attentive = count - 1 if inner == "attention" else 0
    return [
        AttentionHead(hidden_size, outputs, read, recipe)
        if index < attentive
        else ExitHead(hidden_size, outputs, pooler, read, recipe)
        for index in range(count)
    ]


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
