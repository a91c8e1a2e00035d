"""A model of k layers learns from labels, and from the full model's answers and inner layers: patient distillation (PKD).

Shape suffixes: B rows, N tokens, H hidden width, M matched layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_inference.backbones.base import Delegate
from adaptive_inference.exits.head import read_tokens
from adaptive_inference.objectives._shallow import Shallow
from adaptive_inference.objectives.base import Objective
from adaptive_inference.objectives.distill import distillation_losses
from adaptive_inference.settings.training import PatientDistillation as Settings

if TYPE_CHECKING:
    from adaptive_inference.backbones.base import Batch, Context
    from adaptive_inference.exits.forward import ExitAnswer
    from adaptive_inference.exits.model import MultiExitModel
    from adaptive_inference.objectives.base import Whole
    from adaptive_inference.settings.training import MethodTraining


class WatchedLayers(Shallow):
    """Runs the teacher on every batch that the student is trained on, and notes what heads would read of both.

    The student starts with the first k pre-trained layers; nothing of it is changed.

    Attributes
    ----------
    answer_BC
        The teacher's logits of the batch that was started last.
    theirs, ours
        What the head would read after each layer of the teacher, and of the student as far as it has run, (B, H) each.
    """

    needs_full = "fine_tuned"
    answer_BC: Tensor

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        super().__init__(method, whole)
        self.theirs: list[Tensor] = []
        self.ours: list[Tensor] = []

    def operate(self, model: MultiExitModel, seed: int, batches: Iterable[Batch]) -> None:
        """See `Surgery.operate`."""
        super().operate(model, seed, batches)
        self.layers = _Taught(model, self)

    def teach(self, batch: Batch) -> None:
        """Let the teacher answer a batch, and forget the one before."""
        self.theirs, self.ours = [], []
        full = self.given_full()
        with torch.no_grad():
            (answer,) = full.start(batch, layers=_Watched(full, self.theirs)).answers()
        self.answer_BC = answer.logits

    def finish(self, model: MultiExitModel) -> None:
        """See `Surgery.finish`."""
        self.layers = None


class _Watched(Delegate):
    """Notes what the model's head would read after each layer."""

    def __init__(self, model: MultiExitModel, states: list[Tensor]) -> None:
        super().__init__(model.backbone)
        self.reads, self.states = model.heads[-1].read, states

    def run_layer(self, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        hidden_BNH = super().run_layer(index, hidden_BNH, context)
        self.states.append(read_tokens(hidden_BNH, context.tokens_BN, self.reads))
        return hidden_BNH


class _Taught(_Watched):
    """The student's layers; before a batch enters them, the teacher answers it."""

    def __init__(self, model: MultiExitModel, lesson: WatchedLayers) -> None:
        super().__init__(model, lesson.ours)
        self.lesson = lesson

    def embed(self, batch: Batch) -> tuple[Tensor, Context]:
        self.lesson.teach(batch)
        self.states = self.lesson.ours
        return super().embed(batch)


class PatientDistillation(Objective):
    """(1 - alpha) cross-entropy + alpha tempered cross-entropy with the teacher + beta `patience_loss`.

    The student's layer i, below the last, is held against the teacher's layer i L / k ("skip"); the last one is taught
    through the answers.
    """

    kinds = ("classification",)
    surgery_class = WatchedLayers
    surgery: WatchedLayers

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        super().__init__(method, whole)
        self.settings = method.patient or Settings()

    def exit_loss(self, answer: ExitAnswer, labels_B: Tensor) -> Tensor:
        """See `Objective.exit_loss`; of the batch that was started last."""
        seen = self.surgery
        logits = torch.stack([answer.logits, seen.answer_BC]).float()
        soft = distillation_losses(logits, self.settings.temperature, detach=True)[0, 1]
        alpha, hard = self.settings.alpha, super().exit_loss(answer, labels_B)
        patience = patience_loss(seen.ours[:-1], seen.theirs[seen.group - 1 : -1 : seen.group])
        return (1 - alpha) * hard + alpha * soft + self.settings.beta * patience


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


OBJECTIVE = PatientDistillation
