"""What leaving at an exit costs: layers run, and exact matrix-multiplication FLOPs at the row's true lengths.

FLOPs are counted, not modelled: `torch.utils.flop_counter.FlopCounterMode` watches the stock layers work on the meta
device (shapes only, no arithmetic), with eager attention so that every product is seen. Two per multiply-add; additions,
softmax, norms and look-ups count nothing. The count of each step is a polynomial of second degree in the length at which
it runs, so three lengths give all of them. Some have a kink (DeBERTa's relative positions, where inputs are longer than
their range): then every length is counted by itself.

A row that loses tokens on the way pays for each step at the length it has there (adapler.md 3): the embeddings at its
own; the predictor before a layer at the length before that removal; the layer, and a head after it, at what is left.

Shapes: N rows, E exits, L layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.utils.flop_counter import FlopCounterMode

    from adaptive_inference.backbones.base import Backbone, Context
    from adaptive_inference.exits import MultiExitModel, MultiModel
    from adaptive_inference.exits.forward import EncoderForward
    from adaptive_inference.token_reduction.reduction import TokenReduction

    Model = MultiExitModel | MultiModel
    AnyModel = TypeVar("AnyModel", bound=Module)
    Count = Callable[[int], list[int]]

#: So many lengths are counted each by itself.
_DIRECT = 6


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


def flops_by_exit(model: Model, lengths: np.ndarray, survivors: np.ndarray | None = None) -> np.ndarray:
    """Return the FLOPs of each row when it leaves at each exit, (N, E) int64; see `FlopCount.by_exit`.

    Certainty heads are not in, see `certainty_flops`.
    """
    return FlopCount(model).by_exit(lengths, survivors)


def certainty_flops(model: Model) -> np.ndarray:
    """Return what the certainty heads add up to each exit, ``(E,)`` int64, for a rule that reads them.

    They read the pooled vector that the classifier reads, so their cost does not depend on the length.
    """
    length = np.array([2])
    survivors = np.full((1, model.exits[-1]), 2) if _reduces(model) else None
    with_them, without = (FlopCount(model, sure).by_exit(length, survivors)[0] for sure in (True, False))
    return with_them - without


class FlopCount:
    """Counts what rows cost; a length that was counted once is not counted again.

    Parameters
    ----------
    model
        A `MultiExitModel` or `MultiModel`; nothing of it is changed.
    certainty
        Whether certainty heads are run at the exits passed.
    longest
        Where lengths come a few at a time: the longest, up to which they are interpolated as many at once are.
    """

    def __init__(self, model: Model, certainty: bool = False, longest: int = 0) -> None:
        self._twin, self._certainty = meta_twin(model), certainty
        # At each length, the steps of all members; a layer that was not run costs nothing.
        self._known = {0: [0] * sum(_step_count(member) for member in _members(model))}
        self._longest, self._between = longest, None
        if longest > _DIRECT:
            seen, self._between = _parabola(self._count, range(1, longest + 1))
            self._known |= seen

    def by_exit(self, lengths: np.ndarray, survivors: np.ndarray | None = None) -> np.ndarray:
        """Return the FLOPs of each row when it leaves at each exit.

        Embeddings, the layers run and the predictors before them, and the head of every exit passed are in (a cascade:
        every member started).

        Parameters
        ----------
        lengths
            Tokens of each row, ``(N,)``.
        survivors
            Tokens that each layer ran on, ``(N, L)``, of a model that removes tokens; None of any other. A row's exits
            behind a layer with 0, one that was not run, have no meaning.

        Returns
        -------
        array of int64, ``(N, E)``

        Raises
        ------
        ValueError
            Survivors lack, or are given for a model that removes nothing, or are of another shape.
        """
        lengths = np.asarray(lengths, dtype=np.int64)
        layers = self._twin.exits[-1]
        if (survivors is not None) != _reduces(self._twin):
            raise ValueError("survivors go with a model that removes tokens, and with no other")
        if survivors is not None and survivors.shape != (len(lengths), layers):
            raise ValueError(f"survivors of shape {survivors.shape} are not ({len(lengths)}, {layers})")
        total_N1, columns, start = np.zeros((len(lengths), 1), dtype=np.int64), [], 0
        for member in _members(self._twin):
            steps = self._steps(member, start, lengths, survivors)
            columns.append(total_N1 + steps)
            total_N1, start = columns[-1][:, -1:], start + _step_count(member)
        return np.concatenate(columns, axis=1)

    def _steps(
        self, member: MultiExitModel, start: int, lengths: np.ndarray, survivors: np.ndarray | None
    ) -> np.ndarray:
        """Return what a member costs up to each of its exits, (N, E); its steps stand behind ``start`` others."""
        depth, exits = member.exits[-1], np.array(member.exits)
        after_NL = np.tile(lengths[:, None], depth) if survivors is None else survivors
        before_NL = np.concatenate([lengths[:, None], after_NL[:, :-1]], axis=1)
        at_NS = np.concatenate([lengths[:, None], before_NL, after_NL, after_NL[:, exits - 1]], axis=1)
        distinct, where = np.unique(at_NS, return_inverse=True)
        table = self._table([int(n) for n in distinct])[:, start : start + at_NS.shape[1]]
        costs_NS = table[where.reshape(at_NS.shape), np.arange(at_NS.shape[1])]
        layers_NL = costs_NS[:, 1 : 1 + depth] + costs_NS[:, 1 + depth : 1 + 2 * depth]
        heads_NE = costs_NS[:, 1 + 2 * depth :]
        return costs_NS[:, :1] + layers_NL.cumsum(1)[:, exits - 1] + heads_NE.cumsum(1)

    def _table(self, lengths: list[int]) -> np.ndarray:
        new = [n for n in lengths if n not in self._known]
        if self._between is not None:
            self._known |= {n: self._between(n) for n in new if n <= self._longest}
            new = [n for n in new if n > self._longest]
        self._known |= by_length(self._count, new)
        return np.array([self._known[n] for n in lengths], dtype=np.int64)

    def _count(self, length: int) -> list[int]:
        known: dict[tuple[object, ...], int] = {}
        members = _members(self._twin)
        return [step for member in members for step in _count_steps(member, length, self._certainty, known)]


def _members(model: Model) -> list[MultiExitModel]:
    return list(getattr(model, "members", [model]))


def _reduces(model: Model) -> bool:
    return getattr(model, "reduction", None) is not None


def _step_count(member: MultiExitModel) -> int:
    return 1 + 2 * member.exits[-1] + len(member.exits)


def _count_steps(
    member: MultiExitModel, length: int, certainty: bool, known: dict[tuple[object, ...], int]
) -> list[int]:
    """Count one row of ``length`` tokens, of which none goes; fused attention kernels are not seen.

    Of layers of one class with parameters of the same shapes, one is run and the others are given its count.

    Returns
    -------
    list of int
        FLOPs of the embeddings, of the predictor before each layer (0 where there is none), of each layer, and of the
        head of each exit.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    batch = {"input_ids": torch.zeros(1, length, dtype=torch.long, device=member.device)}
    marks = []
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        layers = _AlikeOnce(member.backbone, counter, known)
        predictors = None if member.reduction is None else _PredictorsAlone(member.reduction, counter)
        forward = member.start(batch, layers=layers, removal=predictors)
        embedding = counter.get_total_flops()
        for index in range(len(member.exits)):
            forward.advance(index)
            marks.append(counter.get_total_flops())
            forward.answer(index, certainty)
            forward.release(index)
            marks.append(counter.get_total_flops())
    heads = [after - before for before, after in pairwise(marks)][::2]
    predicted = [0] * len(layers.costs) if predictors is None else predictors.costs
    return [embedding, *predicted, *layers.costs, *heads]


