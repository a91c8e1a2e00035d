"""What trainings share that end in a static model of k layers in place of L."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptive_inference.errors import UserError
from adaptive_inference.objectives.base import Surgery

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from adaptive_inference.backbones.base import Batch
    from adaptive_inference.exits.model import MultiExitModel


class Shallow(Surgery):
    """`full` has L layers, the model k, and each of these stands for L / k of those.

    Attributes
    ----------
    group
        L / k.
    """

    group: int

    def operate(self, model: MultiExitModel, seed: int, batches: Iterable[Batch]) -> None:
        """Freeze `full` and count its layers per layer of the model; see `Surgery.operate`."""
        full = self.given_full()
        layers = full.exits[-1]
        self.check_exits(model.exits, layers)
        self.group, self.seed = layers // model.exits[-1], seed
        full.requires_grad_(False).eval().to(model.device)

    def check_exits(self, exits: Sequence[int], layers: int) -> None:
        """See `Surgery.check_exits`: one exit after k layers, where k divides L."""
        allowed = [count for count in range(1, layers + 1) if layers % count == 0]
        if len(exits) > 1 or exits[-1] not in allowed:
            raise UserError(
                f"objective {self.name!r} makes a model of one exit after k layers, where k divides the {layers} layers of "
                f"the full model; `exits` is {list(exits)}, allowed: {', '.join(f'[{count}]' for count in allowed)}"
            )
