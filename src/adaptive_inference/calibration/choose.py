"""All operating points of a method, from the answers of its exits and of the full model on the calibration split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from adaptive_inference.calibration.curves import exit_quality, sweep, sweep_all
from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Seen, Setting
from adaptive_inference.calibration.operating_points import choose, meets, risk_point
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.exit_rules import load_rule

if TYPE_CHECKING:
    from adaptive_inference.exit_rules import ExitRule
    from adaptive_inference.exits.outputs import ExitOutputs
    from adaptive_inference.settings import protocol


def choose_points(
    rules: Mapping[str, ExitRule],
    outputs: ExitOutputs,
    yardstick: Yardstick,
    asked: protocol.Goal,
    thresholds: int,
    full: ExitOutputs,
    certifying: np.ndarray | None = None,
) -> list[OperatingPoint]:
    """Return one operating point per rule and goal; a model of one exit that is fixed has one, ``whole``.

    Parameters
    ----------
    rules
        Of the method, by name.
    outputs
        Calibrated, see `curves.calibrate`.
    yardstick
        With FLOPs.
    asked
        The goals.
    thresholds
        The most of one rule's grid.
    full
        The full model's outputs on the same rows.
    certifying
        Indices of the rows that certify, where a risk is asked for.
    """
    quality, points = full_quality(full, yardstick), []
    goals = [Goal("max_loss", asked.max_loss, asked.cost)]
    goals += [Goal("min_speedup", ratio, asked.cost) for ratio in asked.min_speedup]
    for name, curve in sweep_all(rules, outputs, yardstick, thresholds).items():
        if name == "fixed" and len(outputs.exits) == 1:
            whole = Goal("whole", None, asked.cost)
            points.append(_given(whole, Setting(name, 0.0), curve.seen(0), asked, quality))
        else:
            points += [choose(goal, name, curve, quality) for goal in goals]
        if asked.risk and rules[name].attainable:
            from adaptive_inference.calibration.risk_control import LOSSES

            answers = full.logits[:, -1].argmax(-1)
            losses = LOSSES[asked.risk.loss](curve.predictions, answers, outputs.labels)[:, certifying]
            risk = Goal("risk", asked.risk.delta, asked.cost)
            points.append(risk_point(risk, name, curve, losses, asked.risk.epsilon))
    return points


def full_point(full: ExitOutputs, yardstick: Yardstick, asked: protocol.Goal) -> OperatingPoint:
    """Return the one point of the full model, the yardstick of all others."""
    setting, seen = Setting("fixed", len(full.exits) - 1.0), Seen(full_quality(full, yardstick), 1.0, 1.0)
    return OperatingPoint(Goal("full", None, asked.cost), setting, True, seen)


def static_points(
    outputs: ExitOutputs, yardstick: Yardstick, asked: protocol.Goal, full: ExitOutputs
) -> list[OperatingPoint]:
    """Return one point per member of a cascade when it answers alone: the first-K-layers baselines.

    Parameters
    ----------
    outputs, yardstick
        Of the cascade.
    asked, full
        See `choose_points`.
    """
    quality, points = full_quality(full, yardstick), []
    for k, layers in enumerate(outputs.exits):
        curve = sweep(load_rule("fixed"), outputs.alone(k), yardstick.alone(k), np.zeros(1))
        goal, setting = Goal("member", float(layers), asked.cost), Setting("fixed", 0.0, member=layers)
        points.append(_given(goal, setting, curve.seen(0), asked, quality))
    return points


def full_quality(full: ExitOutputs, yardstick: Yardstick) -> float:
    """Return the quality of the full model's last exit."""
    return float(exit_quality(full, replace(yardstick, flops=None))[-1]["quality"])


def _given(goal: Goal, setting: Setting, seen: Seen, asked: protocol.Goal, quality: float) -> OperatingPoint:
    """Return the point of a model that every row runs through: it has figures whatever the goals.

    It qualifies when it keeps the quality that ``max_loss`` asks for.
    """
    return OperatingPoint(goal, setting, meets(Goal("max_loss", asked.max_loss), seen, quality), seen)
