"""What trainings share that end in a static model of k layers in place of L."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptive_inference.errors import UserError
from adaptive_inference.objectives.base import Objective, task_loss

if TYPE_CHECKING:
    from torch import Tensor

    from adaptive_inference.exits.model import ExitStep, MultiExitModel


class Shallow(Objective):
    """Plain task loss of one exit; `full` has L layers, the model k, and each of these stands for L / k of those.

    Attributes
    ----------
    group
        L / k.
    """

    group: int

    def attach(self, model: MultiExitModel, seed: int) -> None:
        """Freeze `full` and count its layers per layer of the model; see `Objective.attach`."""
        if self.full is None:
            raise RuntimeError(
                f"objective {self.name!r} reads a model of all layers: set `full` before the training"
            )
        kept, layers = model.exits[-1], self.full.exits[-1]
        allowed = [count for count in range(1, layers + 1) if layers % count == 0]
        if len(model.exits) > 1 or kept not in allowed:
            raise UserError(
                f"objective {self.name!r} makes a model of one exit after k layers, where k divides the {layers} layers of "
                f"the full model; `exits` is {list(model.exits)}, allowed: {', '.join(f'[{count}]' for count in allowed)}"
            )
        self.group, self.seed = layers // kept, seed
        self.full.requires_grad_(False).eval().to(model.device)

    def exit_loss(self, step: ExitStep, labels_B: Tensor) -> Tensor:
        """See `Objective.exit_loss`."""
        return task_loss(step.logits, labels_B)
