"""What figures show: the view around the goal, names, rules that are one, bands, and what is not drawn."""

from __future__ import annotations

import math
import re
from copy import copy
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_records import invented_params, write_run

from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.figures.analysis import compared_cells
from adaptive_pipeline.reporting.figures.captions import CAPTIONS, ORDER
from adaptive_pipeline.reporting.figures.coincide import coincide
from adaptive_pipeline.reporting.figures.exits import draw_exits
from adaptive_pipeline.reporting.figures.headline import ZOOM, draw_headline, pareto
from adaptive_pipeline.reporting.figures.labels import Label, height_for, label_beside, spread
from adaptive_pipeline.reporting.figures.speed import SpeedPlot
from adaptive_pipeline.reporting.figures.style import band_legible, canvas, colour, marker, save
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.measures import SPEEDS
from adaptive_pipeline.reporting.names import METHODS
from adaptive_pipeline.reporting.report import FIGURES, draw_figures
from adaptive_pipeline.reporting.statistics.comparisons import compare

WALLCLOCK = SPEEDS[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root, params = tmp_path_factory.mktemp("synthetic"), invented_params()
    write_run(root, params)
    return collect(root, params)


@pytest.fixture(scope="module")
def plot(results):
    plot = SpeedPlot(results.each[0], recommend(results)[0])
    plot.marked = replace(plot.marked, wallclock_speedup=1.4, milliseconds=14.0)
    return plot


@pytest.fixture(scope="module")
def drawn(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    names = draw_figures(results, recommend(results), compare(results, resamples=200), folder)
    return folder, names


# ---- what is written -------------------------------------------------------------------------------------------------


def test_every_figure_is_of_one_kind_that_has_a_caption(drawn):
    for name in drawn[1]:
        rest = name.removeprefix("tiers-minilm-")
        assert len([kind for kind in ORDER if rest == kind or rest.startswith(f"{kind}-")]) == 1, name
    assert set(FIGURES) < set(ORDER)
    assert tuple(CAPTIONS) == ORDER
    assert "tiers-minilm-headline" in drawn[1]


def test_the_words_of_an_svg_can_be_searched_and_tell_the_time(plot, tmp_path):
    with canvas(9, 5) as (figure, (axes,)):
        draw_headline(plot, axes, WALLCLOCK)
        save(figure, tmp_path, "headline")
    words = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "headline.svg").read_text())
    full = 20.0 / 0.93  # milliseconds
    assert {"recommended, 1.40×, 14 ms:", "goal: loses 1 point", f"Full model, {full:.3g} ms"} <= {*words}  # noqa: RUF001
    assert any("milliseconds per text" in word for word in words)


# ---- the headline ----------------------------------------------------------------------------------------------------


def test_the_headline_shows_the_goal_the_recommended_model_and_no_more_than_four_points_below_the_goal(plot):
    with canvas(9, 5) as (_, (axes,)):
        draw_headline(plot, axes, WALLCLOCK)
        low, high = axes.get_ylim()
        slow, fast = axes.get_xlim()
        full, marked = plot.full_quality(WALLCLOCK), plot.marked
    level = full - plot.results.params.goal.max_loss / 100
    assert low < level < high
    assert low < full < high
    assert low < marked.quality < high
    assert slow < marked.wallclock_speedup < fast
    assert level - low < (ZOOM + 1) / 100


def test_every_better_point_that_nothing_beats_is_in_view_whatever_its_rule(plot):
    rows = plot.rows.copy()
    other = (rows.method == "sweet") & (rows.rule != plot.rules["sweet"]) & rows.wallclock_speedup.notna()
    best = rows[other].index[0]
    rows.loc[best, ["timed_quality", "wallclock_speedup"]] = [1.0, 1.1]
    changed = copy(plot)
    changed.rows = rows
    with canvas(9, 5) as (_, (axes,)):
        draw_headline(changed, axes, WALLCLOCK)
        assert axes.get_ylim()[1] > 1.0
        lines = [line for line in axes.lines if line.get_drawstyle() == "default"]  # all but the Pareto line
        drawn = {(round(x, 6), round(y, 6)) for line in lines for x, y in line.get_xydata()}
    assert (1.1, 1.0) in drawn


def test_the_ring_lies_below_every_point(plot):
    with canvas(9, 5) as (_, (axes,)):
        plot.draw(axes, WALLCLOCK)
        rings = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
        points = [line for line in axes.lines if line.get_marker() in "osDvPX<>ph^" and line not in rings]
        assert len(rings) == 1
        hollow = {"s"}  # the first K layers, behind all methods
        methods = [line for line in points if line.get_linestyle() != ":" or line.get_marker() not in hollow]
        assert max(ring.get_zorder() for ring in rings) < min(line.get_zorder() for line in methods)


