"""Operating points: names, JSON, and what is chosen and recommended in each currency, against brute force."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from named_goals import named_goal

from adaptive_inference.calibration.curves import Curve
from adaptive_inference.calibration.operating_point import (
    Goal,
    OperatingPoint,
    Seen,
    Setting,
    best_point,
    rank,
    static_layers,
    static_name,
)
from adaptive_inference.calibration.operating_points import choose, recommend
from adaptive_inference.errors import UserError
from adaptive_pipeline.runs.records import CalibrationRecord

GRID = np.array([0.5, 0.7, 0.9, 1.01])
QUALITY = np.array([0.80, 0.89, 0.91, 0.90])
SPEEDUP = np.array([3.0, 2.0, 1.4, 1.0])

costs = st.sampled_from(["layers", "flops"])
numbers = st.one_of(st.integers(0, 50).map(float), st.floats(0, 1e9), st.floats(0, 1e-3))
goals = st.one_of(
    st.builds(Goal, st.sampled_from(["max_loss", "min_speedup", "risk", "member"]), numbers, costs),
    st.builds(Goal, st.sampled_from(["full", "whole"]), st.none(), costs),
)
some_seen = st.builds(Seen, st.floats(-1, 1), st.floats(0.1, 12), st.none() | st.floats(0.1, 12))
points = st.builds(
    OperatingPoint,
    goals,
    st.builds(
        Setting,
        st.sampled_from(["confidence", "fixed"]),
        st.none() | st.floats(0, 2),
        st.none() | st.integers(1, 24),
    ),
    st.booleans(),
    st.none() | some_seen,
    st.just({}) | st.fixed_dictionaries({"rows": st.integers(1, 99), "risk": st.floats(0, 1)}),
)


def curve_of(quality, layers, flops=None, grid=None) -> Curve:
    quality, layers = np.asarray(quality, float), np.asarray(layers, float)
    rows = np.zeros((len(quality), 1), int)
    grid = np.arange(len(quality), dtype=float) if grid is None else grid
    return Curve(grid, rows, rows, quality, layers, None if flops is None else np.asarray(flops, float))


def chosen(rule, curve, full_quality, max_loss, min_speedup, cost="layers"):
    asked = [Goal("max_loss", max_loss, cost), *(Goal("min_speedup", y, cost) for y in min_speedup)]
    return [choose(goal, rule, curve, full_quality) for goal in asked]


CURVE = curve_of(QUALITY, SPEEDUP, grid=GRID)


# ---- names and JSON ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_loss_1", "min_speedup_1.5", "risk_0.05", "static_3", "full", "whole"])
def test_a_goal_is_named_by_its_kind_and_number_in_either_currency(name):
    assert named_goal(name).name == named_goal(name, "flops").name == name


@given(goals, goals)
def test_no_two_kinds_of_goals_share_a_name(one, other):
    assert one.kind == other.kind or one.name != other.name


@given(st.integers(1, 999))
def test_the_layers_of_a_member_alone_are_read_from_its_name(layers):
    assert static_layers(static_name(layers)) == layers
    assert static_name(layers) == Goal("member", float(layers)).name


@pytest.mark.parametrize(
    "name", ["static", "static_", "static_x", "static_-1", "static_exit", "static_2.5", "full"]
)
def test_no_other_name_is_that_of_a_member_alone(name):
    assert static_layers(name) is None


@given(points)
def test_a_point_survives_json_and_the_record(point):
    assert OperatingPoint.from_json(json.loads(json.dumps(point.to_json()))) == point
    given_to = {"task": "t", "backbone": "b", "seed": 0, "method": "m"}
    record = CalibrationRecord(
        stage="calibrate_thresholds", cell=given_to, params={}, inputs={}, code="", recommended=point,
        operating_points=[point],
    )  # fmt: skip
    body = json.loads(json.dumps(record.to_json()))
    assert body["recommended"] == body["operating_points"][0] == json.loads(json.dumps(point.to_json()))
    assert CalibrationRecord.from_json(body, "x").operating_points == [point]
    assert CalibrationRecord.from_json(body, "x").to_json() == record.to_json()


@pytest.mark.parametrize("key", ["goal", "setting", "qualifies", "seen", "evidence"])
def test_a_point_that_lacks_a_key_is_refused_with_what_to_do(key):
    body = OperatingPoint(Goal("full"), Setting("fixed", 3.0), True, Seen(0.9, 1.0)).to_json()
    del body[key]
    with pytest.raises(UserError, match=f"{key}.*calibrate the model again"):
        OperatingPoint.from_json(body)


def test_a_member_alone_has_its_own_row_and_any_other_point_the_methods():
    member = OperatingPoint(Goal("member", 2.0), Setting("fixed", 0.0, member=2), True, Seen(0.9, 6.0))
    assert (member.goal.name, member.method("multi_model")) == ("static_2", "static_2")
    assert choose(Goal("max_loss", 1.0), "margin", CURVE, 0.9).method("multi_model") == "multi_model"


def test_choosing_loads_neither_torch_nor_scipy():
    code = (
        "import sys; import adaptive_inference.calibration.operating_points as m, numpy as np; "
        "m.recommend([]); print(sorted({'torch', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


# ---- choosing ----------------------------------------------------------------------------------------------------------


def test_operating_points_meet_their_goals():
    found = chosen("confidence", CURVE, full_quality=0.90, max_loss=1.0, min_speedup=[1.2, 2.5])
    assert [p.goal.name for p in found] == ["max_loss_1", "min_speedup_1.2", "min_speedup_2.5"]
    assert [p.setting for p in found] == [
        Setting("confidence", t) for t in (0.7, 0.9, 0.5)
    ]  # 0.89 is within one
    assert all(p.qualifies and p.reached for p in found)
    assert found[0].seen == Seen(0.89, 2.0)


def test_no_threshold_qualifying_is_said_and_the_whole_model_is_to_answer():
    found = chosen("confidence", CURVE, full_quality=0.99, max_loss=0.5, min_speedup=[4.0])
    assert [(p.qualifies, p.reached, p.setting.threshold) for p in found] == [(False, False, None)] * 2
    assert recommend(found) is None


def test_ties_go_to_better_quality_then_to_more_speed_then_to_the_first():
    curve = curve_of([0.9, 0.95, 0.9, 0.9], [2.0, 2.0, 2.0, 1.0], grid=GRID)
    assert [p.setting.threshold for p in chosen("margin", curve, 0.9, 1.0, [1.5])] == [0.7, 0.7]
    curve = curve_of(np.full(4, 0.9), [2.0, 2.0, 1.0, 1.0], grid=GRID)
    assert [p.setting.threshold for p in chosen("margin", curve, 0.9, 1.0, [1.0])] == [0.5, 0.5]


def test_the_currency_decides_what_is_fast():
    curve = curve_of([0.9, 0.9, 0.9], [3.0, 1.0, 2.0], [1.1, 2.0, 1.3])
    for cost, fastest, fast in (("layers", 0.0, [0.0, 0.0]), ("flops", 1.0, [1.0, 1.0])):
        loss, *speeds = chosen("margin", curve, 0.9, 1.0, [1.5, 2.0], cost)
        assert loss.setting.threshold == fastest
        assert [p.setting.threshold for p in speeds] == fast
        assert {p.goal.cost for p in (loss, *speeds)} == {cost}
    assert not choose(Goal("min_speedup", 2.5, "flops"), "margin", curve, 0.9).reached
    assert choose(Goal("min_speedup", 2.5, "layers"), "margin", curve, 0.9).reached


few = st.integers(0, 4)  # few values, so that ties are common


@given(st.lists(st.tuples(few, few, few), min_size=1, max_size=12), few, few, few, costs)
@settings(max_examples=300)
def test_a_choice_equals_brute_force_in_either_currency_ties_included(rows, full, lost, fast, cost):
    quality, layers, flops = (np.array(column) for column in zip(*rows, strict=True))
    quality, layers, flops = quality / 4, 1 + layers / 2, 1 + flops / 3
    speed, full_quality, max_loss, ratio = (
        (layers if cost == "layers" else flops),
        full / 4,
        25.0 * lost,
        1 + fast / 3,
    )
    loss_point, speed_point = chosen(
        "margin", curve_of(quality, layers, flops), full_quality, max_loss, [ratio], cost
    )
    expected = {"loss": None, "speed": None}
    for t in range(len(rows)):
        best = expected["loss"]
        if quality[t] >= full_quality - max_loss / 100 - 1e-9 and (
            best is None or speed[t] > speed[best] or (speed[t] == speed[best] and quality[t] > quality[best])
        ):
            expected["loss"] = t
        best = expected["speed"]
        if speed[t] >= ratio - 1e-9 and (
            best is None
            or quality[t] > quality[best]
            or (quality[t] == quality[best] and speed[t] > speed[best])
        ):
            expected["speed"] = t
    for point, t in ((loss_point, expected["loss"]), (speed_point, expected["speed"])):
        assert point.qualifies == point.reached == (t is not None)
        assert point.setting.threshold == t
        if t is not None:
            assert point.seen == Seen(quality[t], layers[t], flops[t])


# ---- recommending ------------------------------------------------------------------------------------------------------


def test_the_fastest_qualifying_rule_is_recommended():
    found = [
        *chosen("confidence", CURVE, 0.90, 1.0, [1.0]),
        *chosen("entropy", curve_of(QUALITY, SPEEDUP + 0.5, grid=GRID), 0.90, 1.0, [1.0]),
    ]
    best = recommend(found)
    assert (best.setting, best.goal.name) == (Setting("entropy", 0.7), "max_loss_1")


def test_what_saves_flops_and_no_layer_is_recommended_where_flops_are_the_currency():
    """Pruned heads: as many layers as the full model, fewer FLOPs, the same quality."""
    pruned = curve_of([0.9], [1.0], [1.18])
    slow = curve_of([0.91], [1.1], [1.05])  # an early exit that saves a little of both
    for cost, rule in (("layers", "confidence"), ("flops", "margin")):
        found = [choose(Goal("max_loss", 1.0, cost), name, curve, 0.9) for name, curve in
                 (("confidence", slow), ("margin", pruned))]  # fmt: skip
        assert recommend(found).setting.rule == rule
        assert found[1].qualifies
    assert choose(Goal("min_speedup", 1.1, "flops"), "fixed", pruned, 0.9).qualifies
    assert not choose(Goal("min_speedup", 1.1, "layers"), "fixed", pruned, 0.9).qualifies


def test_bounds_members_and_promises_are_not_recommended():
    best = {"qualifies": True, "seen": Seen(1.0, 9.0, 9.0)}
    own = choose(Goal("max_loss", 1.0), "confidence", CURVE, 0.9)
    others = [
        OperatingPoint(Goal("max_loss", 1.0), Setting("oracle", 0.5), **best),
        OperatingPoint(Goal("member", 1.0), Setting("fixed", 0.0, member=1), **best),
        OperatingPoint(Goal("risk", 0.1), Setting("confidence", 0.5), **best),
        OperatingPoint(Goal("min_speedup", 2.0), Setting("confidence", 0.5), **best),
    ]
    assert recommend([*others, own]) == own
    assert recommend(others) is None


def test_a_model_of_one_exit_answers_even_where_it_does_not_qualify():
    whole = OperatingPoint(Goal("whole"), Setting("fixed", 0.0), False, Seen(0.5, 2.0))
    late = OperatingPoint(Goal("max_loss", 1.0), Setting("confidence", 0.5), True, Seen(0.9, 1.0))
    assert recommend([whole]) == whole
    assert recommend([whole, late]) == late


@given(goals, st.lists(st.tuples(st.booleans(), st.none() | some_seen), max_size=6))
def test_the_best_point_is_the_first_of_those_that_rank_highest(goal, rows):
    found = [OperatingPoint(goal, Setting("fixed", float(i)), *row) for i, row in enumerate(rows)]
    fit = [point for point in found if point.qualifies and point.seen]
    best = best_point(found, lambda point: point)
    if not fit:
        assert best is None
        return
    highest = max(rank(goal, point.seen) for point in fit)
    assert best is next(point for point in fit if rank(goal, point.seen) == highest)
