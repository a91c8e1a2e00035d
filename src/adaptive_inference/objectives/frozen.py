"""Inner exits trained on a fine-tuned encoder that no longer changes: DeeBERT and FastBERT, stage two.

Stage one is the full model's fine-tuning, so it is not done again: the model starts with the full model's weights, and
only the heads of the inner exits learn. They learn the labels (DeeBERT) or the last exit's probabilities (FastBERT,
which reads no label). The encoder runs without dropout: its states are those that the heads will see when predicting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from adaptive_inference.errors import UserError
from adaptive_inference.objectives._from_full import FromFull
from adaptive_inference.objectives.base import Objective, task_loss

if TYPE_CHECKING:
    from adaptive_inference.exits.forward import ExitAnswer
    from adaptive_inference.exits.model import MultiExitModel
    from adaptive_inference.objectives.base import Whole
    from adaptive_inference.settings.training import MethodTraining


class Frozen(Objective):
    """Plain sum over the inner exits (pabee_leebert.md 1.5, 1.6); the last exit's loss is 0."""

    surgery_class = FromFull

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        super().__init__(method, whole)
        self.from_teacher = method.targets == "teacher"
        if self.from_teacher:
            self.kinds = ("classification",)

    def attach(self, model: MultiExitModel, seed: int) -> None:
        """Freeze all but the inner heads; see `Objective.attach`."""
        if len(model.exits) < 2:
            raise UserError(
                f"objective 'frozen' trains exits below the last one, and the model has the exit {model.exits[0]} alone; "
                "give `exits` an inner layer"
            )
        model.requires_grad_(False)
        for head in model.heads[:-1]:
            head.requires_grad_(True)

    def enter_training(self, model: MultiExitModel) -> None:
        """Let the inner heads alone drop out; see `Objective.enter_training`."""
        model.eval()
        for head in model.heads[:-1]:
            head.train()

    def losses(self, answers: Sequence[ExitAnswer], labels_B: Tensor) -> list[Tensor]:
        """See `Objective.losses`."""
        *inner, last = answers
        zero = last.logits.new_zeros(())
        if self.from_teacher:
            return [answer_divergence(last.logits, answer.logits) for answer in inner] + [zero]
        return [task_loss(answer.logits, labels_B) for answer in inner] + [zero]


def answer_divergence(teacher_BC: Tensor, student_BC: Tensor) -> Tensor:
    """Return the mean over rows of KL(teacher's probabilities || student's), the direction of FastBERT's code."""
    teacher, student = (item.float().log_softmax(-1) for item in (teacher_BC.detach(), student_BC))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


OBJECTIVE = Frozen
