"""All exits trained together: the sum over exits of the mean task loss.

With ``gradient: shared`` this is early exit (EE): block i is trained by the losses of all exits above it. With
``gradient: blockwise`` it is SWEET: by its own exit's loss alone. With a single exit it is plain fine-tuning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from adaptive_inference.objectives.base import Objective, task_loss

if TYPE_CHECKING:
    from adaptive_inference.exits.model import ExitStep
    from adaptive_inference.params import MethodTraining


class Joint(Objective):
    """Unweighted, as in the published code (sweet.md 1.3)."""

    def exit_loss(self, step: ExitStep, labels_B: Tensor) -> Tensor:
        """See `Objective.exit_loss`."""
        return task_loss(step.logits, labels_B)


def build(method: MethodTraining) -> Joint:
    """Return the objective of a method."""
    return Joint(method)
