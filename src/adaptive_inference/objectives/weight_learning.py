"""Weights of the loss terms, learned beside the network: LeeBERT (pabee_leebert.md 1.3, 1.4).

The gradient of the loss with respect to a weight is the term itself, so that learning the weights costs forward passes
and never a backward one.

Shape suffixes: E exits, T terms of an exit (its cross-entropy, then one per teacher).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_inference.objectives.distill import Distill
from adaptive_inference.settings.training import WeightLearning as Settings

if TYPE_CHECKING:
    from adaptive_inference.exits.forward import ExitAnswer
    from adaptive_inference.exits.model import MultiExitModel
    from adaptive_inference.objectives.base import Batches, StepTaken, Whole
    from adaptive_inference.settings.training import MethodTraining


logger = logging.getLogger("adaptive_inference")


class TermWeights:
    """The weights, their parametrisation and their optimiser.

    Parameters
    ----------
    has_term_ET
        Which terms exist; the others keep the weight 0.
    settings
        Parametrisation, rate, optimiser.

    Attributes
    ----------
    raw_ET
        What the optimiser changes. All weights start at 1.
    """

    def __init__(self, has_term_ET: Tensor, settings: Settings) -> None:
        start = {"raw": 1.0, "softplus": math.log(math.e - 1.0), "softmax": 0.0}[settings.parametrisation]
        self.has_term_ET, self.settings = has_term_ET, settings
        self.raw_ET = torch.full(
            has_term_ET.shape, start, dtype=torch.float32, device=has_term_ET.device, requires_grad=True
        )
        kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.SGD
        self.optimizer = kind([self.raw_ET], lr=settings.learning_rate)
        self._warned = False

    def values(self) -> Tensor:
        """Return the weights, (E, T), with their gradient to `raw_ET`; 0 where there is no term."""
        if self.settings.parametrisation == "softmax":
            masked_ET = self.raw_ET.masked_fill(~self.has_term_ET, -torch.inf)
            return masked_ET.softmax(1) * self.has_term_ET.sum(1, keepdim=True)
        weights_ET = F.softplus(self.raw_ET) if self.settings.parametrisation == "softplus" else self.raw_ET
        return weights_ET * self.has_term_ET

    def descend(self, gradient_ET: Tensor) -> None:
        """Take one step against a gradient with respect to the weights."""
        with torch.enable_grad():
            (self.raw_ET.grad,) = torch.autograd.grad((self.values() * gradient_ET).sum(), self.raw_ET)
        self.optimizer.step()
        if self.settings.parametrisation == "raw":
            self._hold()

    def _hold(self) -> None:
        """Keep raw weights at their minimum; without one, say when the first of them turns negative."""
        if self.settings.minimum is not None:
            with torch.no_grad():
                self.raw_ET.clamp_(min=self.settings.minimum)
        elif not self._warned and bool((self.values() < 0).any()):
            self._warned = True
            logger.warning(
                "a loss weight has turned negative: from here on the network maximises that loss; set "
                "`weight_learning.minimum`, a lower `weight_learning.learning_rate`, or another `parametrisation`"
            )

    def state(self) -> dict[str, Tensor]:
        """Return raw weights and the optimiser's moments."""
        moments = self.optimizer.state.get(self.raw_ET, {})
        named = {name: torch.as_tensor(value) for name, value in moments.items() if value is not None}
        return {"raw": self.raw_ET.detach().clone()} | {name: item.clone() for name, item in named.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        with torch.no_grad():
            self.raw_ET.copy_(state["raw"])
        moments = {name: item for name, item in state.items() if name != "raw"}
        if moments:
            self.optimizer.state[self.raw_ET] = moments


def weight_gradient(
    settings: Settings,
    step: int,
    rate: float,
    seen: Tensor,
    first: Callable[[], Tensor],
    second: Callable[[], Tensor],
) -> Tensor | None:
    """Return the gradient for the weights' optimiser after one step of the network; None: no update now.

    In units of the weights' own rate: with plain gradient descent, an update by it is the paper's formula.

    Parameters
    ----------
    settings
        Scheme and its options.
    step
        Steps of the network before this one.
    rate
        Of the network (lambda 1).
    seen
        Terms of the step's rows, before the network changed.
    first, second
        Compute the terms of the step's rows, and of rows of the other half, with the changed network.
    """
    share = rate / settings.learning_rate if settings.mixing == "ratio" else 1.0
    if settings.scheme == "slo":
        return seen
    if settings.scheme == "blo":
        return second()
    if settings.scheme == "clo_v1" or (step + 1) % settings.group == 0:
        return share * first() + second()
    return share * seen if settings.between == "algorithm" else None


class WeightLearning(Distill):
    """LeeBERT's loss whose weights are learned by SLO, BLO, CLO-v1 or CLO-v2."""

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        super().__init__(method, whole)
        self.learning = method.weight_learning or Settings()
        self.splits_rows = self.learning.scheme != "slo"
        self._seen: list[Tensor] = []

    def attach(self, model: MultiExitModel, seed: int) -> None:
        """Start all weights at 1; see `Objective.attach`."""
        super().attach(model, seed)
        self.learned = TermWeights(self.has_term_ET, self.learning)
        self.weights_ET = self.learned.values().detach()

    def losses(self, answers: Sequence[ExitAnswer], labels_B: Tensor) -> list[Tensor]:
        """See `Objective.losses`."""
        terms_ET = self.terms(answers, labels_B)
        self._seen.append(terms_ET.detach())
        return list((self.weights_ET * terms_ET).sum(1))

    def after_step(self, taken: StepTaken) -> None:
        """Learn; see `Objective.after_step`."""
        seen, self._seen = torch.stack(self._seen).mean(0), []
        gradient_ET = weight_gradient(
            self.learning,
            taken.step,
            taken.rate,
            seen,
            lambda: self._mean_terms(taken.first()),
            lambda: self._mean_terms(taken.second()),
        )
        if gradient_ET is not None:
            self.learned.descend(gradient_ET)
            self.weights_ET = self.learned.values().detach()

    def _mean_terms(self, batches: Batches) -> Tensor:
        return torch.stack([self.terms(answers, labels_B) for answers, labels_B in batches]).mean(0)

    def state(self) -> dict[str, Tensor]:
        """See `Objective.state`."""
        return self.learned.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """See `Objective.restore`."""
        self.learned.restore(state)
        self.weights_ET = self.learned.values().detach()

    def report(self) -> dict[str, Any]:
        """Return the weights of the cross-entropies, (E,), and of the teachers, (E, E) student by teacher."""
        rows = self.weights_ET.tolist()
        return {"truth": [row[0] for row in rows], "teachers": [row[1:] for row in rows]}


OBJECTIVE = WeightLearning
