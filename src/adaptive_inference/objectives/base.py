"""What an objective is.

Shape suffixes: B rows, C outputs, E exits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch.nn.functional as F
from torch import Tensor

from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from adaptive_inference.backbones.base import Batch
    from adaptive_inference.exits.model import ExitStep, MultiExitModel
    from adaptive_inference.settings.training import MethodTraining

    Batches = Iterable[tuple[Sequence[ExitStep], Tensor]]


@dataclass(frozen=True)
class StepTaken:
    """What an objective may look at right after the optimiser has stepped.

    Attributes
    ----------
    step
        Optimiser steps taken before this one.
    rate
        Learning rate of the network in this step.
    first
        Runs the step's own batches again, through the changed network and without gradient.
    second
        The same for as many rows of the other half (see `Objective.splits_rows`).
    """

    step: int
    rate: float
    first: Callable[[], Batches]
    second: Callable[[], Batches]


class Objective:
    """Loss of each exit; the total is their plain sum (sweet.md 1.3).

    Parameters
    ----------
    method
        Its ``gradient`` says how far a loss reaches.

    Attributes
    ----------
    gradient
        How gradients run through the model; see `MultiExitModel.steps`.
    needs_certainty
        The model must have certainty heads.
    starts_from_full
        The model starts with the weights of the full fine-tuned model, not with the pre-trained ones.
    needs_full
        Which model of all layers must be set as `full` before `attach`: ``""`` none, ``fine_tuned`` the full model,
        ``pretrained`` the one that the full model started as.
    full
        That model, an input: never saved.
    splits_rows
        In each epoch, one half of the rows trains the network and the other half something else.
    kinds
        Kinds of task that the loss is defined for.
    """

    needs_certainty: bool = False
    starts_from_full: bool = False
    needs_full: Literal["", "fine_tuned", "pretrained"] = ""
    full: MultiExitModel | None = None
    splits_rows: bool = False
    kinds: tuple[str, ...] = ("classification", "regression")

    def __init__(self, method: MethodTraining) -> None:
        self.gradient = method.gradient

    @property
    def name(self) -> str:
        """Name of the file, as the params say it."""
        return type(self).__module__.rpartition(".")[2]

    def prepare(self, model: MultiExitModel, batches: Iterable[Batch]) -> None:
        """Look at the training rows, shuffled, before `attach`; nothing has been trained yet."""

    def attach(self, model: MultiExitModel, seed: int) -> None:
        """Take note of the model that will be trained, once, before its optimiser is made."""

    def enter_training(self, model: MultiExitModel) -> None:
        """Put the model into training mode; called before every batch.

        Always, since a loaded encoder comes in evaluation mode inside a model that is not.
        """
        model.train()

    def begin(self, step: int, total: int) -> None:
        """Take note of how many optimiser steps of all were taken; called before every batch."""

    def steps(self, model: MultiExitModel, batch: Batch) -> Iterator[ExitStep]:
        """Run a training batch; overridden where layers are run in another way than when predicting."""
        return model.steps(batch, self.gradient)

    def exit_loss(self, step: ExitStep, labels_B: Tensor) -> Tensor:
        """Return the scalar loss of one exit that depends on no other.

        Parameters
        ----------
        step
            What the model knows at the exit.
        labels_B
            (B,) int64 classes, or float scores.
        """
        raise NotImplementedError

    def losses(self, steps: Sequence[ExitStep], labels_B: Tensor) -> list[Tensor]:
        """Return the E scalar losses, in the order of the exits; overridden where exits depend on each other."""
        return [self.exit_loss(step, labels_B) for step in steps]

    def after_step(self, taken: StepTaken) -> None:
        """Do what follows an optimiser step, such as learning the weights of the losses."""

    def finish(self, model: MultiExitModel) -> None:
        """Take off what served the training alone; called once, on the weights of the best epoch."""

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed training needs to know of the objective."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""

    def report(self) -> dict[str, Any] | None:
        """Return what is worth keeping beside each row of the history, as plain JSON; None: nothing."""
        return None

    def check_kind(self, kind: str) -> None:
        """Refuse a kind of task that the loss is not defined for.

        Raises
        ------
        UserError
            Names the kinds that are.
        """
        if kind not in self.kinds:
            raise UserError(
                f"objective {self.name!r} is not defined for a {kind} task; it needs {' or '.join(self.kinds)}: "
                "leave its methods out of `methods` and `trained_by`"
            )

    def check_exits(self, exits: Sequence[int], layers: int) -> None:
        """Refuse exit layers, all within 1..L, that the objective cannot train in an encoder of L layers.

        Raises
        ------
        UserError
            Names the exits that it can.
        """


def task_loss(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Return the mean cross-entropy of classes, or the mean squared error of scores (C = 1)."""
    if labels_B.is_floating_point():
        return F.mse_loss(logits_BC.squeeze(-1).float(), labels_B)
    return F.cross_entropy(logits_BC.float(), labels_B)
