"""A multi-exit model cut into pieces that a tracer can follow: from a cut to the next, heads inside.

Shape suffixes: B rows, N tokens, H hidden width, E exits of a segment, C outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_inference.backbones.base import Backbone, Context
from adaptive_inference.exits.model import MultiExitModel

#: Parts of a `Context` that are handed on, as ``KIND.NAME``.
_KINDS = ("rows", "pairs", "shared")


class Segment(nn.Module):
    """The layers and heads after one cut up to the next.

    It owns the model: weights that a wrapper only refers to are traced as constants, which quantisation skips.

    Parameters
    ----------
    model
        Without token reduction.
    exits
        Indices of the exits that it answers, ascending, without gaps; it ends at the last of them.
    names
        What `forward` is given, in this order.
    shared
        Names of what layers share; the first segment makes them, the others are given them.
    certainty
        Whether the certainty heads answer too.
    """

    def __init__(
        self,
        model: MultiExitModel,
        exits: Sequence[int],
        names: Sequence[str],
        shared: Sequence[str],
        certainty: bool,
    ) -> None:
        super().__init__()
        self.model, self.exits, self.names, self.shared = model, exits, names, shared
        self.certainty = certainty

    @property
    def is_first(self) -> bool:
        """Whether it reads tokens."""
        return self.exits[0] == 0

    @property
    def is_last(self) -> bool:
        """Whether nothing follows it."""
        return self.exits[-1] == len(self.model.exits) - 1

    @property
    def outputs(self) -> list[str]:
        """Names of what `forward` returns."""
        names = ["logits"] + (["certainty"] if self.certainty else [])
        if not self.is_last:
            names = ["hidden", *(self.shared if self.is_first else ()), *names]
        return names

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Run the layers and the heads.

        Parameters
        ----------
        given
            By ``names``: the columns of a batch (B, N), of which one row at least is padded while it is traced; or
            ``hidden`` (B, N, H), ``attention_mask`` (B, N) and what layers share.

        Returns
        -------
        tuple of Tensor
            By `outputs`: ``logits`` (B, E, C), ``certainty`` (B, E), ``hidden`` (B, N, H).
        """
        known, backbone = dict(zip(self.names, given, strict=True)), self.model.backbone
        if self.is_first:
            hidden_BNH, context = embedded(self.model, known)
        else:
            hidden_BNH, context = known["hidden"], unflat(known)
        layer = 0 if self.is_first else self.model.exits[self.exits[0] - 1]
        logits, certainty = [], []
        for index in self.exits:
            while layer < self.model.exits[index]:
                hidden_BNH = _run_layer(backbone, layer, hidden_BNH, context)
                layer += 1
            answer = self.model.read(index, hidden_BNH, context.tokens_BN, self.certainty)
            logits.append(answer.logits)
            certainty.append(answer.certainty)
        made = {"hidden": hidden_BNH, "logits": torch.stack(logits, dim=1), **flat(context)}
        if self.certainty:
            made["certainty"] = torch.stack(certainty, dim=1)
        return tuple(made[name] for name in self.outputs)


def _run_layer(backbone: Backbone, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
    """Run a layer; where its family's attention is plain, as one operator in place of a dozen."""
    if not backbone.reduces_tokens:
        return backbone.run_layer(index, hidden_BNH, context)
    bias = context.pairs.get("bias")

    def attend(query: Tensor, key: Tensor, value: Tensor, head_size: int, *_: object) -> Tensor:
        heads = query.shape[-1] // head_size
        return _Attention.apply(query, key, value, context.rows["attention"], bias, int(heads))

    return backbone._run_parts(backbone.layers[index], hidden_BNH, attend)


class _Attention(torch.autograd.Function):
    """Attention of all heads, which ONNX Runtime has as one operator."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask_BN: Tensor, bias: Tensor | None, heads: int
    ) -> Tensor:
        """Attend from each token of a row to all, (B, N, W) -> (B, N, W).

        Parameters
        ----------
        ctx, query, key, value
            W is the width of all heads.
        mask_BN
            int32, 1 for tokens.
        bias
            (1, heads, N, N) of pairs of tokens, or None.
        heads
            Their number.
        """
        split = (item.unflatten(-1, (heads, -1)).transpose(1, 2) for item in (query, key, value))
        hides = (1 - mask_BN[:, None, None].to(query.dtype)) * torch.finfo(query.dtype).min
        hides = hides if bias is None else hides + bias
        return torch.nn.functional.scaled_dot_product_attention(*split, hides).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(g: Any, query: Any, key: Any, value: Any, mask_BN: Any, bias: Any, heads: int) -> Any:
        """Tell the tracer the operator."""
        none = g.op("prim::Constant")
        none.setType(torch._C.OptionalType.ofTensor())
        found = g.op(
            "com.microsoft::MultiHeadAttention",
            query,
            key,
            value,
            none,
            mask_BN,
            bias or none,
            num_heads_i=heads,
        )
        return found.setType(query.type())


def embedded(model: MultiExitModel, columns: dict[str, Tensor]) -> tuple[Tensor, Context]:
    """Return the first hidden state and what layers share; see `Backbone.embed`.

    Of a family with plain attention, ``rows`` holds the mask as `_Attention` reads it, in place of transformers' bias.
    """
    hidden_BNH, context = model.backbone.embed(columns)
    if not model.backbone.reduces_tokens:
        return hidden_BNH, context
    return hidden_BNH, replace(context, rows={"attention": columns["attention_mask"].to(torch.int32)})


def flat(context: Context) -> dict[str, Tensor]:
    """Return what a context holds for all layers, by ``KIND.NAME``."""
    return {
        f"{kind}.{name}": item
        for kind in _KINDS
        for name, item in getattr(context, kind).items()
        if item is not None
    }


def unflat(known: dict[str, Tensor]) -> Context:
    """Return the context of which `flat` gave the parts."""
    parts: dict[str, dict[str, Tensor]] = {kind: {} for kind in _KINDS}
    for name, item in known.items():
        kind, dot, rest = name.partition(".")
        if dot:
            parts[kind][rest] = item
    return Context(known["attention_mask"], **parts)


@contextlib.contextmanager
def eager_attention(model: MultiExitModel) -> Iterator[None]:
    """Let layers attend by plain products for a while: fused kernels trace into graphs that no runtime fuses again."""
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = "eager"
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
