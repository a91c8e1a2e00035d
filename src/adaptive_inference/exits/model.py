"""A backbone with exits.

Shape suffixes: B rows, N tokens, H hidden width, E exits, C outputs, L layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from adaptive_inference.backbones._packed import Segments
from adaptive_inference.backbones.base import Backbone, Batch, Layers
from adaptive_inference.backbones.load import WEIGHT_FILE
from adaptive_inference.errors import UserError
from adaptive_inference.exits.forward import EncoderForward, ExitAnswer, Forward, Removal
from adaptive_inference.exits.head import ExitHead
from adaptive_inference.exits.layout import MULTI_EXIT, SavedModel, open_model
from adaptive_inference.exits.saved import describe, empty_parts, fill, save_companions, save_config
from adaptive_inference.exits.weights import save_weights
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.token_reduction.reduction import TokenReduction


@dataclass
class ExitBatch:
    """What all exits answer.

    Attributes
    ----------
    logits
        (B, E, C).
    certainty
        (B, E), or None without certainty heads.
    survivors
        Tokens that each layer ran on, (B, L) int64, of a model that removes tokens; else None.
    """

    logits: Tensor
    certainty: Tensor | None
    survivors: np.ndarray | None = None


class ExitModule(nn.Module, ABC):
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
    @abstractmethod
    def layers_cost(self) -> tuple[int, ...]:
        """Layers run in total by a row that leaves at each exit."""

    @property
    @abstractmethod
    def has_certainty(self) -> bool:
        """Whether exits say how sure they are (LTE)."""

    @property
    def removes_tokens(self) -> bool:
        """Whether rows lose tokens on the way; those of a cascade do not."""
        return False

    @property
    def parameter_count(self) -> int:
        """Number of weights, each shared one once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Tokens that it knows: ids are below this."""

    @abstractmethod
    def start(self, batch: Batch, gradient: str = "shared", *, packed: bool = False) -> Forward:
        """Start a batch on its way; nothing is run before the first `Forward.advance` but what all exits need.

        Parameters
        ----------
        batch, gradient, packed
            See `EncoderForward`.

        Raises
        ------
        UserError
            Packed, and the family of the encoder cannot be.
        """

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **ignored: object,
    ) -> ExitBatch:
        """Return the answers of all exits; inputs are (B, N), other keys of a batch are ignored."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        forward = self.start(batch, packed=self.removes_tokens and len(input_ids) > 1)
        logits, certainty = zip(*((item.logits, item.certainty) for item in forward.answers()), strict=True)
        stacked = None if certainty[0] is None else torch.stack(certainty, dim=1)
        survivors = np.stack(forward.survivors, axis=1) if forward.survivors else None
        return ExitBatch(torch.stack(logits, dim=1), stacked, survivors)

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write configuration, weights, tokenizer, schema and calibration."""

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
    @abstractmethod
    def _from_saved(cls, saved: SavedModel) -> Self:
        """Build the model of a folder that was opened."""

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
    reduction
        Removes tokens on the way (AdapLeR), or None.
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
        reduction: TokenReduction | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.exits = tuple(exits)
        self.heads = nn.ModuleList(heads)
        self.pooler = pooler
        self.certainty_heads = None if certainty_heads is None else nn.ModuleList(certainty_heads)
        self.reduction = reduction
        self.schema, self.tokenizer, self.calibration = schema, tokenizer, None
        # Plain lists beside the registered modules: a ModuleList costs a string conversion per look-up.
        self._heads = list(heads)
        self._certainty = list(certainty_heads or [])

    @property
    def layers_cost(self) -> tuple[int, ...]:
        """Layers run by a row that leaves at each exit: the exits themselves."""
        return self.exits

    @property
    def outputs(self) -> int:
        """Width of the logits: classes, or 1 for a score."""
        return int(self._heads[-1].classifier.out_features)

    @property
    def has_certainty(self) -> bool:
        """Whether the model has certainty heads."""
        return self.certainty_heads is not None

    @property
    def removes_tokens(self) -> bool:
        """Whether the model has a reduction."""
        return self.reduction is not None

    @property
    def vocabulary(self) -> int:
        """Rows of the encoder's embedding."""
        return int(self.backbone.config.vocab_size)

    def start(
        self,
        batch: Batch,
        gradient: str = "shared",
        layers: Layers | None = None,
        removal: Removal | None = None,
        *,
        packed: bool = False,
    ) -> EncoderForward:
        """Start a batch on its way; see `EncoderForward`.

        Parameters
        ----------
        batch, gradient, packed
            See there.
        layers
            Run in place of the backbone's own, by trainings that run layers their own way and where layers are counted.
        removal
            In place of the model's own, which takes out what its `reduction` says.

        Raises
        ------
        UserError
            Packed, and the family of the encoder cannot be.
        """
        if removal is None and self.reduction is not None:
            removal = self.reduction.hard()
        if packed and not self.backbone.reduces_tokens:
            raise UserError(
                f"packed rows are not defined for {self.backbone.family()}, whose attention is made of positions that "
                "all rows share; leave packed out"
            )
        return EncoderForward(
            layers or self.backbone, self.exits, self.read, batch, gradient, removal, packed
        )

    def read(
        self, index: int, hidden_BNH: Tensor, tokens_BN: Tensor | Segments | None, certainty: bool = True
    ) -> ExitAnswer:
        """Run the head of one exit on a state, see `Read`, and its certainty head where there is one and it is asked for."""
        head = self._heads[index]
        features_BH = head.features(hidden_BNH, tokens_BN, self.pooler)
        certain = certainty and bool(self._certainty)
        sure_B = torch.sigmoid(self._certainty[index](features_BH)).squeeze(-1) if certain else None
        return ExitAnswer(self.exits[index], head.classifier(features_BH), sure_B)

    def blocks(self) -> list[list[nn.Parameter]]:
        """Return the parameters that belong to each exit's block, each parameter once.

        Block j holds the layers above exit j - 1 up to exit j, head j and certainty head j; block 0 also the
        embeddings. A shared pooler, and layers that serve several blocks (ALBERT), count with the first. The predictor
        before a layer counts with that layer; `threshold_parameters` belong to no block.
        """
        seen: set[int] = set()
        blocks, start = [], 0
        for index, stop in enumerate(self.exits):
            owned = self.backbone.input_parameters() if index == 0 else []
            owned += self.backbone.layer_parameters(start, stop)
            predictors = [] if self.reduction is None else self.reduction.predictors[start:stop]
            for module in (self.heads[index], self.pooler, *self._certainty[index : index + 1], *predictors):
                owned += [] if module is None else list(module.parameters())
            blocks.append([item for item in owned if not (id(item) in seen or seen.add(id(item)))])
            start = stop
        return blocks

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that start fresh: poolers, classifiers, certainty heads, contribution predictors."""
        others = {id(item) for item in (*self.backbone.parameters(), *self.threshold_parameters())}
        return [item for item in self.parameters() if id(item) not in others]

    def threshold_parameters(self) -> list[nn.Parameter]:
        """Return what decides how much is removed: `TokenReduction.eta` and ``theta``."""
        return [] if self.reduction is None else [self.reduction.eta, self.reduction.theta]

    def without_reduction(self) -> MultiExitModel:
        """Return a model of the same weights that removes nothing; itself where nothing is removed."""
        if self.reduction is None:
            return self
        sure = self._certainty if self.has_certainty else None
        parts = self.backbone, self.exits, self._heads, self.pooler, sure
        return MultiExitModel(*parts, self.schema, self.tokenizer)

    def save_pretrained(self, folder: str | Path) -> None:
        """See `ExitModule.save_pretrained`."""
        folder = Path(folder)
        reduces = self.reduction is not None
        save_config(
            folder, self.kind, describe(self.backbone, self.exits, self._heads, self.has_certainty, reduces)
        )
        save_weights(self, folder / WEIGHT_FILE)
        save_companions(folder, self.schema, self.tokenizer, self.calibration)

    @classmethod
    def _from_saved(cls, saved: SavedModel) -> Self:
        model = cls(**empty_parts(saved.home, saved.config))
        fill(model, saved.home)
        return model
