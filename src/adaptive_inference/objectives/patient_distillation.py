"""A model of k layers learns from labels, and from the full model's answers and inner layers: patient distillation (PKD).

Shape suffixes: B rows, N tokens, H hidden width, M matched layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_inference.exits.head import read_tokens
from adaptive_inference.objectives._shallow import Shallow
from adaptive_inference.objectives.distill import distillation_losses
from adaptive_inference.settings.training import PatientDistillation as Settings

if TYPE_CHECKING:
    from adaptive_inference.backbones.base import Batch, Context
    from adaptive_inference.exits.model import ExitStep, MultiExitModel, RunLayer
    from adaptive_inference.settings.training import MethodTraining


class PatientDistillation(Shallow):
    """(1 - alpha) cross-entropy + alpha tempered cross-entropy with the teacher + beta `patience_loss`.

    The student starts with the first k pre-trained layers. Its layer i, below the last, is held against the teacher's
    layer i L / k ("skip"); the last one is taught through the answers.
    """

    needs_full = "fine_tuned"
    kinds = ("classification",)

    def __init__(self, method: MethodTraining) -> None:
        super().__init__(method)
        self.settings = method.patient or Settings()

    def steps(self, model: MultiExitModel, batch: Batch) -> Iterator[ExitStep]:
        """Run teacher and student, and keep what the loss compares; see `Objective.steps`."""
        theirs: list[Tensor] = []
        ours: list[Tensor] = []
        with torch.no_grad():
            (teacher,) = self.full.steps(batch, run_layer=reading(self.full, theirs))
        (student,) = model.steps(batch, run_layer=reading(model, ours))
        self._taught = teacher.logits, theirs[self.group - 1 : -1 : self.group], ours[:-1]
        yield student

    def exit_loss(self, step: ExitStep, labels_B: Tensor) -> Tensor:
        """See `Objective.exit_loss`; of the batch that `steps` ran last."""
        teacher_BC, theirs, ours = self._taught
        logits = torch.stack([step.logits, teacher_BC]).float()
        soft = distillation_losses(logits, self.settings.temperature, detach=True)[0, 1]
        alpha, hard = self.settings.alpha, super().exit_loss(step, labels_B)
        return (1 - alpha) * hard + alpha * soft + self.settings.beta * patience_loss(ours, theirs)


def reading(model: MultiExitModel, into: list[Tensor]) -> RunLayer:
    """Return the model's `run_layer` that also notes what its head would read after each layer, (B, H)."""

    def run(index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        hidden_BNH = model.backbone.run_layer(index, hidden_BNH, context)
        into.append(read_tokens(hidden_BNH, context.tokens_BN, model.heads[-1].read))
        return hidden_BNH

    return run


def patience_loss(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor | float:
    """Return the mean over layers and rows of the squared distance of states scaled to length 1; 0 without layers.

    Parameters
    ----------
    students, teachers
        M states each, (B, H).
    """
    if not students:
        return 0.0
    ours_MBH, theirs_MBH = (
        F.normalize(torch.stack(list(item)).float(), dim=-1) for item in (students, teachers)
    )
    return (ours_MBH - theirs_MBH).pow(2).sum(-1).mean()


def build(method: MethodTraining) -> PatientDistillation:
    """Return the objective of a method."""
    return PatientDistillation(method)
