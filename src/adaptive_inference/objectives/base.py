"""What an objective is, and what a surgery: a loss of the exits' answers, and a change of the model that is trained.

Shape suffixes: B rows, C outputs, E exits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from adaptive_inference.backbones.base import Backbone, Batch, Layers
    from adaptive_inference.exits.forward import EncoderForward, ExitAnswer
    from adaptive_inference.exits.model import MultiExitModel
    from adaptive_inference.exits.outputs import ExitOutputs
    from adaptive_inference.settings.training import MethodTraining
    from adaptive_inference.tasks.encode import Feature

    Batches = Iterable[tuple[Sequence[ExitAnswer], Tensor]]

#: Makes the model of all layers of a kind: `Surgery.needs_full` says which.
Whole = Callable[[str], "MultiExitModel"]


class Route(NamedTuple):
    """A loss and the parameters that learn by it; None: all that it depends on."""

    loss: Tensor
    parameters: Sequence[Tensor] | None = None


class Scored(NamedTuple):
    """What a model answers on the development split, and the quality of each exit."""

    outputs: ExitOutputs
    qualities: list[float]


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


class Surgery:
    """A change of the model, made for a training or by it; this one changes nothing.

    It knows no loss, as an `Objective` knows no layers.

    Parameters
    ----------
    method
        Gives its options.
    whole
        Makes the model of all layers that is needed; None: nothing will be trained, only asked what is allowed.

    Attributes
    ----------
    needs_full
        Which model of all layers is needed: ``""`` none, ``fine_tuned`` the full model, ``pretrained`` the one that
        the full model started as.
    full
        That model, an input: never saved.
    layers
        What runs the layers of the training's forwards in place of the model's own backbone, if anything does.
    """

    needs_full: Literal["", "fine_tuned", "pretrained"] = ""

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        self.name = method.objective
        self.full = whole(self.needs_full) if whole and self.needs_full else None
        self.layers: Layers | None = None

    def given_full(self) -> MultiExitModel:
        """Return `full`, which a training cannot do without."""
        if self.full is None:
            raise RuntimeError(
                f"objective {self.name!r} needs a model of all layers: give `load_objective` the means to make it"
            )
        return self.full

    def operate(self, model: MultiExitModel, seed: int, batches: Iterable[Batch]) -> None:
        """Change the model that will be trained, once, before its optimiser is made.

        Parameters
        ----------
        model
            On its device.
        seed
            Of the training.
        batches
            The training rows, shuffled; read where they are asked for.
        """

    def begin(self, step: int, total: int) -> None:
        """Take note of how many optimiser steps of all were taken; called before every batch."""

    def finish(self, model: MultiExitModel) -> None:
        """Take off what served the training alone; called once, on the weights of the best epoch."""

    def check_encoder(self, kind: type[Backbone], config: PreTrainedConfig) -> None:
        """Refuse an encoder that cannot be changed so.

        Raises
        ------
        UserError
            Says what it lacks.
        """

    def check_exits(self, exits: Sequence[int], layers: int) -> None:
        """Refuse exit layers, all within 1..L, that cannot be trained so in an encoder of L layers.

        Raises
        ------
        UserError
            Names the exits that can.
        """


class Objective:
    """Loss of each exit, the plain task loss if nothing else is said; the total is their sum (sweet.md 1.3).

    Parameters
    ----------
    method
        Its ``gradient`` says how far a loss reaches.
    whole
        For the surgery.

    Attributes
    ----------
    gradient
        How gradients run through the model; see `EncoderForward`.
    surgery_class
        What is done to the model that learns by the loss.
    needs_certainty
        The model must have certainty heads.
    needs_reduction
        The model must have contribution predictors and thresholds, and the encoder must let single rows lose tokens.
    one_exit
        The model has one exit, after the encoder's last layer, whatever the backbone's section says.
    needs_saliency
        Each training row must say how salient its tokens are, in a column ``saliency``.
    epochs
        Of the training; set before `attach`.
    splits_rows
        In each epoch, one half of the rows trains the network and the other half something else.
    kinds
        Kinds of task that the loss is defined for.
    """

    surgery_class: ClassVar[type[Surgery]] = Surgery
    needs_certainty: bool = False
    needs_reduction: bool = False
    needs_saliency: bool = False
    one_exit: bool = False
    epochs: int = 1
    splits_rows: bool = False
    kinds: tuple[str, ...] = ("classification", "regression")

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        self.gradient = method.gradient
        self.surgery = self.surgery_class(method, whole)

    @property
    def name(self) -> str:
        """Name of the file, as the params say it."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def needs_full(self) -> str:
        """See `Surgery.needs_full`."""
        return self.surgery.needs_full

    def attach(self, model: MultiExitModel, seed: int) -> None:
        """Take note of the model that will be trained, once, after the surgery and before its optimiser is made."""

    def enter_training(self, model: MultiExitModel) -> None:
        """Put the model into training mode; called before every batch.

        Always, since a loaded encoder comes in evaluation mode inside a model that is not.
        """
        model.train()

    def begin(self, step: int, total: int) -> None:
        """Take note of how many optimiser steps of all were taken; called before every batch."""

    def start(self, model: MultiExitModel, batch: Batch) -> EncoderForward:
        """Start a training batch on its way, with the method's gradients, through the layers that the surgery says."""
        return model.start(batch, self.gradient, self.surgery.layers)

    def exit_loss(self, answer: ExitAnswer, labels_B: Tensor) -> Tensor:
        """Return the scalar loss of one exit that depends on no other.

        Parameters
        ----------
        answer
            What the exit says.
        labels_B
            (B,) int64 classes, or float scores.
        """
        return task_loss(answer.logits, labels_B)

    def losses(self, answers: Sequence[ExitAnswer], labels_B: Tensor) -> list[Tensor]:
        """Return the E scalar losses, in the order of the exits; overridden where exits depend on each other."""
        return [self.exit_loss(answer, labels_B) for answer in answers]

    def routes(self, losses_E: Tensor) -> list[Route]:
        """Return what is back-propagated after a batch, and into what.

        It is the sum of the losses, and into everything, if nothing else is said.

        Parameters
        ----------
        losses_E
            (E,), of `losses`.
        """
        return [Route(losses_E.sum())]

    def after_step(self, taken: StepTaken) -> None:
        """Do what follows an optimiser step, such as learning the weights of the losses."""

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed training needs to know of the objective."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""

    def report(self) -> dict[str, Any] | None:
        """Return what is worth keeping beside each row of the history, as plain JSON; None: nothing."""
        return None

    def figures(self) -> dict[str, float]:
        """Return what else a row of the history says of the training at this moment, by name."""
        return {}

    def merit(self, found: Scored, score: Callable[[MultiExitModel], Scored]) -> tuple[float, ...]:
        """Return how good an epoch is: the greatest is kept, the earlier of two equal ones.

        Parameters
        ----------
        found
            Of the model as it is.
        score
            Scores another model on the same rows.
        """
        return (sum(found.qualities) / len(found.qualities),)

    def verdict(self, merit: Sequence[float]) -> dict[str, float]:
        """Return what the record says of an epoch of this merit, beside its qualities, by name."""
        return {}

    def warning(self, merit: Sequence[float]) -> str:
        """Return what the user must be told of a training whose best epoch has this merit; empty: nothing."""
        return ""

    def check_rows(self, features: Sequence[Feature]) -> None:
        """Refuse training rows that lack what the loss reads.

        Raises
        ------
        UserError
            Says what is missing, and where it comes from.
        """

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
                "leave its methods out"
            )


def task_loss(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Return the mean cross-entropy of classes, or the mean squared error of scores (C = 1)."""
    if labels_B.is_floating_point():
        return F.mse_loss(logits_BC.squeeze(-1).float(), labels_B)
    return F.cross_entropy(logits_BC.float(), labels_B)
