"""The full depth is fine-tuned with layers left out at random, then every (L / k)-th layer is kept: LayerDrop.

Shape suffixes: B rows, N tokens, H hidden width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptive_inference.errors import UserError
from adaptive_inference.exits.build import start_from_layers
from adaptive_inference.exits.head import seeded
from adaptive_inference.objectives._shallow import Shallow

if TYPE_CHECKING:
    from adaptive_inference.backbones.base import Backbone, Batch, Context
    from adaptive_inference.exits.model import ExitStep, MultiExitModel
    from adaptive_inference.settings.training import MethodTraining

_DROPPED = 12  # stream of the generator


class LayerDrop(Shallow):
    """Task loss of all L layers, each left out with probability ``drop_rate`` in a step.

    The model is the kept layers 1, 1 + L / k, ...; what it is scored as and saved as. The others are lent to its backbone
    for the training and run between them.

    Attributes
    ----------
    runs
        Of each of the L layers: whether it runs in this step.
    """

    needs_full = "pretrained"

    def __init__(self, method: MethodTraining) -> None:
        super().__init__(method)
        self.rate = method.drop_rate

    def attach(self, model: MultiExitModel, seed: int) -> None:
        """Put the layers in place; see `Objective.attach`."""
        super().attach(model, seed)
        whole = self.full.backbone
        kept, layers = model.exits[-1], range(self.full.exits[-1])
        start_from_layers(model, self.full, layers[:: self.group])
        if not whole.shares_layers:
            others = [layer for layer in layers if layer % self.group]
            model.backbone.lend([copy.deepcopy(whole.layers[i]).requires_grad_(True).train() for i in others])
            self._place = {layer: kept + index for index, layer in enumerate(others)}
            self._place |= {layer: layer // self.group for layer in layers[:: self.group]}
        elif len(set(map(id, whole.layers))) == 1:
            self._place = dict.fromkeys(layers, 0)  # the same weights at every depth
        else:
            raise UserError(
                f"objective {self.name!r} needs layers that share all weights or none; this {whole.config.model_type} has "
                "several groups of layers"
            )
        self.runs = [True] * len(layers)
        self.full = None  # its weights were copied

    def begin(self, step: int, total: int) -> None:
        """Draw what is left out, from seed and step alone; see `Objective.begin`."""
        drawn = torch.rand(len(self.runs), generator=seeded(self.seed, _DROPPED, step))
        self.runs = (drawn >= self.rate).tolist()

    def steps(self, model: MultiExitModel, batch: Batch) -> Iterator[ExitStep]:
        """See `Objective.steps`."""
        return model.steps(batch, run_layer=partial(self._run, model.backbone))

    def _run(self, backbone: Backbone, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        for layer in range(index * self.group, (index + 1) * self.group):
            if self.runs[layer]:
                hidden_BNH = backbone.run_layer(self._place[layer], hidden_BNH, context)
        return hidden_BNH

    def finish(self, model: MultiExitModel) -> None:
        """Leave the kept layers alone; see `Objective.finish`."""
        if not model.backbone.shares_layers:
            model.backbone.take_back()


def build(method: MethodTraining) -> LayerDrop:
    """Return the objective of a method."""
    return LayerDrop(method)
