"""Tables, figures and the stage that makes them, from synthetic records."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest
from synthetic_choices import Chosen
from synthetic_records import change_record, invented_params, write_cell, write_run

from adaptive_inference.files import read_json, write_json
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.reporting import frame as frame_module
from adaptive_pipeline.reporting.breakdowns import first_exit_difference
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.names import method_key, natural_key
from adaptive_pipeline.reporting.statistics.comparisons import compare
from adaptive_pipeline.reporting.statistics.curve_area import band
from adaptive_pipeline.reporting.tables.csv import cell_text, csv_tables
from adaptive_pipeline.reporting.tables.latex import latex, main_latex
from adaptive_pipeline.reporting.tables.main import main_markdown
from adaptive_pipeline.reporting.text.recommendation import as_json, as_markdown
from adaptive_pipeline.runs.records import Member
from adaptive_pipeline.runs.store import Runs, open_runs

HEADER = (
    "task,backbone,method,rule,operating_point,threshold,seeds,metric,quality_mean,quality_std,layers_speedup,"
    "flops_speedup,wallclock_speedup"
)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def main_rows(root: Path, params) -> list[dict[str, str]]:
    results = collect(root, params)
    return read(csv_tables(results)["main.csv"])


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


# ---- the main table --------------------------------------------------------------------------------------------------


def test_header_starts_with_the_promised_columns(results):
    text = csv_tables(results)["main.csv"]
    assert text.splitlines()[0].startswith(
        HEADER + ",quality_low,quality_high,wallclock_low,wallclock_high,exit_share,"
    )


def test_seeds_is_an_integer_in_every_row_and_rows_are_unique(results):
    rows = read(csv_tables(results)["main.csv"])
    assert len(rows) == 1 + 3 + 3 * (3 + 3 + 1 + 1)
    assert {int(row["seeds"]) for row in rows} == {2}
    keys = [(row["method"], row["rule"], row["operating_point"]) for row in rows]
    assert len(set(keys)) == len(keys)


def test_rows_stand_full_then_static_then_methods(results):
    methods = list(dict.fromkeys(row.method for row in results.main.itertuples()))
    assert methods[:4] == ["full", "static_2", "static_4", "static_6"]
    assert methods[4:] == ["early_exit", "sweet", "multi_model", "learning_to_exit"]
    assert sorted(["static_12", "zzz", "static_2", "full", "sweet"], key=method_key) == [
        "full",
        "static_2",
        "static_12",
        "sweet",
        "zzz",
    ]


def test_means_and_spread_are_over_seeds(results):
    row = next(row for row in results.main.itertuples() if row.method == "static_4")
    assert row.quality_mean == pytest.approx(0.882)
    assert row.quality_std == pytest.approx(0.004 / 2**0.5)
    assert row.quality_difference == pytest.approx(-0.02)
    assert (row.quality_low, row.quality_high) == pytest.approx((0.86, 0.904))
    row = next(row for row in results.main.itertuples() if row.operating_point == "max_loss_1")
    assert row.threshold == pytest.approx(results.of_row(row).threshold.mean())


def test_what_was_not_measured_is_empty_and_never_zero(tmp_path):
    params = invented_params(evaluation={"timed_seeds": []}, seeds=[0])
    write_run(
        tmp_path, params, edit=lambda cell, rows, timings: [row.update(flops_speedup=None) for row in rows]
    )
    rows = main_rows(tmp_path, params)
    for row in rows:
        for column in (
            "wallclock_speedup",
            "wallclock_low",
            "wallclock_high",
            "machine",
            "flops_speedup",
            "timed_seeds",
        ):
            assert row[column] == ""
        assert row["quality_std"] == ""  # one seed has no spread
        assert row["layers_speedup_std"] == ""
    assert cell_text(None) == ""
    assert cell_text(0.0) == "0"


def test_a_goal_that_no_threshold_reaches_is_counted_and_not_averaged(tmp_path, params):
    def fail(cell, rows, timings):
        for row in rows:
            if (cell.seed, cell.method, row["operating_point"]) == (1, "sweet", "min_speedup_2"):
                for name in (
                    "threshold",
                    "quality",
                    "layers_speedup",
                    "flops_speedup",
                    "quality_low",
                    "quality_high",
                ):
                    row[name] = None
                row |= {"exit_counts": None, "tiers": None, "qualifies": False, "calibration_quality": None}

    write_run(tmp_path, params, edit=fail)
    rows = main_rows(tmp_path, params)
    hit = [row for row in rows if row["qualifying_seeds"] == "1/2"]
    assert {(row["method"], row["operating_point"], row["seeds"]) for row in hit} == {
        ("sweet", "min_speedup_2", "1")
    }
    assert all(row["quality_mean"] and not row["quality_std"] for row in hit)
    results = collect(tmp_path, params)
    text = main_markdown(results, recommend(results), compare(results))
    assert "| SWEET | confidence | 1 of 2 |" in text


def test_a_goal_that_no_seed_reaches_is_a_row_without_figures(tmp_path):
    params = invented_params(seeds=[0])

    def fail(cell, rows, timings):
        for row in rows:
            if row["operating_point"] == "min_speedup_2":
                measured = [
                    name for name in row if name.startswith(("quality", "layers", "flops", "calibration"))
                ]
                row |= dict.fromkeys([*measured, "threshold", "exit_counts", "tiers"]) | {"qualifies": False}
        timings[:] = [row for row in timings if row["operating_point"] != "min_speedup_2"]

    write_run(tmp_path, params, edit=fail)
    rows = [row for row in main_rows(tmp_path, params) if row["operating_point"] == "min_speedup_2"]
    assert rows
    for row in rows:
        assert row["seeds"] == "0"
        assert row["qualifying_seeds"] == "0/1"
        assert not row["quality_mean"]
        assert not row["layers_speedup"]
        assert not row["exit_share"]


def test_order_of_the_files_changes_nothing(runs, params, results, monkeypatch):
    expected = csv_tables(results)
    found = open_runs(runs)
    backwards = Runs(runs, dict(reversed(found.finished.items())))
    monkeypatch.setattr(frame_module, "open_runs", lambda root: backwards)
    reverse = collect(runs, params)
    assert csv_tables(reverse) == expected
    assert as_json(recommend(reverse), reverse, "", set()) == as_json(recommend(results), results, "", set())


# ---- which records count ---------------------------------------------------------------------------------------------


def test_missing_cells_are_named_and_the_rest_is_reported(tmp_path, runs, params):
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    shutil.rmtree(root / "tiers/minilm/seed1/sweet/evaluation")
    results = collect(root, params)
    assert [(m.cell.method, m.cell.seed) for m in results.missing] == [("sweet", 1)]
    assert "not evaluated yet (done: train, calibrate_thresholds)" in csv_tables(results)["missing.csv"]
    assert "tiers-minilm-sweet-1" in main_markdown(results, recommend(results), compare(results))
    assert {row.seeds for row in results.main.itertuples() if row.method == "sweet"} == {1}
    assert "1 cell is missing" in as_markdown(recommend(results), results, "results", set())


def test_an_empty_folder_gives_tables_of_missing_cells(tmp_path, params):
    results = collect(tmp_path, params)
    assert len(results.missing) == 2 * 5
    assert csv_tables(results)["main.csv"].count("\n") == 1
    assert "Nothing is evaluated yet" in as_markdown(recommend(results), results, "results", set())


def test_records_of_other_params_do_not_count(runs, params):
    longer = params.training.model_copy(update={"epochs": 9}).model_dump()
    results = collect(runs, invented_params(training=longer))
    assert results.points.empty
    assert {m.why for m in results.missing} == {
        "finetune_backbone was run with other params (training.epochs); run it again"
    }
    methods = params.model_dump(mode="json")["methods"]
    methods["sweet"]["train"]["clip"] = "per_block"
    results = collect(runs, invented_params(methods=methods))
    assert {(m.cell.method, m.cell.seed) for m in results.missing} == {("sweet", 0), ("sweet", 1)}


def test_leftovers_outside_the_grid_and_unfinished_stages_are_ignored(tmp_path, runs, params):
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    write_cell(root, params, Cell("tiers", "minilm", 7, "sweet"))
    source = root / "tiers/minilm/seed0/sweet/evaluation"
    shutil.copytree(source, source.parent / ".evaluation.partial")
    broken = read_json(source / "metrics.json")
    broken["rows"] = []
    write_json(source.parent / ".evaluation.partial" / "metrics.json", broken)
    assert main_rows(root, params) == main_rows(runs, params)


# ---- the other tables ------------------------------------------------------------------------------------------------


def test_other_tables_hold_exits_tiers_data_and_calibration(results):
    tables = {name: read(text) for name, text in csv_tables(results).items()}
    sweet = [row for row in tables["exits.csv"] if row["method"] == "sweet"]
    assert [(row["exit_layer"], row["quality_mean"]) for row in sweet] == [
        ("2", "0.832"),
        ("4", "0.877"),
        ("6", "0.892"),
    ]
    assert {row["tier"] for row in tables["tiers.csv"]} == {"1", "2", "3", "4", "5"}
    assert len(tables["data.csv"]) == 2 * 4
    assert [row["split"] for row in tables["data.csv"][:4]] == [
        "train",
        "development",
        "calibration",
        "evaluation",
    ]
    first = tables["calibration.csv"][1]
    assert (first["method"], first["ece_before_mean"], first["ece_after_mean"]) == (
        "early_exit",
        "0.09",
        "0.01",
    )
    assert (first["failure_auroc_mean"], list(first)[-1]) == ("0.7", "failure_auroc_std")


def test_calibration_table_leaves_failure_prediction_empty_for_older_records(runs, params, tmp_path):
    root = Path(shutil.copytree(runs, tmp_path / "runs"))
    for file in root.glob("*/*/*/*/calibration/metrics.json"):
        older = read_json(file)
        for curve in (*older["reliability"]["before"], *older["reliability"]["after"]):
            del curve["failure_auroc"]
        write_json(file, older)
    rows = read(csv_tables(collect(root, params))["calibration.csv"])
    assert rows[0]["ece_after_mean"] == "0.01"
    assert all(row["failure_auroc_mean"] == row["failure_auroc_std"] == "" for row in rows)


def test_first_exits_are_compared_pair_by_pair(results):
    (row,) = first_exit_difference(results, "sweet", "early_exit").itertuples()
    assert (row.exit_layer, row.seeds, row.won) == (2, 2, 2)
    assert row.difference_mean == pytest.approx(0.03)


def test_markdown_bolds_just_the_recommended_row_and_latex_is_escaped(results):
    choices = recommend(results)
    bold = [line for line in main_markdown(results, choices, compare(results)).splitlines() if "| **" in line]
    assert len(bold) == 1
    assert "**SWEET**" in bold[0]
    text = main_latex(results, choices)
    assert r"\textbf" not in text  # the promised threshold is in no row
    assert text.count("\\toprule") == text.count("\\bottomrule") == 1
    assert latex("a_b & 50%") == r"a\_b \& 50\%"


def test_latex_bolds_the_row_that_holds_the_promised_threshold(tmp_path, params, results):
    own = results.points[(results.points.method == "sweet") & (results.points.seed == 0)].iloc[0]
    write_run(tmp_path, params, chosen=Chosen(rule=own.rule, threshold=own.threshold))
    results = collect(tmp_path, params)
    assert main_latex(results, recommend(results)).count(r"\textbf{SWEET}") == 1


def test_names_read_numbers_as_numbers():
    points = ["min_speedup_10", "max_loss_1", "min_speedup_2", "min_speedup_1.5"]
    assert sorted(points, key=natural_key) == [
        "max_loss_1",
        "min_speedup_1.5",
        "min_speedup_2",
        "min_speedup_10",
    ]


# ---- curves ----------------------------------------------------------------------------------------------------------


def test_bands_cover_what_all_seeds_reach_and_interpolate_in_cost():
    found = band([[1.0, 2.0, 4.0], [1.0, 2.0]], [[1.0, 0.8, 0.4], [0.8, 0.6]], points=3)
    assert found.seeds == 2
    assert found.speedup.tolist() == pytest.approx([1.0, 4 / 3, 2.0])  # costs 1, 0.75, 0.5
    assert found.mean.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert found.std.tolist() == pytest.approx([0.02**0.5] * 3)
    assert band([[2.0, 1.0]], [[0.5, 1.0]], points=2).std is None
    assert band([], []) is None
    assert band([[1.0], [2.0]], [[1.0], [1.0]]) is None


def test_a_member_copied_from_the_full_model_counts_with_its_training_time(tmp_path, params):
    write_run(tmp_path, params)
    folder = tmp_path / "tiers/minilm/seed0"
    write_json(folder / "full/train_timings.json", {"seconds": 40.0})
    write_json(
        folder / "multi_model/train_timings.json", {"seconds": 30.0, "members": {"2": 10.0, "4": 20.0}}
    )
    change_record(folder / "multi_model/train", members=[Member(layer=6, steps=None)])
    points = collect(tmp_path, params).points
    seconds = points[points.seed == 0].set_index("method").training_seconds.groupby("method").first()
    assert [seconds[name] for name in ("multi_model", "static_2", "static_6", "full")] == [
        70.0,
        10.0,
        40.0,
        40.0,
    ]
