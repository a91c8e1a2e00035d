"""Areas below the curves and the ELUE score, from synthetic records."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from synthetic_records import change_record, choose_methods, invented_params, write_cell, write_run

from adaptive_inference.files import write_json
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.statistics.areas import areas
from adaptive_pipeline.reporting.tables.csv import csv_text
from adaptive_pipeline.reporting.tables.markdown import areas_markdown
from adaptive_pipeline.runs.records import Record

FOLDER = Path("tiers/minilm")


@pytest.fixture(scope="module")
def params():
    return invented_params(seeds=[0, 1, 2])


@pytest.fixture(scope="module")
def results(tmp_path_factory, params):
    root = tmp_path_factory.mktemp("areas") / "runs"
    write_run(root, params)
    return collect(root, params)


def some_methods(*names, seeds=(0, 1, 2)):
    """Return params with these methods and the full model only."""
    body = invented_params().model_dump(mode="json")
    return invented_params(seeds=list(seeds), **choose_methods(body, ["full", *names]))


def test_areas_are_over_one_range_and_the_baseline_scores_zero(results):
    rows = {(row["method"], row["rule"]): row for row in areas(results).to_dict("records")}
    assert next(iter(rows)) == ("static", "fixed")
    assert len(rows) == 1 + 3 + 3 + 1 + 1
    static = rows["static", "fixed"]
    assert {(row["layers_low"], row["layers_high"]) for row in rows.values()} == {
        (static["layers_low"], static["layers_high"])
    }
    for row in rows.values():
        assert row["elue_baseline"] == "static"
        assert 0.8 < row["area_layers_mean"] < 0.95
        assert row["seeds"] == 3
    assert static["elue_mean"] == 0.0
    assert static["elue_points"] == 3 * 14  # shares 0.35 to 1 of a third and more
    assert "first-K-layers models" in areas_markdown(areas(results))


def test_worked_area_of_the_static_family(tmp_path):
    """Layers 2, 4, 6 of 6 at 0.84, 0.88, 0.90: (0.86 + 0.89) / 2 over costs 1/3 to 1."""
    params = some_methods("multi_model", seeds=[0])
    write_run(tmp_path, params)
    for file in tmp_path.rglob("curves.json"):
        write_json(file, {})
    (row,) = areas(collect(tmp_path, params)).to_dict("records")
    assert row["area_layers_mean"] == pytest.approx(0.875)
    assert math.isnan(row["area_layers_std"])
    assert (row["layers_low"], row["layers_high"]) == pytest.approx((1 / 3, 1))


def test_without_static_models_the_baseline_is_early_exits_own_exits(tmp_path):
    params = some_methods("early_exit", "sweet")
    write_run(tmp_path, params)
    rows = areas(collect(tmp_path, params))
    assert rows[["elue_baseline", "elue_mean", "elue_points"]].isna().all(axis=None)
    assert len(rows)
    assert "none: the run has neither" in areas_markdown(rows)
    for seed in (0, 1, 2):
        folder = tmp_path / FOLDER / f"seed{seed}/early_exit/evaluation"
        exits = Record.load(folder).exits
        change_record(folder, exits=[e.model_copy(update={"flops_speedup": 5 / e.layer}) for e in exits])
    rows = areas(collect(tmp_path, params))
    assert set(rows.elue_baseline) == {"early_exit exits"}
    assert rows.elue_mean.notna().all()
    assert set(rows.elue_excluded) == {3}  # 0.35, on three seeds, is below 2 layers of 5
    assert "exits of early exit" in areas_markdown(rows)


def test_a_seed_without_baseline_leaves_the_score_empty_and_the_area_there(tmp_path, params):
    write_run(tmp_path, params)
    (tmp_path / FOLDER / "seed1/multi_model/evaluation/metrics.json").unlink()
    found = areas(collect(tmp_path, params)).to_dict("records")
    rows = {(row["method"], row["rule"]): row for row in found}
    assert math.isnan(rows["sweet", "margin"]["elue_mean"])
    assert not math.isnan(rows["sweet", "margin"]["area_layers_mean"])
    assert rows["static", "fixed"]["elue_mean"] == 0.0
    assert rows["static", "fixed"]["seeds"] == 2


def test_no_run_no_areas(tmp_path, params):
    results = collect(tmp_path, params)
    assert areas(results).empty
    assert len(csv_text(areas(results)).splitlines()) == 1
    assert "No curve" in areas_markdown(areas(results))
    write_cell(tmp_path, params, Cell("tiers", "minilm", 0, "full"))
    assert areas(collect(tmp_path, params)).empty
