"""Layers of the full model are replaced by one new layer per group, at random and then for good: BERT-of-Theseus.

Shape suffixes: B rows, N tokens, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptive_inference.backbones.base import Delegate
from adaptive_inference.exits.build import start_from_layers
from adaptive_inference.exits.head import seeded
from adaptive_inference.objectives._shallow import Shallow
from adaptive_inference.objectives.base import Objective
from adaptive_inference.settings.training import Replacement

if TYPE_CHECKING:
    from adaptive_inference.backbones.base import Backbone, Batch, Context
    from adaptive_inference.exits.model import MultiExitModel
    from adaptive_inference.objectives.base import Whole
    from adaptive_inference.settings.training import MethodTraining

_REPLACED = 11  # stream of the generator


class ReplacedLayers(Shallow):
    """In each step every group of L / k predecessor layers is run, or the successor layer that is to replace it.

    Embeddings and head are the predecessor's and stay as they are; only successor layers are trained. They start as the
    predecessor's first k layers. Predecessor layers run without dropout.

    Attributes
    ----------
    replaced
        Of each group: whether the successor runs in this step.
    """

    needs_full = "fine_tuned"

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        super().__init__(method, whole)
        self.settings = method.replacement or Replacement()

    def operate(self, model: MultiExitModel, seed: int, batches: Iterable[Batch]) -> None:
        """Give the successor its start and freeze the rest; see `Surgery.operate`."""
        super().operate(model, seed, batches)
        layers = model.exits[-1]
        start_from_layers(model, self.full, range(layers))
        model.requires_grad_(False)
        for item in model.backbone.layer_parameters(0, layers):
            item.requires_grad_(True)
        self.replaced = [True] * layers
        self.layers = _Replacing(model.backbone, self)

    def begin(self, step: int, total: int) -> None:
        """Draw what is replaced, from seed and step alone; see `Surgery.begin`."""
        rate = replacing_rate(self.settings, step, total)
        drawn = torch.rand(len(self.replaced), generator=seeded(self.seed, _REPLACED, step))
        self.replaced = (drawn < rate).tolist()

    def finish(self, model: MultiExitModel) -> None:
        """See `Surgery.finish`."""
        self.layers = None


class _Replacing(Delegate):
    """Runs the successor's layer of a group, or the predecessor's layers."""

    def __init__(self, successor: Backbone, drawn: ReplacedLayers) -> None:
        super().__init__(successor)
        self.drawn, self.predecessor = drawn, drawn.given_full().backbone

    def run_layer(self, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        if self.drawn.replaced[index]:
            return super().run_layer(index, hidden_BNH, context)
        if not any(
            self.drawn.replaced
        ):  # nothing that learns is run: give the backward pass somewhere to end
            hidden_BNH = hidden_BNH.detach().requires_grad_(torch.is_grad_enabled())
        for layer in range(index * self.drawn.group, (index + 1) * self.drawn.group):
            hidden_BNH = self.predecessor.run_layer(layer, hidden_BNH, context)
        return hidden_BNH


def replacing_rate(settings: Replacement, step: int, total: int) -> float:
    """Return the probability of a replacement: from ``start`` up to 1, in a line over the first ``ramp`` of the steps."""
    climbed = step / (settings.ramp * total) if settings.ramp else 1.0
    return min(1.0, settings.start + (1.0 - settings.start) * climbed)


class ModuleReplacing(Objective):
    """The plain task loss."""

    surgery_class = ReplacedLayers


OBJECTIVE = ModuleReplacing