class _AlikeOnce:
    """The layers of a backbone, of which one of each kind is run; ``costs`` are the counts of all of them."""

    def __init__(
        self, backbone: Backbone, counter: FlopCounterMode, known: dict[tuple[object, ...], int]
    ) -> None:
        self.backbone, self.counter, self.known = backbone, counter, known
        self.embed = backbone.embed
        self.costs: list[int] = []

    def run_layer(self, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        shapes = (tuple(item.shape) for item in self.backbone.layer_parameters(index, index + 1))
        kind = (type(self.backbone), *shapes)
        if kind not in self.known:
            before = self.counter.get_total_flops()
            hidden_BNH = self.backbone.run_layer(index, hidden_BNH, context)
            self.known[kind] = self.counter.get_total_flops() - before
        self.costs.append(self.known[kind])
        return hidden_BNH


class _PredictorsAlone:
    """A removal that predicts and removes nothing: what goes depends on values, and here are shapes alone."""

    def __init__(self, reduction: TokenReduction, counter: FlopCounterMode) -> None:
        self.reduction, self.counter = reduction, counter
        self.costs: list[int] = []

    def before_layer(self, index: int, forward: EncoderForward) -> None:
        """Count the predictor of a layer."""
        before = self.counter.get_total_flops()
        self.reduction.predictors[index](forward.hidden_BNH)
        self.costs.append(self.counter.get_total_flops() - before)

    def detach(self) -> None:
        """Nothing is carried from layer to layer."""


def by_length(count: Count, lengths: Sequence[int]) -> dict[int, list[int]]:
    """Return the counts at sorted lengths, by interpolation where they lie on a parabola."""
    if len(lengths) <= _DIRECT:
        return {length: count(length) for length in lengths}
    seen, between = _parabola(count, lengths)
    if between is None:
        return {length: seen.get(length) or count(length) for length in lengths}
    return {length: between(length) for length in lengths}


def _parabola(count: Count, lengths: Sequence[int]) -> tuple[dict[int, list[int]], Count | None]:
    """Return the counts at the first and last three of sorted lengths, and the parabola that these lie on, or None.

    It is exact at all lengths, with one kink too. Where the kink lies between the first and the last three, these lie on
    two different parabolas, which share two points at most; where it lies among them, all others lie on the parabola of
    the far three.
    """
    nodes, checks = lengths[:3], lengths[-3:]
    seen = {length: count(length) for length in (*nodes, *checks)}
    turns = [(node, *(other for other in nodes if other != node)) for node in nodes]

    def exact(length: int) -> list[Fraction]:
        weights = [Fraction((length - b) * (length - c), (a - b) * (a - c)) for a, b, c in turns]
        values = zip(*(seen[node] for node in nodes), strict=True)
        return [sum(w * v for w, v in zip(weights, value, strict=True)) for value in values]

    if any(exact(check) != seen[check] for check in checks):
        return seen, None
    return seen, lambda length: [int(value) for value in exact(length)]


def meta_twin(model: AnyModel) -> AnyModel:
    """Return a copy on the meta device with eager attention, without copying a single weight.

    Parameters
    ----------
    model
        A model of ours or of transformers.
    """
    import torch

    memo: dict[int, object] = {}
    for tensor in model.buffers():
        memo[id(tensor)] = tensor.to("meta")
    for tensor in model.parameters():
        memo[id(tensor)] = torch.nn.Parameter(tensor.detach().to("meta"), requires_grad=False)
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None:
        memo[id(tokenizer)] = tokenizer
    twin = copy.deepcopy(model, memo).eval()
    for module in twin.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = "eager"
    return twin
