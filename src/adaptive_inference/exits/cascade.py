"""Multi-Model: independent models of growing depth, tried one after the other (sweet.md 1.4)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from adaptive_inference.backbones.base import Batch
from adaptive_inference.errors import UserError
from adaptive_inference.exits.model import ExitModule, ExitStep, LateStep, MultiExitModel


class MultiModel(ExitModule):
    """A cascade in which nothing is shared or re-used: each member starts from the tokens.

    Parameters
    ----------
    members
        Models of one exit each, at growing depth. Each is also a static first-k-layers baseline by itself.
    """

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
        """Write ``config.json`` and one folder per member; see `exits.saved`."""
        from adaptive_inference.exits.saved import save_multi_model

        save_multi_model(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> MultiModel:
        """Load what `save_pretrained` wrote, or a method's run folder."""
        from adaptive_inference.exits.saved import load_model

        return load_model(folder, expected=cls)