def test_the_pareto_line_holds_what_nothing_beats():
    rows = pd.DataFrame({"x": [1.0, 1.5, 1.5, 2.0, 2.5, 3.0], "y": [0.9, 0.8, 0.85, 0.86, 0.7, 0.7]})
    front = pareto(rows)
    assert list(zip(front.x, front.y, strict=True)) == [(1.0, 0.9), (2.0, 0.86), (3.0, 0.7)]


# ---- names beside lines ----------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=25), st.floats(0.001, 0.04))
def test_names_keep_their_order_and_a_gap_and_stay_within_the_panel(wanted, gap):
    places = spread(wanted, gap)
    ranked = [place for _, place in sorted(zip(wanted, places, strict=True))]
    assert ranked == sorted(ranked)
    assert all(above - below >= gap - 1e-9 for below, above in pairwise(ranked))
    assert min(places) >= -1e-9
    assert max(places) <= 1 + 1e-9


def test_names_that_want_one_place_are_centred_on_it():
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])


@pytest.mark.parametrize("count", [3, 12, 22])
def test_no_name_lies_upon_another(count):
    with canvas(7, height_for(count, 3)) as (figure, (axes,)):
        axes.plot([0, 1], [0, 1])
        label_beside(axes, [Label(f"Method {i}", "black", "o", (1.0, 0.5)) for i in range(count)])
        figure.draw_without_rendering()
        boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == count
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


def test_what_leads_to_a_name_does_not_pass_for_data():
    with canvas(7, 3) as (_, (axes,)):
        data = axes.plot([0, 1], [0, 1])
        label_beside(axes, [Label("Early exit", "black", "o", (0.5, 0.5))])
        leaders = [line for line in axes.lines if line not in data and len(line.get_xdata()) == 2]
        assert [line.is_dashed() for line in leaders] == [True]


# ---- rules that are one ----------------------------------------------------------------------------------------------


def curve(costs, quality=lambda cost: 0.5 + cost / 4):
    return {
        "layers_speedup": [1 / cost for cost in costs],
        "flops_speedup": [1.05 / cost for cost in costs],
        "quality": [quality(cost) for cost in costs],
    }


def test_rules_that_let_the_same_rows_leave_are_one_whatever_their_thresholds():
    fine, coarse = [i / 40 for i in range(10, 41)], [i / 20 for i in range(5, 21)]
    assert coincide(curve(fine), curve(coarse))
    assert not coincide(curve(fine), curve(coarse, lambda cost: 0.5 + cost / 5))


def test_rules_that_meet_in_a_few_points_are_not_one():
    assert not coincide(curve([0.25, 0.5, 1.0]), curve([0.25, 0.4, 1.0]))


# ---- what is not drawn -----------------------------------------------------------------------------------------------


def test_a_band_is_drawn_from_three_seeds_on_where_four_at_most_overlap():
    assert band_legible(3, 4)
    assert not band_legible(2, 1)
    assert not band_legible(5, 5)


def cells(*pairs):
    return pd.DataFrame(pairs, columns=["rule", "method"])


def test_a_matrix_that_is_half_empty_or_has_one_rule_is_not_drawn():
    assert compared_cells(cells(*((rule, rule) for rule in "abcd"))).empty
    assert compared_cells(cells(*(("a", method) for method in "wxyz"))).empty
    full = cells(*((rule, method) for rule in "ab" for method in "xy"), ("c", "x"))
    assert set(compared_cells(full).rule) == {"a", "b"}


def test_methods_that_leave_at_one_exit_alone_have_no_panel(results, tmp_path):
    one = results.each[0]
    points = one.points.assign(exit_counts=[{"6": 10}] * len(one.points))
    assert draw_exits(replace(one, points=points), tmp_path, "exits") == []
    assert draw_exits(one, tmp_path, "exits") == ["exits"]


def test_no_two_methods_look_alike():
    looks = [(colour(method), marker(method)) for method in METHODS]
    assert len({*looks}) == len(METHODS)


def test_the_wide_view_names_every_method_at_the_end_of_its_line(plot):
    for speed in plot.speeds:
        labels = plot.labels(speed)
        assert {label.text.partition(",")[0] for label in labels} >= {METHODS[m][0] for m in plot.methods}
        assert not any(math.isnan(value) for label in labels for value in label.place or ())
