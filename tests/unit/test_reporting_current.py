"""Which records are reported: those that stand on the params at hand and on one another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from synthetic_choices import CALIBRATION_ROWS, FULL, Chosen, write_choice
from synthetic_records import change_record, choose_methods, full_quality, invented_params, write_run

from adaptive_inference.calibration.operating_point import Setting
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.report import make_report
from adaptive_pipeline.reporting.text.recommendation import as_json, as_markdown
from adaptive_pipeline.runs.keep import keep_records
from adaptive_pipeline.runs.records import Record, model_of

HOME = "tiers/minilm"
STAGES = [("recommend", "choice"), ("evaluate_recommended", "evaluation")]


@pytest.fixture(scope="module")
def params():
    return invented_params()


@pytest.fixture
def runs(tmp_path, params) -> Path:
    root = tmp_path / "runs"
    write_run(root, params)
    return root


def why(root: Path, params) -> str:
    """Return why nothing is recommended; empty where something is."""
    (choice,) = recommend(collect(root, params))
    assert choice.known == (choice.why == "")
    return choice.why


# ---- evaluations -----------------------------------------------------------------------------------------------------


def test_an_evaluation_of_a_model_trained_otherwise_is_not_reported(runs, params):
    """The evaluation's own params hold no learning rate: all that it stands on is asked."""
    body = params.model_dump(mode="json")
    body["training"]["learning_rate"] = 3e-5
    changed = invented_params(training=body["training"])
    missing = collect(runs, changed).missing
    assert len(missing) == len(params.seeds) * len(params.methods)
    assert all("training.learning_rate" in item.why for item in missing)


def test_an_evaluation_whose_training_record_is_gone_is_not_reported(runs, params):
    shutil.rmtree(runs / f"{HOME}/seed0/sweet/train")
    (missing,) = collect(runs, params).missing
    assert missing.cell.method == "sweet"
    assert "train" in missing.why


def test_an_evaluation_of_another_model_than_was_calibrated_is_not_reported(runs, params):
    for stage, digest in (("calibration", "new"), ("evaluation", "old")):
        change_record(runs / f"{HOME}/seed0/sweet/{stage}", inputs={"model": digest})
    (missing,) = collect(runs, params).missing
    assert "another model" in missing.why


# ---- the recommendation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "folder"), STAGES)
def test_a_stage_that_has_not_run_is_named_and_all_else_is_reported(tmp_path, runs, params, stage, folder):
    shutil.rmtree(runs / HOME / f"recommended/seed0/{folder}")
    make_report(runs, params, tmp_path / "out")
    text = (tmp_path / "out/recommendation.md").read_text()
    assert f"No recommendation: {stage} has not run." in text
    assert {"main.csv", "comparisons.csv"} <= {file.name for file in (tmp_path / "out/tables").iterdir()}
    assert any((tmp_path / "out/figures").iterdir())
    assert not (tmp_path / "out/model").exists()


def test_without_the_full_model_nothing_is_recommended(runs, params):
    for seed in params.seeds:
        shutil.rmtree(runs / HOME / f"seed{seed}/full/evaluation")
    results = collect(runs, params)
    (choice,) = recommend(results)
    assert "No recommendation: the full model has no record yet" in as_markdown(
        [choice], results, "results", set()
    )
    body = as_json([choice], results, "results", set())["choices"][0]
    assert set(body) == {"task", "backbone", "qualifies", "why"}


@pytest.mark.parametrize(("stage", "folder"), STAGES)
@pytest.mark.parametrize("changed", [{"max_loss": 2.0}, {"max_loss": 1.0, "confidence": 0.5}])
def test_one_under_another_goal_is_not_reported(runs, params, stage, folder, changed):
    goal = invented_params(goal=changed).echo(["goal"])
    record = Record.load(runs / HOME / "recommended/seed0" / folder)
    change_record(runs / HOME / "recommended/seed0" / folder, params=record.params | goal)
    assert f"{stage} was run with other params (goal." in why(runs, params)


def test_one_among_other_methods_is_not_reported(runs, params):
    body = params.model_dump(mode="json")
    few = choose_methods(body, [name for name in body["methods"] if name != "learning_to_exit"])
    assert "trained_by.train_" in why(runs, invented_params(**few))


