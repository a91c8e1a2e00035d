"""What the answers of some rows are measured with: the task's metric, and what each exit costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from adaptive_inference.cost.flops import certainty_flops, flops_by_exit

if TYPE_CHECKING:
    from adaptive_inference.exit_rules.base import ExitRule
    from adaptive_inference.exits import MultiExitModel, MultiModel
    from adaptive_inference.exits.outputs import ExitOutputs
    from adaptive_inference.tasks.schema import Schema


@dataclass(frozen=True)
class Yardstick:
    """What a curve is measured with.

    Attributes
    ----------
    metric, kind, num_classes
        Of the task.
    num_layers
        L of the full model, the numerator of the layers speed-up.
    full_flops
        FLOPs of the full model for each row, ``(N,)``; None: FLOPs are not asked for.
    flops
        FLOPs of the method for each row at each exit, ``(N, E)``, its certainty heads left out.
    certainty_flops
        What these add up to each exit, ``(E,)``; None where there are none.
    """

    metric: str
    kind: str
    num_classes: int
    num_layers: int
    full_flops: np.ndarray | None = None
    flops: np.ndarray | None = None
    certainty_flops: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        schema: Schema,
        full: MultiExitModel,
        model: MultiExitModel | MultiModel,
        outputs: ExitOutputs,
    ) -> Yardstick:
        """Count what the rows of some outputs cost the full model and the one whose outputs they are."""
        flops = flops_by_exit(model, outputs.lengths, outputs.survivors)
        full_flops = flops if model is full else flops_by_exit(full, outputs.lengths)
        sure = None if outputs.certainty is None else certainty_flops(model)
        return cls(schema.metric, schema.kind, schema.outputs, full.exits[-1], full_flops[:, -1], flops, sure)

    def alone(self, k: int) -> Yardstick:
        """Return the yardstick of a cascade's member alone, by its index: its cost is what the cascade adds for it."""
        flops = None if self.flops is None else np.diff(self.flops, axis=1, prepend=0)[:, [k]]
        sure = None if self.certainty_flops is None else np.diff(self.certainty_flops, prepend=0)[[k]]
        return replace(self, flops=flops, certainty_flops=sure)

    def flops_under(self, rule: ExitRule) -> np.ndarray | None:
        """Return `flops` under a rule: one that reads the certainty heads pays for them."""
        if self.flops is None or self.certainty_flops is None or not rule.needs_certainty:
            return self.flops
        return self.flops + self.certainty_flops
