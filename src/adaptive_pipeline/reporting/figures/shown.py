"""What figures show that have no room for every rule and goal of a method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from adaptive_inference.calibration.operating_point import Goal, static_layers
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.names import method_key

#: Times lower cost at which rules are compared, or what is nearest to it among the goals.
SPEEDUP = 2.0


def shown_rule(named: Iterable[str], reached: Mapping[tuple[str, Goal], int]) -> str | None:
    """Return the rule that stands for a method in figures that have room for one.

    ``reached`` holds the seeds on which a rule reached a goal on the calibration split. The rule that reached the most
    speed-ups; where none did, the most goals; of equals the first ``named`` in the params. A bound on the loss alone must
    not decide: there a slow point counts. None where no named rule was run.
    """
    speeds = {key: seeds for key, seeds in reached.items() if seeds and key[1].kind == "min_speedup"}
    counts = {rule: 0 for rule, _ in reached}
    for (rule, _), seeds in (speeds or reached).items():
        counts[rule] += seeds
    return max((rule for rule in named if rule in counts), key=lambda rule: counts[rule], default=None)


def typical_points(results: Results) -> dict[str, pd.DataFrame]:
    """Return the points to show of each method: one rule (`shown_rule`), the first goal of speed, else any."""
    points = results.points
    points = points[points.measured & points.attainable]
    points = points[[m != "full" and static_layers(m) is None for m in points.method]]
    shown = {}
    for method, own in sorted(points.groupby("method"), key=lambda item: method_key(item[0])):
        reached = own.groupby(["rule", "goal"], sort=False).size().to_dict()
        rule = shown_rule(results.params.method(method).rule_names, reached)
        goals = [key for key in reached if rule in (key[0], None)]
        rule, goal = min(goals, key=lambda key: (key[1].kind != "min_speedup", key[1].order))
        shown[method] = own[(own.rule == rule) & (own.goal == goal)]
    return shown


def nearest_goal(goals: Iterable[Goal], speedup: float = SPEEDUP) -> Goal | None:
    """Return the goal of speed that is nearest to a speed-up, the lower of two; None where there is none."""
    speeds = [goal for goal in goals if goal.kind == "min_speedup"]
    return min(speeds, key=lambda goal: (abs((goal.value or 0.0) - speedup), goal.order), default=None)