def test_pairs_that_are_compared_besides_change_no_recommendation(runs, params):
    body = params.model_dump(mode="json")
    body["methods"]["sweet"]["references"] = ["multi_model"]
    assert why(runs, invented_params(methods=body["methods"])) == ""


@pytest.mark.parametrize("method", ["sweet", "early_exit"])
def test_one_among_models_that_were_trained_again_since_is_not_reported(runs, params, method):
    change_record(runs / HOME / "recommended/seed0/choice", inputs={model_of(method): "old"})
    change_record(runs / HOME / f"seed0/{method}/calibration", inputs={"model": "old"})
    assert why(runs, params) == ""
    change_record(runs / HOME / f"seed0/{method}/calibration", inputs={"model": "new"})
    assert f"recommend read another model of {method} than was calibrated" in why(runs, params)


def test_one_that_deployed_another_model_of_a_method_is_not_reported(runs, params):
    change_record(runs / HOME / "recommended/seed0/evaluation", inputs={model_of("early_exit"): "old"})
    change_record(runs / HOME / "seed0/early_exit/calibration", inputs={"model": "old"})
    assert why(runs, params) == ""
    change_record(runs / HOME / "seed0/early_exit/calibration", inputs={"model": "new"})
    assert "evaluate_recommended read another model of early_exit than was calibrated" in why(runs, params)


@pytest.mark.parametrize("method", ["sweet", "early_exit"])
def test_one_that_a_calibration_is_gone_for_is_not_reported_whether_it_was_chosen_or_not(
    runs, params, method
):
    shutil.rmtree(runs / HOME / f"seed0/{method}/calibration")
    assert "calibrate_thresholds" in why(runs, params)


def test_one_measured_on_another_model_than_was_calibrated_is_not_reported(runs, params):
    assert why(runs, params) == ""
    change_record(runs / HOME / "seed0/sweet/calibration", inputs={"model": "new"})
    change_record(runs / HOME / "recommended/seed0/evaluation", inputs={"model": "old"})
    assert "evaluate_recommended read another model than the stages before it" in why(runs, params)


@pytest.mark.parametrize("setting", [None, Setting("confidence", 0.5), Setting("margin", 0.7125)])
def test_a_measurement_of_an_earlier_choice_is_not_reported(runs, params, setting):
    change_record(runs / HOME / "recommended/seed0/evaluation", setting=setting)
    assert (
        why(runs, params) == "evaluate_recommended measured another choice than recommend made; run it again"
    )


def test_the_recommendation_is_that_of_the_seed_whose_full_model_did_best_in_development(tmp_path):
    params = invented_params(seeds=[0, 1, 2])
    write_run(tmp_path, params)
    for seed, quality in enumerate((0.90, 0.95, 0.95)):  # of equals the first
        change_record(tmp_path / HOME / f"seed{seed}/full/train", metrics={"development6_quality": quality})
        chosen = Chosen(threshold=0.5 + seed / 10)
        write_choice(tmp_path, params, Cell("tiers", "minilm", seed), chosen, full_quality(seed))
    (choice,) = recommend(collect(tmp_path, params))
    assert (choice.marked.seed, choice.marked.threshold) == (1, 0.6)
    assert choice.cell == Cell("tiers", "minilm", 1, "sweet")
    change_record(tmp_path / HOME / "seed2/full/train", metrics={"development6_quality": 0.96})
    (choice,) = recommend(collect(tmp_path, params))
    assert (choice.marked.seed, choice.marked.threshold) == (2, 0.7)


@pytest.mark.parametrize("chosen", [Chosen(), FULL])
def test_kept_records_tell_the_same_recommendation(tmp_path, params, chosen):
    write_run(tmp_path / "runs", params, chosen=chosen)
    _, left = keep_records(tmp_path / "runs", tmp_path / "kept", params)
    assert left == 0
    told = []
    for root in (tmp_path / "runs", tmp_path / "kept"):
        results = collect(root, params)
        choices = recommend(results)
        told.append((as_markdown(choices, results, "results", ()), as_json(choices, results, "results", ())))
    assert told[0] == told[1]
    assert told[1][1]["choices"][0]["calibration_rows"] == CALIBRATION_ROWS
