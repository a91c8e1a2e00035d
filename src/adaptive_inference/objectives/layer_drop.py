"""The full depth is fine-tuned with layers left out at random, then every (L / k)-th layer is kept: LayerDrop.

Shape suffixes: B rows, N tokens, H hidden width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptive_inference.backbones.base import Delegate
from adaptive_inference.errors import UserError
from adaptive_inference.exits.build import start_from_layers
from adaptive_inference.exits.head import seeded
from adaptive_inference.objectives._shallow import Shallow
from adaptive_inference.objectives.base import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from adaptive_inference.backbones.base import Backbone, Batch, Context
    from adaptive_inference.exits.model import MultiExitModel
    from adaptive_inference.objectives.base import Whole
    from adaptive_inference.settings.training import MethodTraining

_DROPPED = 12  # stream of the generator


class DroppedLayers(Shallow):
    """Leaves each of the L layers out with probability ``drop_rate`` in a step.

    The model is the kept layers 1, 1 + L / k, ...; what it is scored as and saved as. The others are lent to its backbone
    for the training and run between them.

    Attributes
    ----------
    runs
        Of each of the L layers: whether it runs in this step.
    """

    needs_full = "pretrained"

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        super().__init__(method, whole)
        self.rate = method.drop_rate

    def operate(self, model: MultiExitModel, seed: int, batches: Iterable[Batch]) -> None:
        """Put the layers in place; see `Surgery.operate`."""
        super().operate(model, seed, batches)
        whole = self.full.backbone
        self.check_encoder(type(whole), whole.config)
        kept, layers = model.exits[-1], range(self.full.exits[-1])
        start_from_layers(model, self.full, layers[:: self.group])
        if not whole.shares_layers:
            others = [layer for layer in layers if layer % self.group]
            model.backbone.lend([copy.deepcopy(whole.layers[i]).requires_grad_(True).train() for i in others])
            places = {layer: kept + index for index, layer in enumerate(others)}
            places |= {layer: layer // self.group for layer in layers[:: self.group]}
        else:
            places = dict.fromkeys(layers, 0)  # the same weights at every depth
        self.runs = [True] * len(layers)
        self.layers = _Dropping(model.backbone, self, places)
        self.full = None  # its weights were copied

    def check_encoder(self, kind: type[Backbone], config: PreTrainedConfig) -> None:
        """See `Surgery.check_encoder`: layers share all weights or none."""
        if kind.shares_layers and config.num_hidden_groups > 1:
            raise UserError(
                f"objective {self.name!r} needs layers that share all weights or none; this {kind.family()} has "
                f"{config.num_hidden_groups} groups of layers: use another encoder, or leave the method out"
            )

    def begin(self, step: int, total: int) -> None:
        """Draw what is left out, from seed and step alone; see `Surgery.begin`."""
        drawn = torch.rand(len(self.runs), generator=seeded(self.seed, _DROPPED, step))
        self.runs = (drawn >= self.rate).tolist()

    def finish(self, model: MultiExitModel) -> None:
        """Leave the kept layers alone; see `Surgery.finish`."""
        self.layers = None
        if not model.backbone.shares_layers:
            model.backbone.take_back()


class _Dropping(Delegate):
    """Runs in place of each layer those of its group that were drawn; ``places`` says where the backbone has them."""

    def __init__(self, backbone: Backbone, drawn: DroppedLayers, places: dict[int, int]) -> None:
        super().__init__(backbone)
        self.drawn, self.places = drawn, places

    def run_layer(self, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        for layer in range(index * self.drawn.group, (index + 1) * self.drawn.group):
            if self.drawn.runs[layer]:
                hidden_BNH = super().run_layer(self.places[layer], hidden_BNH, context)
        return hidden_BNH


class LayerDrop(Objective):
    """The plain task loss."""

    surgery_class = DroppedLayers


OBJECTIVE = LayerDrop
