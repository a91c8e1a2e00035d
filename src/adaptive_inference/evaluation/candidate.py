"""A model that answers, with all that measuring it needs: a method's own, or one member of a cascade alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.calibration.curves import Curve, Yardstick, sweep
from adaptive_inference.cost.flops import certainty_flops, flops_by_exit, parameter_count
from adaptive_inference.exit_rules import ExitRule, load_rule
from adaptive_inference.exits.outputs import ExitOutputs

if TYPE_CHECKING:
    import numpy as np

    from adaptive_inference.exits import MultiExitModel, MultiModel


@dataclass(frozen=True)
class Candidate:
    """One row family of the results.

    Attributes
    ----------
    method
        Key in tables.
    model
        On the device that it is timed on.
    outputs
        Of the reported split, calibrated.
    calibrator
        What calibrated them.
    base
        Metric and the full model's costs, without this model's FLOPs.
    """

    method: str
    model: MultiExitModel | MultiModel
    outputs: ExitOutputs
    calibrator: Calibrator
    base: Yardstick

    def yardstick(self, rule: ExitRule) -> Yardstick:
        """Return metric and costs under a rule (one that reads the certainty heads pays for them)."""
        return replace(self.base, flops=self._certain_flops if rule.needs_certainty else self._flops)

    @cached_property
    def _flops(self) -> np.ndarray:
        return flops_by_exit(self.model, self.outputs.lengths)

    @cached_property
    def _certain_flops(self) -> np.ndarray:
        return self._flops + certainty_flops(self.model)

    @cached_property
    def parameters(self) -> int:
        """Number of parameters."""
        return parameter_count(self.model)

    def curves(self, rules: Iterable[str], count: int) -> dict[str, Curve]:
        """Return the curve of each rule over its grid of at most ``count`` thresholds."""
        found = {}
        for name in rules:
            rule = load_rule(name)
            grid = rule.grid(self.base.num_classes, count, len(self.outputs.exits))
            found[name] = sweep(rule, self.outputs, self.yardstick(rule), grid)
        return found

    def answering(self, point: Mapping[str, Any]) -> Candidate:
        """Return who answers at an operating point: itself, or the member of a cascade that the point names.

        A member's point has its index among the members as its threshold, which for the member alone lies at or past
        its only exit: the same answer.
        """
        if point.get("method", self.method) == self.method:
            return self
        k = int(point["threshold"])
        member = {
            "model": self.model.members[k],
            "outputs": self.outputs.alone(k),
            "calibrator": self.calibrator.alone(k),
        }
        return replace(self, method=point["method"], **member)
