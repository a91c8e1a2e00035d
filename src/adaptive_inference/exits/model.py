"""A backbone with exits.

Shape suffixes: B rows, N tokens, H hidden width, E exits, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from adaptive_inference.backbones.base import Backbone, Batch, Context
from adaptive_inference.backbones.load import WEIGHT_FILE
from adaptive_inference.exits.head import ExitHead
from adaptive_inference.exits.layout import MULTI_EXIT, SavedModel, open_model
from adaptive_inference.exits.saved import describe, empty_parts, fill, save_companions, save_config
from adaptive_inference.exits.weights import save_weights
from adaptive_inference.tasks.schema import Schema

#: As `Backbone.run_layer`: from a layer's index, the state before it and the context to the state after it.
RunLayer = Callable[[int, Tensor, Context], Tensor]


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """Return the values themselves; the gradient that flows back through them is multiplied by a factor."""
    return _ScaledGradient.apply(values, factor)


@dataclass
class ExitStep:
    """What is known when an exit is reached.

    Attributes
    ----------
    index
        Position of the exit, from 0.
    layer
        Layers run before it, 1 to L.
    logits
        (B, C), before temperature.
    certainty
        (B,) in (0, 1), the estimated probability that this exit is right (LTE); None without certainty heads.
    hidden
        (B, N, H), with its gradient: cutting between blocks happens after the head has read it.
    """

    index: int
    layer: int
    logits: Tensor
    certainty: Tensor | None
    hidden: Tensor


@dataclass
class LateStep:
    """An `ExitStep` whose head runs when its answer is first read, if it ever is; for inference only."""

    index: int
    layer: int
    answer: Callable[[], tuple[Tensor, Tensor | None]]

    @cached_property
    def _answers(self) -> tuple[Tensor, Tensor | None]:
        return self.answer()

    @property
    def logits(self) -> Tensor:
        """See `ExitStep.logits`."""
        return self._answers[0]

    @property
    def certainty(self) -> Tensor | None:
        """See `ExitStep.certainty`."""
        return self._answers[1]


@dataclass
class ExitBatch:
    """Every exit's answer: ``logits`` (B, E, C) and ``certainty`` (B, E) or None."""

    logits: Tensor
    certainty: Tensor | None


class ExitModule(nn.Module):
    """What a multi-exit model and a cascade of models have in common, for engines and evaluation.

    Attributes
    ----------
    kind
        What ``config.json`` calls such a model.
    exits
        Exit layers, 1 to L, ascending.
    schema
        What the answers mean, or None for a bare model.
    tokenizer
        The tokenizer saved with the model, or None.
    calibration
        Content of ``calibration.json``, or None.
    """

    kind: ClassVar[str]
    exits: tuple[int, ...]
    schema: Schema | None
    tokenizer: PreTrainedTokenizerBase | None
    calibration: dict[str, Any] | None

    @property
    def layers_cost(self) -> tuple[int, ...]:
        """Layers run in total by a row that leaves at each exit."""
        raise NotImplementedError

    @property
    def has_certainty(self) -> bool:
        """Whether exits say how sure they are (LTE)."""
        raise NotImplementedError

    def steps(
        self, batch: Batch, gradient: str = "shared", certainty: bool = True, late: bool = False
    ) -> Iterator[ExitStep | LateStep]:
        """Run layers, exit after exit, only as far as the caller asks."""
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **ignored: object,
    ) -> ExitBatch:
        """Return the answers of all exits; inputs are (B, N), other keys of a batch are ignored."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        answers = [(step.logits, step.certainty) for step in self.steps(batch)]  # states are let go at once
        logits, certainty = zip(*answers, strict=True)
        stacked = None if certainty[0] is None else torch.stack(certainty, dim=1)
        return ExitBatch(torch.stack(logits, dim=1), stacked)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write configuration, weights, tokenizer, schema and calibration; files of an earlier model are replaced."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load what `save_pretrained` wrote, or a method's run folder, in eval mode.

        Raises
        ------
        UserError
            The folder holds no model of this kind and format, or a damaged one.
        """
        saved = open_model(folder, cls.kind)
        model = cls._from_saved(saved)
        model.calibration = saved.calibration
        return model.eval()

    @classmethod
    def _from_saved(cls, saved: SavedModel) -> Self:
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device


