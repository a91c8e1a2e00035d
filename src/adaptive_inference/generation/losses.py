"""Losses over the answers of a decoder's blocks: CALM's, and FREE's shallow-deep module (free.md 1a).

Shape suffixes: N target tokens of a batch (no padding), D width, V vocabulary, E blocks whose cross-entropy counts,
S students, T teachers. Blocks are numbered 1..L; H_k = dropout(norm(h_k)), h_k the residual stream after block k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptive_inference.errors import UserError
from adaptive_inference.generation.layer_maps import dynamic_map, uniform_map
from adaptive_inference.settings.generation import SHALLOW_DEEP_LOSSES, LossTraining


def cross_entropy_shares(loss: str, blocks: int, exit_layer: int | None = None) -> dict[int, float]:
    """Return block -> its share of the cross-entropy; shares sum to 1.

    ``final_ce``: the last block alone, as stock models are trained; ``ce``: all alike; ``weighted_ce``: in proportion
    to the block's number; shallow-deep losses: blocks s and L, in proportion to s and L.

    Parameters
    ----------
    loss
        Name of a loss.
    blocks
        L.
    exit_layer
        s, for shallow-deep losses.
    """
    if loss in SHALLOW_DEEP_LOSSES:
        weights = {layer: float(layer) for layer in (exit_layer, blocks) if layer is not None}
    else:
        layers = range(1, blocks + 1)
        weights = {
            "final_ce": {blocks: 1.0},
            "ce": dict.fromkeys(layers, 1.0),
            "weighted_ce": {layer: float(layer) for layer in layers},
        }[loss]
    total = sum(weights.values())
    return {layer: weight / total for layer, weight in weights.items()}


class LayerLoss(nn.Module):
    """One loss from the states of blocks; its projection, where it has one, is trained with the model.

    Parameters
    ----------
    settings
        Name of the loss, exit layer, alpha, projection.
    blocks
        L, of the decoder.
    width
        D, of H_k.

    Attributes
    ----------
    exits
        Blocks whose cross-entropy counts, ascending; the last is L.
    students, teachers
        Pairs of the distillation; the dynamic map gives each teacher another of the students in every batch.
    layers
        Blocks whose states `forward` asks for, ascending.
    projection
        Linear layer on the student's side of the distillation, at first the identity; None: none.

    Raises
    ------
    UserError
        The exit layer is not below L.
    """

    def __init__(self, settings: LossTraining, blocks: int, width: int) -> None:
        super().__init__()
        self.settings = settings
        check_exit_layer(settings.exit_layer, blocks)
        self.shares = cross_entropy_shares(settings.loss, blocks, settings.exit_layer)
        self.exits = tuple(self.shares)
        self.students = _students(settings)
        self.teachers = uniform_map(len(self.students), blocks) if self.students else ()
        self.layers = tuple(sorted({*self.exits, *self.students, *self.teachers}))
        self.projection = _identity(width) if settings.projection and self.students else None

    def forward(
        self, states_ND: Mapping[int, Tensor], labels_N: Tensor, head: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the loss as one term for each of `exits`, (E,); their sum is the loss.

        The distillation term counts for the shallow exit. All terms are means over target tokens: padding has no part in
        them (the reference lets it into the distillation).

        Parameters
        ----------
        states_ND
            Block -> H_k, for all of `layers`.
        labels_N
            Target tokens.
        head
            Logits (N, V) of H_k.
        """
        terms = [
            share * functional.cross_entropy(head(states_ND[layer]).float(), labels_N)
            for layer, share in self.shares.items()
        ]
        if self.students:
            terms[0] = terms[0] + self.settings.alpha * self.distillation(states_ND)
        return torch.stack(terms)

    def distillation(self, states_ND: Mapping[int, Tensor]) -> Tensor:
        """Return the mean squared distance of students from their teachers, which learn nothing from it."""
        students = [self._student(states_ND[layer]) for layer in self.students]
        teachers = [states_ND[layer].detach().float() for layer in self.teachers]
        if self.settings.loss == "shallowdeep_kd_dyna":
            pairs = dynamic_map(squared_distances(teachers, students).tolist())
            students = [students[student - 1] for student in pairs]
        return torch.stack(
            [
                functional.mse_loss(student_ND, teacher_ND)
                for student_ND, teacher_ND in zip(students, teachers, strict=True)
            ]
        ).mean()

    def _student(self, state_ND: Tensor) -> Tensor:
        return (state_ND if self.projection is None else self.projection(state_ND)).float()


@torch.no_grad()
def squared_distances(teachers: Sequence[Tensor], students: Sequence[Tensor]) -> Tensor:
    """Return the mean squared distance of each teacher from each student, (T, S); by differences, so equals give 0."""
    students_SND = torch.stack(list(students))
    return torch.stack([(students_SND - teacher_ND).square().mean((1, 2)) for teacher_ND in teachers])


def check_exit_layer(exit_layer: int | None, blocks: int) -> None:
    """Refuse a shallow model that is not shallower.

    Raises
    ------
    UserError
        The exit layer is not in 1..L-1.
    """
    if exit_layer is not None and not 1 <= exit_layer < blocks:
        raise UserError(
            f"exit_layer {exit_layer} is not below the decoder's {blocks} blocks; "
            f"allowed: 1 to {blocks - 1}: lower `exit_layer`, or take a deeper model"
        )


def _students(settings: LossTraining) -> tuple[int, ...]:
    """Return the blocks that a loss distils into."""
    shallow = settings.exit_layer
    if shallow is None or settings.loss == "shallowdeep_ce":
        return ()
    return (shallow,) if settings.loss == "shallowdeep_kd_last" else tuple(range(1, shallow + 1))


def _identity(width: int) -> nn.Linear:
    """Return a linear layer that changes nothing yet, so that training begins as it does without one."""
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
