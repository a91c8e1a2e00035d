"""Area under a curve and the ELUE score: worked numbers and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_pipeline.reporting.statistics.curve_area import (
    CostCurve,
    area_under,
    at_shares,
    common_range,
    cost_curve,
    elue_score,
)


def curve(*points: tuple[float, float]) -> CostCurve:
    """Return the curve through (cost, quality)."""
    return cost_curve([1 / cost for cost, _ in points], [quality for _, quality in points])


def test_worked_areas():
    line = curve((0.5, 0.8), (1.0, 1.0))
    assert area_under(line, 0.5, 1.0) == pytest.approx(0.9)
    assert area_under(line, 0.75, 1.0) == pytest.approx(0.95)  # cut where the line is at 0.9
    hill = curve((0.2, 0.5), (0.4, 0.9), (0.6, 0.7))
    assert area_under(hill, 0.2, 0.6) == pytest.approx(0.75)  # (0.7 + 0.8) / 2: it goes down again
    assert area_under(hill, 0.3, 0.5) == pytest.approx(0.825)  # 0.7 up to 0.9, down to 0.8


def test_points_of_equal_cost_count_as_their_mean():
    assert area_under(curve((0.5, 0.7), (0.5, 0.9), (1.0, 1.0)), 0.5, 1.0) == pytest.approx(0.9)


def test_no_area_where_the_curve_does_not_reach():
    line = curve((0.5, 0.8), (1.0, 1.0))
    assert area_under(line, 0.4, 1.0) is None
    assert area_under(line, 0.5, 1.1) is None
    assert area_under(line, 0.7, 0.7) is None  # no width
    assert cost_curve([None, 2.0], [0.5, None]) is None


def test_the_common_range_is_what_all_curves_cover():
    assert common_range([curve((0.25, 1), (1, 1)), curve((0.5, 1), (2, 1))]) == (0.5, 1.0)
    assert common_range([curve((0.25, 1), (0.5, 1)), curve((0.75, 1), (1, 1))]) is None
    assert common_range([]) is None


costs = st.lists(st.integers(1, 40).map(lambda k: k / 20), min_size=2, max_size=8, unique=True)
qualities = st.floats(0, 1)


@st.composite
def curves(draw) -> CostCurve:
    return curve(*((cost, draw(qualities)) for cost in draw(costs)))


@given(costs, qualities)
def test_area_of_a_constant_is_the_constant(cost, value):
    found = curve(*((c, value) for c in cost))
    assert area_under(found, found.cost[0], found.cost[-1]) == pytest.approx(value)


@given(curves(), st.floats(0.01, 0.99))
def test_areas_of_two_parts_make_the_whole(found, share):
    low, high = found.cost[0], found.cost[-1]
    middle = low + share * (high - low)
    parts = area_under(found, low, middle) * (middle - low) + area_under(found, middle, high) * (
        high - middle
    )
    assert parts == pytest.approx(area_under(found, low, high) * (high - low))


@given(
    st.lists(st.tuples(st.sampled_from([1.0, 1.5, 2.0, 4.0]), qualities), min_size=2, max_size=8),
    st.randoms(),
)
def test_the_order_of_the_points_changes_nothing(points, random):
    moved = random.sample(points, len(points))
    first, second = (cost_curve(*zip(*pairs, strict=True)) for pairs in (points, moved))
    np.testing.assert_array_equal(first.cost, second.cost)
    np.testing.assert_allclose(first.quality, second.quality)


def test_worked_elue_score():
    baseline = curve((0.5, 0.8), (1.0, 0.9))
    points = curve((0.25, 0.9), (0.5, 0.85), (0.75, 0.85), (1.25, 0.99))
    found = elue_score(points, baseline)
    assert found.score == pytest.approx((0.05 + 0.0) / 2)
    assert (found.used, found.excluded) == (2, 2)
    outside = elue_score(curve((0.25, 0.9)), baseline)
    assert (outside.score, outside.used, outside.excluded) == (None, 0, 1)


@given(curves(), st.floats(-0.5, 0.5))
def test_a_baseline_scores_zero_and_one_shifted_its_shift(baseline, shift):
    assert elue_score(baseline, baseline).score == 0.0
    found = elue_score(CostCurve(baseline.cost, baseline.quality + shift), baseline)
    assert found.score == pytest.approx(shift)
    assert (found.used, found.excluded) == (len(baseline.cost), 0)


def test_a_curve_is_scored_at_even_shares_that_it_reaches():
    found = at_shares(curve((0.3, 0.6), (0.5, 0.8), (1.5, 0.8)), np.array([0.25, 0.4, 0.5, 1.0, 2.0]))
    assert found.cost.tolist() == [0.4, 0.5, 1.0]
    np.testing.assert_allclose(found.quality, [0.7, 0.8, 0.8])
