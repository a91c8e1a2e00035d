"""Multi-Model: independent models of growing depth, tried one after the other (sweet.md 1.4)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from torch import nn

from adaptive_inference.backbones.base import Batch
from adaptive_inference.errors import UserError
from adaptive_inference.exits.layout import MULTI_MODEL, SavedModel
from adaptive_inference.exits.model import ExitModule, ExitStep, LateStep, MultiExitModel
from adaptive_inference.exits.saved import save_companions, save_config


class MultiModel(ExitModule):
    """A cascade in which nothing is shared or re-used: each member starts from the tokens.

    Parameters
    ----------
    members
        Models of one exit each, at growing depth. Each is also a static first-k-layers baseline by itself.
    """

    kind = MULTI_MODEL

    def __init__(self, members: Sequence[MultiExitModel]) -> None:
        super().__init__()
        if not members or any(len(member.exits) != 1 for member in members):
            raise UserError("a multi-model needs members with one exit each")
        self.members = nn.ModuleList(members)
        self.exits = tuple(member.exits[0] for member in members)
        if list(self.exits) != sorted(set(self.exits)):
            raise UserError(f"members of a multi-model must grow in depth, not {list(self.exits)}")
        self.schema, self.tokenizer, self.calibration = members[-1].schema, members[-1].tokenizer, None
        self._members = list(members)

    @property
    def layers_cost(self) -> tuple[int, ...]:
        """Layers run in total when member k answers: the sum over the members up to it."""
        return tuple(itertools.accumulate(self.exits))

    @property
    def has_certainty(self) -> bool:
        """Whether every member has a certainty head."""
        return all(member.has_certainty for member in self._members)

    def steps(
        self, batch: Batch, gradient: str = "shared", certainty: bool = True, late: bool = False
    ) -> Iterator[ExitStep | LateStep]:
        """Run member after member from the tokens; a member not asked for is not run."""
        for index, member in enumerate(self._members):
            for step in member.steps(batch, gradient, certainty, late):
                yield replace(step, index=index)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write one folder per member, named by its layers, and what goes with them all."""
        folder = Path(folder)
        save_config(folder, self.kind, {"exits": list(self.exits)})
        for member in self._members:
            member.save_pretrained(folder / str(member.exits[0]))
        save_companions(folder, self.schema, self.tokenizer, self.calibration)

    @classmethod
    def _from_saved(cls, saved: SavedModel) -> Self:
        return cls(
            [MultiExitModel.from_pretrained(saved.home / str(layer)) for layer in saved.config["exits"]]
        )
