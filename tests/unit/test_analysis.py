"""Cost, conflict, overthinking and learned weights: tables and figures from synthetic records."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from synthetic_records import (
    CLASSIFIERS,
    ENVIRONMENT,
    EXITS,
    METHODS,
    change_record,
    choose_methods,
    invented_params,
    write_run,
)

from adaptive_inference.calibration.operating_point import Goal
from adaptive_inference.errors import UserError
from adaptive_inference.files import read_json, read_jsonl, write_json
from adaptive_pipeline.params import load_params
from adaptive_pipeline.reporting.breakdowns import cost
from adaptive_pipeline.reporting.figures.analysis import patience_lines
from adaptive_pipeline.reporting.figures.shown import nearest_goal
from adaptive_pipeline.reporting.figures.style import COLOURS, colour, rule_colours
from adaptive_pipeline.reporting.figures.weights import moments, weight_terms
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.names import METHODS as NAMES
from adaptive_pipeline.reporting.names import RULES, method_name
from adaptive_pipeline.reporting.report import FIGURES
from adaptive_pipeline.reporting.tables.csv import csv_tables
from adaptive_pipeline.reporting.tables.markdown import cost_markdown
from adaptive_pipeline.runs.keep import keep_records
from adaptive_pipeline.runs.records import LossWeights

FOLDER = Path("tiers/minilm")
#: Weights of three exits that teach each other: the label's, then the teachers'. SEED adds to the last moment.
TRUTH = [1.1, 1.0, 0.9]
TEACHERS = [[0.0, 0.8, 1.3], [0.7, 0.0, 1.2], [0.5, 1.6, 0.0]]


@pytest.fixture(scope="module")
def params():
    body = load_params(CLASSIFIERS).model_dump(mode="json")
    return invented_params(**choose_methods(body, [*METHODS, "pabee", "leebert"]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, params) -> Path:
    """Records with all that the analysis reads."""
    root = tmp_path_factory.mktemp("analysis") / "runs"
    write_run(root, params)
    for seed in params.seeds:
        for method in params.methods:
            explain(root / FOLDER / f"seed{seed}" / method, method, seed)
    return root


def explain(folder: Path, method: str, seed: int) -> None:
    """Add to the records of a cell what the stages write beside the figures of the main table."""
    file = folder / "train" / "metrics.json"
    body = read_json(file)
    body["steps"] = 100
    if method == "multi_model":
        steps = {2: 20, 4: 40, 6: None}
        body |= {"steps": None, "members": [{"layer": k, "steps": n} for k, n in steps.items()]}
    elif method != "full":
        body["gradient_conflict"] = [
            {"layer": 1, "mean_cosine": 0.2 + 0.1 * seed, "pairs": {"2-4": 0.1, "2-6": 0.2, "4-6": 0.3}},
            {"layer": 3, "mean_cosine": -0.4, "pairs": {"4-6": -0.4}},
        ]
    write_json(file, body)
    if method != "full":
        file = folder / "evaluation" / "metrics.json"
        body = read_json(file)
        lost, gained = 0.02 + 0.01 * seed, 0.05
        body["overthinking"] = {
            "right_then_wrong": 2 * lost,
            "last_only": gained,
            "exits": [
                {"layer": k, "right_then_wrong": lost, "wrong_then_right": 0.3 / k} for k in EXITS[:-1]
            ],
        }
        write_json(file, body)
    if method in ("pabee", "leebert"):
        file = folder / "evaluation" / "curves.json"
        line = {"thresholds": [1.0, 2.0], "quality": [0.85 + 0.02 * seed, 0.9], "layers_speedup": [1.5, 1.0]}
        write_json(file, read_json(file) | {"patience": line | {"flops_speedup": [1.4, 1.0]}})
    if method == "leebert":
        rows = [{"step": step, "truth": [1.0] * 3, "teachers": ones()} for step in range(10, 100, 10)]
        rows.append({"step": 100, "truth": [TRUTH[0] + seed, *TRUTH[1:]], "teachers": TEACHERS})
        (folder / "train" / "weights.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        away = [abs(weight - 1.0) for weight in (TRUTH[0] + seed, *TRUTH[1:], 0.8, 1.3, 0.7, 1.2, 0.5, 1.6)]
        learned = {"steps": 100, "terms": 9, "min": 0.5, "max": max(1.6, TRUTH[0] + seed)}
        learned |= {"max_deviation": max(away), "mean_deviation": sum(away) / 9}
        change_record(folder / "train", loss_weights=LossWeights(**learned))


def ones() -> list[list[float]]:
    return [[float(student != teacher) for teacher in range(3)] for student in range(3)]


@pytest.fixture(scope="module")
def results(runs, params):
    return collect(runs, params)


def analysis_tables(results) -> dict[str, str]:
    """Return the tables that are there only where they have something to say."""
    always = {"main.csv", "exits.csv", "tiers.csv", "data.csv", "calibration.csv", "missing.csv"}
    return {name: text for name, text in csv_tables(results).items() if name not in always}


def table(texts: dict[str, str], name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(texts[name])))


# ---- cost ------------------------------------------------------------------------------------------------------------


def test_cost_is_relative_to_the_full_model_of_the_same_seed(results):
    rows = {row["method"]: row for row in table(analysis_tables(results), "cost.csv")}
    assert list(rows) == [
        "full",
        "early_exit",
        "sweet",
        "multi_model",
        "learning_to_exit",
        "pabee",
        "leebert",
    ]
    sweet, cascade = rows["sweet"], rows["multi_model"]
    assert (sweet["seeds"], sweet["added_parameters"], sweet["training_steps"]) == ("2", "1000", "100")
    assert (sweet["training_seconds_mean"], sweet["training_ratio_mean"]) == ("100.5", "1")
    assert sweet["machine"] == "Test CPU, 2 cores, 1 thread, torch 2.13.0"
    assert (sweet["with_full"], cascade["with_full"]) == ("no", "yes")
    # its own members (20 and 40 steps) and the full model, whose copy the last member is
    assert (cascade["training_steps"], cascade["training_ratio_mean"]) == ("160", "2")


def test_trainings_on_two_machines_are_not_compared(tmp_path, params):
    write_run(tmp_path, params)
    elsewhere = {"environment": ENVIRONMENT | {"cpu": "Other CPU"}, "seconds": 10.0}
    write_json(tmp_path / FOLDER / "seed0/sweet/train_timings.json", elsewhere)
    write_json(tmp_path / FOLDER / "seed0/early_exit/train_timings.json", {"seconds": 10.0})
    rows = {row["method"]: row for row in table(analysis_tables(collect(tmp_path, params)), "cost.csv")}
    for method in ("sweet", "early_exit"):
        assert rows[method]["training_ratio_mean"] == ""
        assert rows[method]["training_seconds_mean"] == "55.5"
    assert rows["pabee"]["training_ratio_mean"] == "1"


def test_a_method_that_starts_from_the_full_model_took_its_training_too(tmp_path, params):
    write_run(tmp_path, params)
    for seed in params.seeds:
        for method in ("full", "pabee"):
            folder = tmp_path / FOLDER / f"seed{seed}" / method / "train"
            change_record(folder, steps=30, builds_on_full=method == "pabee")
    results = collect(tmp_path, params)
    texts = analysis_tables(results)
    row = next(row for row in table(texts, "cost.csv") if row["method"] == "pabee")
    assert (row["training_steps"], row["training_ratio_mean"], row["with_full"]) == ("60", "2", "yes")
    assert "| PABEE * | 2 | +1,000 | 60 | 201 | 2.00 ± 0.00 |" in cost_markdown(cost(results))
    assert {row.training_seconds for row in results.main.itertuples() if row.method == "pabee"} == {100.5}


def test_exits_on_a_model_that_another_method_trained_took_its_training_too(tmp_path, params):
    write_run(tmp_path, params)
    for seed in params.seeds:
        folder = tmp_path / FOLDER / f"seed{seed}"
        change_record(folder / "full/train", steps=30)
        change_record(folder / "sweet/train", steps=20)
        change_record(folder / "pabee/train", steps=10, builds_on_full=True, built_on="sweet")
    rows = {row["method"]: row for row in table(analysis_tables(collect(tmp_path, params)), "cost.csv")}
    row = rows["pabee"]
    assert (row["training_steps"], row["training_seconds_mean"]) == ("60", "301.5")
    assert (row["training_ratio_mean"], row["with_full"]) == ("3", "yes")
    elsewhere = {"environment": ENVIRONMENT | {"cpu": "another"}, "seconds": 7.0}
    write_json(tmp_path / FOLDER / "seed0/sweet/train_timings.json", elsewhere)
    rows = {row["method"]: row for row in table(analysis_tables(collect(tmp_path, params)), "cost.csv")}
    assert rows["pabee"]["training_seconds_mean"] == ""  # seconds of two machines are no sum


def test_nothing_is_a_multiple_of_the_training_of_a_full_model_that_came_fine_tuned(tmp_path, params):
    write_run(tmp_path, params)
    for seed in params.seeds:
        folder = tmp_path / FOLDER / f"seed{seed}"
        change_record(folder / "full/train", steps=0)
        change_record(folder / "pabee/train", steps=30, builds_on_full=True)
        write_json(folder / "full/train_timings.json", {"environment": ENVIRONMENT, "seconds": 0.0})
    rows = {row["method"]: row for row in table(analysis_tables(collect(tmp_path, params)), "cost.csv")}
    assert (rows["full"]["training_steps"], rows["pabee"]["training_steps"]) == ("0", "30")
    assert rows["pabee"]["training_seconds_mean"] == rows["sweet"]["training_seconds_mean"] == "100.5"
    assert {row["training_ratio_mean"] for row in rows.values()} == {""}


def test_steps_and_time_are_missing_where_the_full_model_that_is_a_part_is(tmp_path, params):
    write_run(tmp_path, params)
    folder = tmp_path / FOLDER / "seed0"
    change_record(folder / "pabee/train", steps=30, builds_on_full=True)
    (folder / "full/evaluation/metrics.json").unlink()
    rows = {row["method"]: row for row in table(analysis_tables(collect(tmp_path, params)), "cost.csv")}
    for figure in ("training_steps", "training_seconds_mean", "training_ratio_mean"):
        assert rows["pabee"][figure] == ""
    assert rows["sweet"]["training_seconds_mean"] == "100.5"


# ---- conflict and overthinking ---------------------------------------------------------------------------------------


def test_conflict_and_overthinking_are_means_over_seeds(results):
    texts = analysis_tables(results)
    first, second, *_ = [row for row in table(texts, "conflict.csv") if row["method"] == "sweet"]
    assert (first["layer"], first["pairs"], first["cosine_mean"]) == ("1", "3", "0.25")
    assert float(first["cosine_std"]) == pytest.approx(0.1 / 2**0.5, abs=1e-5)
    assert (second["layer"], second["pairs"], second["cosine_mean"]) == ("3", "1", "-0.4")
    assert {row["method"] for row in table(texts, "conflict.csv")}.isdisjoint({"full", "multi_model"})
    inner, exit2, exit4 = [row for row in table(texts, "overthinking.csv") if row["method"] == "sweet"]
    assert (inner["exit_layer"], inner["right_then_wrong_mean"]) == ("inner", "0.05")
    assert (inner["wrong_then_right_mean"], inner["wrong_then_right_std"]) == ("0.05", "0")
    assert (exit2["exit_layer"], exit2["right_then_wrong_mean"], exit4["exit_layer"]) == ("2", "0.025", "4")


# ---- learned weights -------------------------------------------------------------------------------------------------


def test_spread_of_learned_weights_at_the_end_of_the_training(results):
    rows = table(analysis_tables(results), "weights.csv")
    assert [(row["method"], row["seed"], row["steps"], row["terms"]) for row in rows] == [
        ("leebert", "0", "100", "9"),
        ("leebert", "1", "100", "9"),
    ]
    assert (rows[0]["scheme"], rows[0]["parametrisation"]) == ("clo_v2", "softmax")
    assert (rows[0]["min"], rows[0]["max"], rows[0]["max_deviation"]) == ("0.5", "1.6", "0.6")
    assert float(rows[0]["mean_deviation"]) == pytest.approx(2.3 / 9, abs=1e-5)
    assert (rows[1]["max"], rows[1]["max_deviation"]) == ("2.1", "1.1")


def test_a_term_that_never_had_a_weight_is_none_and_one_that_falls_to_zero_is_a_term():
    start = {"truth": [1.0, 1.0], "teachers": [[0.0, 1.0], [0.0, 0.0]]}
    end = {"truth": [1.0, 0.0], "teachers": [[0.0, -0.5], [0.0, 0.0]]}
    none = math.nan
    expected = [[[1.0, none, 1.0], [1.0, none, none]], [[1.0, none, -0.5], [0.0, none, none]]]
    np.testing.assert_array_equal(weight_terms([start, end]), expected)


def test_moments_are_recorded_steps_near_the_quarters():
    assert moments([10, 20, 30, 40, 50, 60, 70, 80, 90, 100]) == [0, 1, 4, 6, 9]
    assert moments([7, 8]) == [0, 1]
    assert moments([5]) == [0]


def test_learned_weights_are_kept_with_the_records(tmp_path, runs, params):
    keep_records(runs, tmp_path, params)
    assert analysis_tables(collect(tmp_path, params)) == analysis_tables(collect(runs, params))


def test_a_damaged_trajectory_is_named(tmp_path):
    file = tmp_path / "weights.jsonl"
    file.write_text('{"step": 1}\n{"st')
    with pytest.raises(UserError, match=r"weights\.jsonl holds a line that is no JSON"):
        read_jsonl(file)


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_patience_lines_hold_layers_and_quality(results):
    lines = patience_lines(results.each[0])
    assert list(lines.method) == ["pabee", "pabee", "leebert", "leebert"]
    line = lines[lines.method == "pabee"]
    assert list(line.patience) == [1, 2]
    assert list(line.layers_mean) == pytest.approx([4.0, 6.0])
    assert list(line.quality_mean) == pytest.approx([0.86, 0.9])
    assert list(line.quality_std) == pytest.approx([0.02 / math.sqrt(2), 0.0])


def test_the_goal_nearest_to_twice_lower_cost():
    loss, *speeds = (
        Goal("max_loss", 1.0),
        *(Goal("min_speedup", value) for value in (1.5, 2.0, 2.5, 3.0, 10.0)),
    )
    by = {goal.value: goal for goal in speeds}
    assert nearest_goal([loss, by[1.5], by[3.0]]) == by[1.5]
    assert nearest_goal([by[2.5], by[1.5], by[10.0]]) == by[1.5]
    assert nearest_goal([by[2.0], by[2.5]]) == by[2.0]
    assert nearest_goal([loss, Goal("risk", 0.1)]) is None


#: Those that explain, besides what the main table's own figures show.
KINDS = ("rule_matrix", "patience", "conflict", "overthinking", "weights")


def draw_analysis(results, folder: Path) -> list[str]:
    folder.mkdir()
    return [name for kind in KINDS for name in FIGURES[kind](results.each[0], folder, f"tiers-minilm-{kind}")]


def test_every_figure_is_drawn_and_drawn_again_to_the_same_bytes(tmp_path, results):
    trees = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        names = draw_analysis(results, folder)
        trees.append({file.name: file.read_bytes() for file in folder.iterdir()})
    kinds = ("rule_matrix", "patience", "conflict", "overthinking", "weights-leebert")
    assert names == [f"tiers-minilm-{kind}" for kind in kinds]
    assert set(trees[0]) == {f"{name}.{end}" for name in names for end in ("png", "svg")}
    assert trees[0] == trees[1]


def test_records_that_lack_a_thing_give_no_file_for_it(tmp_path):
    params = invented_params(goal={"max_loss": 1.0, "min_speedup": []})
    write_run(tmp_path / "runs", params, edit=lambda cell, rows, timings: rows[:] and drop_speedups(rows))
    results = collect(tmp_path / "runs", params)
    assert set(analysis_tables(results)) == {"cost.csv"}
    assert draw_analysis(results, tmp_path / "figures") == []
    assert list((tmp_path / "figures").iterdir()) == []


def drop_speedups(rows: list[dict]) -> None:
    rows[:] = [row for row in rows if not row["operating_point"].startswith("min_speedup")]


def test_every_named_method_has_a_name_of_its_own():
    assert len({name for name, _ in NAMES.values()}) == len(NAMES)
    assert method_name("leebert_lle") == "LeeBERT (LLE)"


def test_all_rules_of_a_figure_differ_in_colour():
    colours = rule_colours(RULES)
    assert set(colours) == set(RULES)
    assert len(set(colours.values())) == len(RULES)


def test_methods_that_meet_in_a_figure_differ_in_colour():
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert colour("fastbert") != colour("deebert")
