"""A calibration with the operating point that was chosen as the default to predict with. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adaptive_inference.calibration.operating_point import OperatingPoint


def calibration_of(body: Mapping[str, Any], chosen: OperatingPoint | None) -> dict[str, Any]:
    """Return a calibration with the recommended operating point as the default to predict with.

    It takes the place of its rule's own at that goal, which promises nothing. A member of a cascade that is used alone
    keeps what is its own: it is a model of one exit.

    Parameters
    ----------
    body
        Content of ``calibration.json``.
    chosen
        What is recommended; None: the full model, at the point that it has.
    """
    if chosen is None:
        return dict(body)
    if chosen.setting.member is not None:
        body, chosen = alone(body, chosen.setting.member), _whole(chosen)
    own = [OperatingPoint.from_json(item) for item in body["operating_points"]]
    key = chosen.setting.rule, chosen.goal.name
    own = [chosen, *(point for point in own if (point.setting.rule, point.goal.name) != key)]
    return dict(body) | {
        "operating_points": [point.to_json() for point in own],
        "recommended": chosen.to_json(),
    }


def alone(body: Mapping[str, Any], member: int) -> dict[str, Any]:
    """Return what a cascade's calibration says of its member of some layers, as that of a model of one exit."""
    k = list(body["exits"]).index(member)
    lists = {
        key: [body[key][k]]
        for key in ("temperatures", "certainty_min", "certainty_max", "exits")
        if body.get(key)
    }
    reliability = {
        when: curves[k : k + 1] if curves else curves for when, curves in body["reliability"].items()
    }
    points = [OperatingPoint.from_json(item) for item in body["operating_points"]]
    own = [_whole(point).to_json() for point in points if point.setting.member == member]
    return dict(body) | lists | {"reliability": reliability, "operating_points": own, "recommended": None}


def _whole(point: OperatingPoint) -> OperatingPoint:
    """Return the point of a member as that of a model of its own."""
    return replace(point, setting=replace(point.setting, member=None))
