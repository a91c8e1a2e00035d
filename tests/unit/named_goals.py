"""Goals by the names that they have in tables, so that tests can be written as the tables read."""

import re

from adaptive_inference.calibration.operating_point import Goal


def named_goal(name, cost="layers"):
    numbered = re.fullmatch(r"(\w+)_([\d.]+)", name)
    if not numbered:
        return Goal(name, None, cost)
    kind, number = numbered.groups()
    return Goal("member" if kind == "static" else kind, float(number), cost)
