"""What an objective is.

Shape suffixes: B rows, C outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from adaptive_inference.exits.model import ExitStep
    from adaptive_inference.params import MethodTraining


class Objective:
    """Loss of each exit; the total is their plain sum (sweet.md 1.3).

    Parameters
    ----------
    method
        Its ``gradient`` says how far a loss reaches.

    Attributes
    ----------
    detach
        The state handed from block to block carries no gradient (SWEET): each loss trains its own block.
    needs_certainty
        The model must have certainty heads.
    kinds
        Kinds of task that the loss is defined for.
    """

    needs_certainty: bool = False
    kinds: tuple[str, ...] = ("classification", "regression")

    def __init__(self, method: MethodTraining) -> None:
        self.detach = method.gradient == "blockwise"

    def exit_loss(self, step: ExitStep, labels_B: Tensor) -> Tensor:
        """Return the scalar loss of one exit.

        Parameters
        ----------
        step
            What the model knows at the exit.
        labels_B
            (B,) int64 classes, or float scores.
        """
        raise NotImplementedError

    def check_kind(self, kind: str) -> None:
        """Refuse a kind of task that the loss is not defined for.

        Raises
        ------
        UserError
            Names the kinds that are.
        """
        if kind not in self.kinds:
            name = type(self).__module__.rpartition(".")[2]
            raise UserError(
                f"objective {name!r} is not defined for a {kind} task; it needs {' or '.join(self.kinds)}: "
                "leave its methods out of `methods` and `trained_by`"
            )


def task_loss(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Return the mean cross-entropy of classes, or the mean squared error of scores (C = 1)."""
    if labels_B.is_floating_point():
        return F.mse_loss(logits_BC.squeeze(-1).float(), labels_B)
    return F.cross_entropy(logits_BC.float(), labels_B)
