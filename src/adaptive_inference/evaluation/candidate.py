"""A model that answers, with all that measuring it needs: a method's own, or one member of a cascade alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.calibration.curves import Curve, sweep_all
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.exit_rules import ExitRule

if TYPE_CHECKING:
    from adaptive_inference.calibration.operating_point import OperatingPoint
    from adaptive_inference.exits import MultiExitModel, MultiModel
    from adaptive_inference.exits.outputs import ExitOutputs


@dataclass(frozen=True)
class Candidate:
    """One row family of the results.

    Attributes
    ----------
    method
        Key in tables.
    model
        On the device that it is timed on; None: its answers are at hand and it cannot be timed.
    outputs
        Of the reported split, calibrated.
    calibrator
        What calibrated them.
    yardstick
        Metric and costs of these rows.
    """

    method: str
    model: MultiExitModel | MultiModel | None
    outputs: ExitOutputs
    calibrator: Calibrator
    yardstick: Yardstick

    @cached_property
    def parameters(self) -> int:
        """Number of parameters."""
        return self.model.parameter_count

    def curves(self, rules: Mapping[str, ExitRule], count: int) -> dict[str, Curve]:
        """Return the curve of each rule over its grid of at most ``count`` thresholds."""
        return sweep_all(rules, self.outputs, self.yardstick, count)

    def answering(self, point: OperatingPoint) -> Candidate:
        """Return who answers at an operating point: itself, or the member of a cascade that the point names."""
        if point.setting.member is None:
            return self
        k = self.outputs.exits.index(point.setting.member)
        return replace(
            self,
            method=point.method(self.method),
            model=None if self.model is None else self.model.members[k],
            outputs=self.outputs.alone(k),
            calibrator=self.calibrator.alone(k),
            yardstick=self.yardstick.alone(k),
        )
