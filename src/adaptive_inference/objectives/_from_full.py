"""What trainings share that begin with the weights of the full fine-tuned model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptive_inference.exits.build import check_last_exit, start_from_full
from adaptive_inference.objectives.base import Surgery

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from adaptive_inference.backbones.base import Batch
    from adaptive_inference.exits.model import MultiExitModel


class FromFull(Surgery):
    """Gives the model the full one's encoder, last head and shared pooler."""

    needs_full = "fine_tuned"

    def operate(self, model: MultiExitModel, seed: int, batches: Iterable[Batch]) -> None:
        """See `Surgery.operate`."""
        start_from_full(model, self.given_full())
        self.full = None  # its weights were copied

    def check_exits(self, exits: Sequence[int], layers: int) -> None:
        """See `Surgery.check_exits`."""
        check_last_exit(exits, layers)
