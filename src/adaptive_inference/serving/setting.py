"""Which rule at which threshold a saved model answers with, by the operating points of its calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptive_inference.calibration.operating_point import OperatingPoint, Setting, best_point
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.tasks.schema import Schema

Calibration = Mapping[str, Any] | None  #: content of ``calibration.json``


def choose_setting(
    calibration: Calibration, exits: int, schema: Schema, rule: str | None, threshold: float | None
) -> Setting:
    """Return the rule and threshold to answer with.

    Parameters
    ----------
    calibration
        Of the model; without one, or where it recommends nothing, the default is full depth.
    exits
        Number of the model's exits.
    schema
        Of its task.
    rule, threshold
        What the user asks for, in place of the recommended operating point: a rule alone takes that rule's point, a
        threshold alone changes the recommended rule's.

    Raises
    ------
    UserError
        No threshold is given for a rule that the calibration has no operating point of, or one that makes no sense.
    """
    default = default_setting(calibration, exits)
    if rule is None and threshold is not None and default.rule == "fixed":
        raise UserError(
            f"threshold {threshold:g} needs a rule: this model has no recommended one to apply it to; name one, e.g. "
            "rule confidence"
        )
    asked = load_rule(rule or default.rule)
    if threshold is not None:
        if schema.kind in asked.kinds:  # otherwise the engine refuses the rule
            asked.check_threshold(threshold, len(schema.labels or ()))
        return Setting(asked.name, threshold)
    if asked.name == default.rule:
        return default
    if asked.name == "fixed" or not asked.attainable:  # full depth; the engine refuses the other
        return Setting(asked.name, None)
    return _calibrated(calibration, asked.name)


def default_setting(calibration: Calibration, exits: int) -> Setting:
    """Return how a model of so many exits answers unless told otherwise: as recommended, else at full depth."""
    point = recommended(calibration)
    return Setting("fixed", float(exits - 1)) if point is None else point.setting


def _calibrated(calibration: Calibration, rule: str) -> Setting:
    """Return a rule's best setting that keeps the quality."""
    points = [point for point in usable_points(calibration) if point.qualifies]
    own = [point for point in points if point.setting.rule == rule]
    if not own:
        known = ", ".join(sorted({point.setting.rule for point in points})) or "none"
        raise UserError(
            f"no calibrated threshold for rule {rule!r}; give a threshold, or use a rule that has one: {known}"
        )
    best = best_point((point for point in own if point.goal.keeps_quality), lambda point: point)
    if best is None:
        choices = ", ".join(f"{point.setting.threshold:g} ({point.goal.name})" for point in own)
        raise UserError(
            f"no threshold of rule {rule!r} keeps the quality on the calibration split; name one yourself: {choices}"
        )
    return best.setting


def recommended(calibration: Calibration) -> OperatingPoint | None:
    """Return the operating point to answer with; None: the whole model answers."""
    found = (calibration or {}).get("recommended")
    return None if found is None else OperatingPoint.from_json(found)


def usable_points(calibration: Calibration) -> list[OperatingPoint]:
    """Return the operating points that the model can answer with: none of a member alone, none that needs labels."""
    points = [OperatingPoint.from_json(item) for item in (calibration or {}).get("operating_points", [])]
    return [
        point
        for point in points
        if point.reached and point.setting.member is None and load_rule(point.setting.rule).attainable
    ]
