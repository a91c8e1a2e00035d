"""What trainings share that end in a static model of k layers in place of L."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptive_inference.errors import UserError
from adaptive_inference.objectives.base import Objective, task_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        layers = self.full.exits[-1]
        self.check_exits(model.exits, layers)
        self.group, self.seed = layers // model.exits[-1], seed
        self.full.requires_grad_(False).eval().to(model.device)

    def check_exits(self, exits: Sequence[int], layers: int) -> None:
        """See `Objective.check_exits`: one exit after k layers, where k divides L."""
        allowed = [count for count in range(1, layers + 1) if layers % count == 0]
        if len(exits) > 1 or exits[-1] not in allowed:
            raise UserError(
                f"objective {self.name!r} makes a model of one exit after k layers, where k divides the {layers} layers of "
                f"the full model; `exits` is {list(exits)}, allowed: {', '.join(f'[{count}]' for count in allowed)}"
            )

    def exit_loss(self, step: ExitStep, labels_B: Tensor) -> Tensor:
        """See `Objective.exit_loss`."""
        return task_loss(step.logits, labels_B)
