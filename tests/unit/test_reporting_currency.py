"""What counts as fast follows `goal.cost`, in the choice as in the words: pruned heads save FLOPs and no layer."""

from __future__ import annotations

import pytest
from synthetic_records import invented_params, write_run

from adaptive_inference.calibration.operating_point import Goal
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.measures import SPEEDS
from adaptive_pipeline.reporting.report import draw_figures
from adaptive_pipeline.reporting.statistics.comparisons import at_goal, compare, unanswered
from adaptive_pipeline.reporting.tables.csv import comparisons_csv, main_csv
from adaptive_pipeline.reporting.tables.main import main_markdown
from adaptive_pipeline.reporting.tables.markdown import comparisons_markdown
from adaptive_pipeline.reporting.text.recommendation import as_json, as_markdown


def pruned(cell, rows, timings):
    """Leave SWEET's points within the goal, and let them save FLOPs alone; nothing is timed."""
    for row in rows:
        if row["method"] == "sweet":
            row |= {"layers_speedup": 1.0, "calibration_layers_speedup": 1.0, "calibration_quality": 0.9}
            row |= {"flops_speedup": 1.6, "calibration_flops_speedup": 1.6}
        elif row["method"] != "full":
            row["calibration_quality"] = 0.5
    timings.clear()


@pytest.fixture(scope="module", params=["layers", "flops"])
def results(request, tmp_path_factory):
    goal = {"max_loss": 1.0, "min_speedup": [1.5, 2.0], "cost": request.param}
    root = tmp_path_factory.mktemp(request.param)
    params = invented_params(goal=goal)
    write_run(root, params, edit=pruned, answers=True)
    return collect(root, params)


def test_what_other_goals_would_buy_is_told_in_the_goals_currency(results):
    choices = recommend(results)
    text, body = (
        as_markdown(choices, results, "results", set()),
        as_json(choices, results, "results", set()),
    )
    assert body["goal_cost"] == results.cost
    fewer = "2.25x fewer layers" if results.cost == "layers" else "2.21x fewer FLOPs"
    assert f"at most 2 points lost, {fewer} (Multi-Model)" in text
    assert f"Fast means few {'layers' if results.cost == 'layers' else 'FLOPs'}." in text


def test_a_model_without_exits_enters_a_comparison_where_it_is_fast_enough_in_the_goals_currency(results):
    rows = results.main
    static = rows[rows.method == "static_4"].iloc[0]  # 1.5 times fewer layers, 1.47 times fewer FLOPs
    goal = Goal("min_speedup", 1.5, results.cost)
    entries = {row.method for row in at_goal(rows.itertuples(), goal)}
    assert static.calibration_flops_speedup < 1.5 <= static.calibration_layers_speedup
    only = {row.method for row in at_goal(rows[rows.method == "static_4"].itertuples(), goal)}
    assert only == ({"static_4"} if results.cost == "layers" else set())
    assert {"early_exit", "sweet"} <= entries


def test_tables_name_the_currency_and_gain_columns_only_where_it_is_not_layers(results):
    flops, comparisons = results.cost == "flops", compare(results, resamples=200)
    header = comparisons_csv(comparisons, results.cost).splitlines()[0]
    assert header.endswith(
        "operating_point,not_tested" + (",flops_speedup,reference_flops_speedup" if flops else "")
    )
    assert main_csv(results).splitlines()[0].endswith(",full_milliseconds" + (",goal_cost" if flops else ""))
    words = "FLOPs" if flops else "layers"
    text = comparisons_markdown(comparisons, unanswered(results, comparisons), results.cost)
    assert f"**≥ 2× fewer {words}, against" in text  # noqa: RUF001 - a sign that readers see
    assert f"the goal's {words} speed-up" in text
    assert ("Goals count FLOPs" in main_markdown(results, recommend(results), comparisons)) == flops


def test_the_rules_of_a_method_are_drawn_against_the_goals_currency(results, tmp_path):
    draw_figures(results, recommend(results), compare(results, resamples=200), tmp_path)
    axis = next(speed.axis for speed in SPEEDS if speed.stem == results.cost)
    assert axis in (tmp_path / "tiers-minilm-rules.svg").read_text()
