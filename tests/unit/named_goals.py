"""Goals by the names that they have in tables, so that tests can be written as the tables read."""

from adaptive_inference.calibration.operating_point import Goal


def named_goal(name, cost="layers"):
    kind, _, number = name.rpartition("_")
    return (
        Goal("member" if kind == "static" else kind, float(number), cost) if kind else Goal(name, None, cost)
    )
