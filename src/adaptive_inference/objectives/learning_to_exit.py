"""LTE: certainty heads learn, together with the exits, whether each exit is right (sweet.md 1.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from adaptive_inference.objectives.base import Objective, task_loss

if TYPE_CHECKING:
    from adaptive_inference.exits.forward import ExitAnswer


class LearningToExit(Objective):
    """Cross-entropy plus, with weight 1, the squared error of the certainty against being right.

    The target is 1 where the exit's arg max is the label, else 0, and carries no gradient. The certainty is not
    detached: its error trains pooler and block as well.
    """

    needs_certainty = True
    kinds = ("classification",)

    def exit_loss(self, answer: ExitAnswer, labels_B: Tensor) -> Tensor:
        """See `Objective.exit_loss`; the answer must have a certainty."""
        if answer.certainty is None:
            raise RuntimeError(
                "learning_to_exit needs a model with certainty heads: build it with certainty=True"
            )
        right_B = (answer.logits.detach().argmax(-1) == labels_B).float()
        return task_loss(answer.logits, labels_B) + F.mse_loss(answer.certainty.float(), right_B)


OBJECTIVE = LearningToExit
