"""Exits that learn from labels and from each other: LeeBERT's loss with fixed weights (pabee_leebert.md 1.3).

Shape suffixes: B rows, C classes, E exits; T = 1 + E terms of an exit: its cross-entropy, then one per teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptive_inference.exits.head import seeded
from adaptive_inference.objectives.base import Objective, task_loss
from adaptive_inference.settings.training import Distillation

if TYPE_CHECKING:
    from adaptive_inference.exits.forward import ExitAnswer
    from adaptive_inference.exits.model import MultiExitModel
    from adaptive_inference.objectives.base import Whole
    from adaptive_inference.settings.training import MethodTraining

#: Largest of the integers that `random` weights are drawn from (pabee_leebert.md 1.3, variants).
LARGEST = 50
_WEIGHTS = 7  # stream of the generator


class Distill(Objective):
    """Equation 5: the sum over exits of weighted cross-entropy and weighted distillation terms.

    The weight of a cross-entropy counts once for its exit, that of a distillation term is divided by M |T(m)|.

    Attributes
    ----------
    has_term_ET
        Which terms there are: the first column always, the others where the exit has that teacher.
    weights_ET
        Weights of the terms; 0 where there is none.
    """

    kinds = ("classification",)

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        super().__init__(method, whole)
        self.settings = method.distillation or Distillation()
        self.random = method.weights == "random"

    def attach(self, model: MultiExitModel, seed: int) -> None:
        """Lay out terms and weights; see `Objective.attach`."""
        exits = len(model.exits)
        teachers_EE = teacher_sets(exits, self.settings.teachers)
        self.has_term_ET = torch.cat([torch.ones(exits, 1, dtype=torch.bool), teachers_EE], dim=1).to(
            model.device
        )
        counts_E = teachers_EE.sum(1, keepdim=True).clamp(min=1)
        shares_EE = teachers_EE / (exits * counts_E)
        self.shares_ET = torch.cat([torch.ones(exits, 1), shares_EE], dim=1).to(model.device)
        drawn = random_weights(self.has_term_ET.cpu(), seed) if self.random else self.has_term_ET.float()
        self.weights_ET = drawn.to(model.device)

    def losses(self, answers: Sequence[ExitAnswer], labels_B: Tensor) -> list[Tensor]:
        """See `Objective.losses`."""
        return list((self.weights_ET * self.terms(answers, labels_B)).sum(1))

    def terms(self, answers: Sequence[ExitAnswer], labels_B: Tensor) -> Tensor:
        """Return the unweighted terms of one batch, (E, T): the gradient of the loss with respect to its weights."""
        logits_EBC = torch.stack([answer.logits for answer in answers]).float()
        truth_E = torch.stack([task_loss(logits_BC, labels_B) for logits_BC in logits_EBC])
        taught_EE = distillation_losses(logits_EBC, self.settings.temperature, self.settings.detach)
        return torch.cat([truth_E[:, None], taught_EE], dim=1) * self.shares_ET


def teacher_sets(exits: int, teachers: str) -> Tensor:
    """Return who teaches whom, (E, E) bool, student by teacher; ``last``, ``later`` or ``all`` (others)."""
    student_E1, teacher_1E = torch.arange(exits)[:, None], torch.arange(exits)[None]
    if teachers == "all":
        return student_E1 != teacher_1E
    later_EE = teacher_1E > student_E1
    return later_EE if teachers == "later" else later_EE & (teacher_1E == exits - 1)


def distillation_losses(logits_EBC: Tensor, temperature: float, detach: bool) -> Tensor:
    """Return equation 2 for every student and teacher, (E, E) student by teacher, as means over the rows.

    -tau^2 sum_k softmax(z_t / tau)_k log softmax(z_s / tau)_k: the cross-entropy form, the teacher's entropy included.
    All pairs are one matrix product over rows and classes.

    Parameters
    ----------
    logits_EBC
        Of all exits.
    temperature
        tau.
    detach
        The teacher is a constant.
    """
    log_EBC = (logits_EBC / temperature).log_softmax(-1)
    teacher_EBC = log_EBC.detach().exp() if detach else log_EBC.exp()
    rows = logits_EBC.shape[1]
    with torch.autocast(logits_EBC.device.type, enabled=False):  # differences of like probabilities need fp32
        return log_EBC.flatten(1) @ teacher_EBC.flatten(1).T * (-(temperature**2) / rows)


def random_weights(has_term_ET: Tensor, seed: int) -> Tensor:
    """Return integers of 1 to 50 over their sum in each exit's row, (E, T); 0 where there is no term."""
    drawn_ET = torch.randint(1, LARGEST + 1, has_term_ET.shape, generator=seeded(seed, _WEIGHTS))
    drawn_ET = drawn_ET * has_term_ET
    return drawn_ET / drawn_ET.sum(1, keepdim=True)


OBJECTIVE = Distill