class MultiExitModel(ExitModule):
    """An encoder with a head after each exit layer.

    Parameters
    ----------
    backbone
        Runs the layers; those above the last exit are never run.
    exits
        Exit layers, ascending.
    heads
        One `ExitHead` per exit.
    pooler
        The dense layer that heads with ``pooler: shared`` call.
    certainty_heads
        One linear H -> 1 per exit (LTE, sweet.md 1.5), or None.
    """

    kind = MULTI_EXIT

    def __init__(
        self,
        backbone: Backbone,
        exits: Sequence[int],
        heads: Sequence[ExitHead],
        pooler: nn.Linear | None = None,
        certainty_heads: Sequence[nn.Linear] | None = None,
        schema: Schema | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.exits = tuple(exits)
        self.heads = nn.ModuleList(heads)
        self.pooler = pooler
        self.certainty_heads = None if certainty_heads is None else nn.ModuleList(certainty_heads)
        self.schema, self.tokenizer, self.calibration = schema, tokenizer, None
        # Plain lists beside the registered modules: a ModuleList costs a string conversion per look-up.
        self._heads = list(heads)
        self._certainty = list(certainty_heads or [])

    @property
    def layers_cost(self) -> tuple[int, ...]:
        """Layers run by a row that leaves at each exit: the exits themselves."""
        return self.exits

    @property
    def has_certainty(self) -> bool:
        """Whether the model has certainty heads."""
        return self.certainty_heads is not None

    def steps(
        self,
        batch: Batch,
        gradient: str = "shared",
        certainty: bool = True,
        late: bool = False,
        run_layer: RunLayer | None = None,
    ) -> Iterator[ExitStep | LateStep]:
        """Run layers up to each exit in turn; nothing beyond the exit last asked for is computed.

        Parameters
        ----------
        batch
            See `Backbone.embed`.
        gradient
            How gradients run backwards; no value changes. ``shared``: as usual. ``blockwise``: each block's state is
            handed to the next one without its gradient (SWEET, sweet.md 1.3), while the head reads it with its
            gradient, so that a loss trains its own block and head, and nothing else but a shared pooler.
            ``equilibrium``: what enters a state is the mean of the gradients of all exits above it, rather than their
            sum: with n exits from here on, 1 / n of its own head's and (n - 1) / n of the deeper layers'
            (ElasticBERT, pabee_leebert.md 1.5).
        certainty
            False leaves the certainty heads out.
        late
            Hand out `LateStep`, whose heads run only where they are read.
        run_layer
            Called in place of the backbone's, by trainings that run layers their own way.

        Yields
        ------
        ExitStep
            Once it is consumed, its loss may be back-propagated at once (with ``blockwise``): nothing that follows
            needs its graph.
        """
        backbone, layer = self.backbone, 0
        run_layer = run_layer or backbone.run_layer
        hidden_BNH, context = backbone.embed(batch)
        certain = certainty and bool(self._certainty)
        for index, exit_layer in enumerate(self.exits):
            while layer < exit_layer:
                hidden_BNH = run_layer(layer, hidden_BNH, context)
                layer += 1
            own_BNH, tokens_BN = hidden_BNH, context.tokens_BN
            if gradient == "equilibrium":
                above = len(self.exits) - index
                own_BNH = scale_gradient(hidden_BNH, 1 / above)
                hidden_BNH = scale_gradient(hidden_BNH, 1 - 1 / above)
            if late:
                answer = partial(self._answer, index, own_BNH, tokens_BN, certain)
                yield LateStep(index, exit_layer, answer)
            else:
                logits_BC, sure_B = self._answer(index, own_BNH, tokens_BN, certain)
                yield ExitStep(index, exit_layer, logits_BC, sure_B, own_BNH)
            if gradient == "blockwise":
                hidden_BNH, context = hidden_BNH.detach(), context.detach()

    def _answer(
        self, index: int, hidden_BNH: Tensor, tokens_BN: Tensor | None, certain: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits (B, C) and certainty (B,) of one exit."""
        head = self._heads[index]
        features_BH = head.features(hidden_BNH, tokens_BN, self.pooler)
        sure_B = torch.sigmoid(self._certainty[index](features_BH)).squeeze(-1) if certain else None
        return head.classifier(features_BH), sure_B

    def blocks(self) -> list[list[nn.Parameter]]:
        """Return the parameters that belong to each exit's block, each parameter once.

        Block j holds the layers above exit j - 1 up to exit j, head j and certainty head j; block 0 also the
        embeddings. A shared pooler, and layers that serve several blocks (ALBERT), count with the first.
        """
        seen: set[int] = set()
        blocks, start = [], 0
        for index, stop in enumerate(self.exits):
            owned = self.backbone.input_parameters() if index == 0 else []
            owned += self.backbone.layer_parameters(start, stop)
            for module in (self.heads[index], self.pooler, *self._certainty[index : index + 1]):
                owned += [] if module is None else list(module.parameters())
            blocks.append([item for item in owned if not (id(item) in seen or seen.add(id(item)))])
            start = stop
        return blocks

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are not the backbone's: poolers, classifiers, certainty heads."""
        inner = {id(item) for item in self.backbone.parameters()}
        return [item for item in self.parameters() if id(item) not in inner]

    def save_pretrained(self, folder: str | Path) -> None:
        """See `ExitModule.save_pretrained`."""
        folder = Path(folder)
        save_config(folder, self.kind, describe(self.backbone, self.exits, self._heads, self.has_certainty))
        save_weights(self, folder / WEIGHT_FILE)
        save_companions(folder, self.schema, self.tokenizer, self.calibration)

    @classmethod
    def _from_saved(cls, saved: SavedModel) -> Self:
        model = cls(**empty_parts(saved.home, saved.config))
        fill(model, saved.home)
        return model
