"""What figures show of a method, and where its wall-clock comes from, from synthetic records."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from synthetic_records import invented_params, write_run

from adaptive_inference.calibration.operating_point import Goal
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.figures.shown import shown_rule, typical_points
from adaptive_pipeline.reporting.figures.speed import SpeedPlot, quality_at
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.measures import SPEEDS
from adaptive_pipeline.reporting.report import draw_figures
from adaptive_pipeline.reporting.statistics.comparisons import compare

LAYERS, _, WALLCLOCK = SPEEDS


@pytest.fixture(scope="module")
def params():
    return invented_params()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, params) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "runs"
    write_run(root, params)
    return root


@pytest.fixture(scope="module")
def results(runs, params):
    return collect(runs, params)


def test_wallclock_comes_from_timed_seeds_only_and_names_the_machine(results):
    row = next(row for row in results.main.itertuples() if row.method == "static_2")
    assert row.timed_seeds == 1
    assert row.wallclock_speedup == pytest.approx(2.79)
    (timed,) = [point for point in results.of_row(row).itertuples() if point.timed]
    assert (row.timed_quality, row.timed_layers_speedup) == (timed.quality, timed.layers_speedup)
    assert row.timed_quality != row.quality_mean  # what is drawn against wall-clock is the timed seed's own
    assert quality_at(row, WALLCLOCK) == timed.quality
    assert quality_at(row, LAYERS) == row.quality_mean
    assert row.machine == "Test CPU, 2 cores, 1 thread, torch 2.13.0"


def test_figures_are_drawn_where_the_full_model_lacks_the_timed_seed(tmp_path, params):
    """In a slice of a long run the others may be timed before it is."""
    write_run(tmp_path / "runs", params)
    shutil.rmtree(tmp_path / "runs/tiers/minilm/seed0/full/evaluation")
    results = collect(tmp_path / "runs", params)
    rows = results.main
    full = rows[rows.method == "full"]
    assert full.quality_mean.notna().all()
    assert full.timed_quality.isna().all()
    assert rows.timed_quality.notna().any()
    assert draw_figures(results, recommend(results), compare(results), tmp_path / "figures")


def test_figures_show_the_rule_that_reached_the_most_speedups_and_of_equals_the_first_named(tmp_path, params):
    fast, slow = Goal("min_speedup", 2.0), Goal("max_loss", 1.0)
    assert shown_rule("abc", {("a", fast): 0, ("b", fast): 2, ("c", fast): 2, ("d", fast): 9}) == "b"
    assert (
        shown_rule("ab", {("a", fast): 2, ("b", fast): 2, ("b", slow): 2}) == "a"
    )  # a loss may be met slowly
    assert shown_rule("ab", {("a", slow): 1, ("b", fast): 0, ("b", slow): 2}) == "b"
    assert shown_rule("a", {("d", fast): 9}) is None
    first, second = params.method("sweet").rules[:2]

    def miss(cell, rows, timings):
        gone = {"sweet": "min_speedup_2", "early_exit": "max_loss_1"}.get(cell.method)
        if gone and cell.seed == 0:
            rows.remove(next(row for row in rows if (row["rule"], row["operating_point"]) == (first, gone)))
            timings.clear()

    write_run(tmp_path, params, edit=miss)
    results = collect(tmp_path, params)
    plot = SpeedPlot(results.each[0], recommend(results)[0])
    shown = typical_points(results.each[0])
    for method, rule in (("sweet", second), ("early_exit", first)):
        assert plot.rule(method) == rule
        points = {(point.rule, point.operating_point) for point in shown[method].itertuples()}
        assert points == {(rule, "min_speedup_1.5")}
