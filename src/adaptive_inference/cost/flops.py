"""What leaving at an exit costs: layers run, and exact matrix-multiplication FLOPs at the row's true length.

FLOPs are counted, not modelled: `torch.utils.flop_counter.FlopCounterMode` watches the stock layers work on the meta
device (shapes only, no arithmetic), with eager attention so that every product is seen. Two per multiply-add; additions,
softmax, norms and look-ups count nothing. The count of an encoder is a polynomial of second degree in the length, so
three lengths give all of them. Some have a kink (DeBERTa's relative positions, where inputs are longer than their
range): then every length is counted by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.flop_counter import FlopCounterMode

    from adaptive_inference.backbones.base import Backbone, Context
    from adaptive_inference.exits import MultiExitModel, MultiModel

    Model = MultiExitModel | MultiModel


def layers_speedup(num_layers: int, layers_run: np.ndarray) -> np.ndarray:
    """Return how many times fewer layers than the full model's: ``L N / sum(layers run)``, ``(..., N) -> (...)``.

    Parameters
    ----------
    num_layers
        L, layers of the full fine-tuned model.
    layers_run
        Layers run for each row, those of earlier members of a cascade included.
    """
    layers_run = np.asarray(layers_run)
    return num_layers * layers_run.shape[-1] / layers_run.sum(-1)


def flops_speedup(full_flops: np.ndarray, flops: np.ndarray) -> np.ndarray:
    """Return how many times fewer FLOPs over all rows, ``(N,)`` and ``(..., N) -> (...)``."""
    return full_flops.sum(dtype=np.float64) / flops.sum(-1, dtype=np.float64)


def flops_by_exit(model: Model, lengths: np.ndarray) -> np.ndarray:
    """Return the FLOPs of each row when it leaves at each exit.

    Embeddings, the layers run, and the head of every exit passed are in (a cascade: every member started); certainty
    heads are not, see `certainty_flops`.

    Parameters
    ----------
    model
        A `MultiExitModel` or `MultiModel`.
    lengths
        Tokens of each row, ``(N,)``.

    Returns
    -------
    array of int64, ``(N, E)``
    """
    distinct, where = np.unique(np.asarray(lengths), return_inverse=True)
    twin = _meta_twin(model)
    counts = _by_length(lambda length: count_flops(twin, length), [int(n) for n in distinct])
    return np.array([counts[int(n)] for n in distinct], dtype=np.int64)[where]


def certainty_flops(model: Model) -> np.ndarray:
    """Return what the certainty heads add up to each exit, ``(E,)`` int64, for a rule that reads them.

    They read the pooled vector that the classifier reads, so their cost does not depend on the length.
    """
    twin = _meta_twin(model)
    with_them, without = (
        np.array(count_flops(twin, 2, certainty), dtype=np.int64) for certainty in (True, False)
    )
    return with_them - without


def count_flops(model: Model, length: int, certainty: bool = False) -> list[int]:
    """Count the FLOPs of one row of ``length`` tokens up to each exit; fused attention kernels are not seen.

    Of layers of one class with parameters of the same shapes, one is run and the others are given its count.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    batch = {"input_ids": torch.zeros(1, length, dtype=torch.long, device=model.device)}
    known: dict[tuple[object, ...], int] = {}
    counts, spared = [], 0
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        for member in getattr(model, "members", [model]):
            layers = _AlikeOnce(member.backbone, counter, known)
            forward = member.start(batch, layers=layers)
            for index in range(len(member.exits)):
                forward.reach(index, certainty)
                counts.append(counter.get_total_flops() + spared + layers.spared)
            spared += layers.spared
    return counts


class _AlikeOnce:
    """The layers of a backbone, of which one of each kind is run; ``spared`` counts what the others would cost."""

    def __init__(
        self, backbone: Backbone, counter: FlopCounterMode, known: dict[tuple[object, ...], int]
    ) -> None:
        self.backbone, self.counter, self.known = backbone, counter, known
        self.embed = backbone.embed
        self.spared = 0

    def run_layer(self, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        shapes = (tuple(item.shape) for item in self.backbone.layer_parameters(index, index + 1))
        kind = (type(self.backbone), *shapes)
        if kind in self.known:
            self.spared += self.known[kind]
            return hidden_BNH
        before = self.counter.get_total_flops()
        hidden_BNH = self.backbone.run_layer(index, hidden_BNH, context)
        self.known[kind] = self.counter.get_total_flops() - before
        return hidden_BNH


def _by_length(count: Callable[[int], list[int]], lengths: list[int]) -> dict[int, list[int]]:
    """Return the counts at sorted lengths: by interpolation where the first and last three lie on one parabola.

    This is exact with one kink too. Where the kink lies between the first and the last three, these lie on two different
    parabolas, which share two points at most; where it lies among them, all others lie on the parabola of the far three.
    """
    if len(lengths) <= 6:
        return {length: count(length) for length in lengths}
    nodes, checks = lengths[:3], lengths[-3:]
    seen = {length: count(length) for length in (*nodes, *checks)}

    def parabola(length: int) -> list[int]:
        turns = (nodes, nodes[1:] + nodes[:1], nodes[2:] + nodes[:2])
        weights = [Fraction((length - b) * (length - c), (a - b) * (a - c)) for a, b, c in turns]
        values = zip(*(seen[node] for node in nodes), strict=True)
        return [sum(w * v for w, v in zip(weights, value, strict=True)) for value in values]

    if any(parabola(check) != seen[check] for check in checks):
        return {length: seen.get(length) or count(length) for length in lengths}
    return {length: [int(value) for value in parabola(length)] for length in lengths}


def _meta_twin(model: Model) -> Model:
    """Return a copy on the meta device with eager attention, without copying a single weight."""
    import torch

    memo: dict[int, object] = {}
    for tensor in model.buffers():
        memo[id(tensor)] = tensor.to("meta")
    for tensor in model.parameters():
        memo[id(tensor)] = torch.nn.Parameter(tensor.detach().to("meta"), requires_grad=False)
    if model.tokenizer is not None:
        memo[id(model.tokenizer)] = model.tokenizer
    twin = copy.deepcopy(model, memo).eval()
    for module in twin.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = "eager"
    return twin
