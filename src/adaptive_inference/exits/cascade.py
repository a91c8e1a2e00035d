"""Multi-Model: independent models of growing depth, tried one after the other (sweet.md 1.4)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from adaptive_inference.backbones.base import Batch
from adaptive_inference.errors import UserError
from adaptive_inference.exits.forward import EncoderForward, ExitAnswer, Forward, merge_columns
from adaptive_inference.exits.layout import FIX, MULTI_MODEL, SavedModel
from adaptive_inference.exits.model import ExitModule, MultiExitModel
from adaptive_inference.exits.saved import save_companions, save_config


class CascadeForward(Forward):
    """A batch in a cascade: advancing to exit k starts member after member from the tokens, up to member k."""

    def __init__(
        self, members: Sequence[MultiExitModel], batch: Batch, gradient: str = "shared", packed: bool = False
    ) -> None:
        self.exits = tuple(member.exits[0] for member in members)
        self._members, self._gradient, self._packed = members, gradient, packed
        names = ("input_ids", "attention_mask", "token_type_ids")
        self._batch = {name: batch[name] for name in names if batch.get(name) is not None}
        self._passed = 0
        self._forwards: dict[int, EncoderForward] = {}  # of each exit passed and not released

    def advance(self, index: int) -> None:
        """See `Forward.advance`; a member not asked for is not run."""
        while self._passed <= index:
            forward = self._members[self._passed].start(self._batch, self._gradient, packed=self._packed)
            forward.advance(0)
            self._forwards[self._passed] = forward
            self._passed += 1

    def answer(self, index: int, certainty: bool = True) -> ExitAnswer:
        """See `Forward.answer`."""
        return self._forwards[index].answer(0, certainty)

    def release(self, index: int) -> None:
        """See `Forward.release`."""
        del self._forwards[index]

    def select(self, rows: Tensor, length: int | None = None) -> None:
        """See `Forward.select`; the inputs of the members to come are cut too."""
        self._batch = {name: item[rows, :length] for name, item in self._batch.items()}
        self._forwards = {index: forward.take(rows, length) for index, forward in self._forwards.items()}

    def merge(self, others: Sequence[Self]) -> None:
        """See `Forward.merge`: only the inputs of the members to come are there to be merged."""
        every = [self, *others]
        assert not any(item._forwards for item in every), "exits are held"
        assert len({item._passed for item in every}) == 1, "batches stand at different members"
        mask, merged = "attention_mask", {}
        for name in self._batch.keys() - {mask}:
            parts = [(item._batch[name], item._batch.get(mask)) for item in every]
            merged[name], tokens_BN = merge_columns(parts)
        self._batch = merged if tokens_BN is None else merged | {mask: tokens_BN}


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
        if any(member.reduction is not None for member in members):
            raise UserError(
                "a member of a multi-model that removes tokens is not supported; train members without `removal`"
            )
        self.members = nn.ModuleList(members)
        self.exits = tuple(member.exits[0] for member in members)
        if list(self.exits) != sorted(set(self.exits)):
            raise UserError(f"members of a multi-model must grow in depth, not {list(self.exits)}")
        outputs = sorted({member.outputs for member in members})
        if len(outputs) > 1:
            raise UserError(
                f"members of a multi-model must answer the same task, not with {' and '.join(map(str, outputs))} outputs"
            )
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

    @property
    def vocabulary(self) -> int:
        """Tokens that every member knows."""
        return min(member.vocabulary for member in self._members)

    def start(self, batch: Batch, gradient: str = "shared", *, packed: bool = False) -> CascadeForward:
        """Start a batch on its way; see `CascadeForward`."""
        return CascadeForward(self._members, batch, gradient, packed)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write one folder per member, named by its layers, and what goes with them all."""
        folder = Path(folder)
        save_config(folder, self.kind, {"exits": list(self.exits)})
        for member in self._members:
            member.save_pretrained(folder / str(member.exits[0]))
        save_companions(folder, self.schema, self.tokenizer, self.calibration)

    @classmethod
    def _from_saved(cls, saved: SavedModel) -> Self:
        members = []
        for layer in saved.config["exits"]:
            home = saved.home / str(layer)
            member = MultiExitModel.from_pretrained(home)
            if member.exits != (layer,):
                raise UserError(f"{home} has exits {list(member.exits)}, not [{layer}]; {FIX}")
            members.append(member)
        return cls(members)
