"""Quality against cost of one rule at any number of thresholds, from cached outputs alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.calibration.operating_point import Seen
from adaptive_inference.cost.flops import flops_speedup, layers_speedup
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exit_rules.base import ExitRule
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.tasks.quality import predict, quality


@dataclass(frozen=True)
class Curve:
    """A rule at T thresholds on N rows."""

    thresholds: np.ndarray  #: (T,)
    exits: np.ndarray  #: (T, N) exit indices
    predictions: np.ndarray  #: (T, N)
    quality: np.ndarray  #: (T,)
    layers_speedup: np.ndarray  #: (T,)
    flops_speedup: np.ndarray | None  #: (T,)

    def to_json(self) -> dict[str, Any]:
        """Return the plotted columns."""
        names = ("thresholds", "quality", "layers_speedup", "flops_speedup")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def seen(self, t: int) -> Seen:
        """Return what was measured at the threshold of index ``t``."""
        flops = None if self.flops_speedup is None else float(self.flops_speedup[t])
        return Seen(float(self.quality[t]), float(self.layers_speedup[t]), flops)


def calibrate(outputs: ExitOutputs, calibrator: Calibrator) -> ExitOutputs:
    """Return outputs as rules see them: calibrated logits and certainty."""
    certainty = calibrator.certainty(outputs.certainty)
    return replace(outputs, logits=calibrator.logits(outputs.logits), certainty=certainty)


def sweep(rule: ExitRule, outputs: ExitOutputs, yardstick: Yardstick, thresholds: np.ndarray) -> Curve:
    """Measure a rule at all thresholds at once.

    Parameters
    ----------
    rule
        Must fit the task and the model, see `ExitRule.check`.
    outputs
        Calibrated, see `calibrate`.
    yardstick
        Metric and costs.
    thresholds
        ``(T,)``.
    """
    rule.check(yardstick.kind, outputs.certainty is not None)
    rule.warn_if_idle(thresholds, len(outputs.exits))
    exits = rule.exit_indices(outputs.logits, outputs.certainty, outputs.labels, thresholds)
    rows = np.arange(len(outputs.labels))
    predictions = predict(outputs.logits, yardstick.kind)[rows, exits]
    score = quality(yardstick.metric, predictions, outputs.labels, yardstick.num_classes)
    layers = layers_speedup(yardstick.num_layers, np.asarray(outputs.layers_cost)[exits])
    flops, spent = None, yardstick.flops_under(rule)
    if spent is not None and yardstick.full_flops is not None:
        flops = flops_speedup(yardstick.full_flops, spent[rows, exits])
    return Curve(
        np.asarray(thresholds, dtype=np.float64), exits, predictions, np.asarray(score), layers, flops
    )


def sweep_all(
    rules: Mapping[str, ExitRule], outputs: ExitOutputs, yardstick: Yardstick, count: int
) -> dict[str, Curve]:
    """Return the curve of every rule over its own grid of at most ``count`` thresholds."""
    exits = len(outputs.exits)
    return {
        name: sweep(rule, outputs, yardstick, rule.grid(yardstick.num_classes, count, exits))
        for name, rule in rules.items()
    }


def exit_quality(outputs: ExitOutputs, yardstick: Yardstick) -> list[dict[str, Any]]:
    """Return quality and cost of each exit when every row is forced to leave there; FLOPs where they are asked for."""
    forced = load_rule("fixed")
    grid = forced.grid(yardstick.num_classes, len(outputs.exits), len(outputs.exits))
    curve = sweep(forced, outputs, yardstick, grid)
    columns = curve.to_json()
    del columns["thresholds"]
    return [
        {"layer": layer} | {name: float(column[k]) for name, column in columns.items()}
        for k, layer in enumerate(outputs.exits)
    ]
