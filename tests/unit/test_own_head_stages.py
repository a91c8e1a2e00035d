"""Exits on a fine-tuned checkpoint, from its folder to the report, by the stage scripts, in this process."""

import csv
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from fine_tuned import difference, fine_tuned
from tiny_training import make_rows

from adaptive_inference.exits import load_model
from adaptive_inference.exits.build import build_model
from adaptive_inference.files import read_json, read_jsonl
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.params import parse_params

pytestmark = pytest.mark.pipeline

STEPS = Path(__file__).parents[2] / "pipeline_steps"
SEED = Path("runs/words/tiny/seed0")
STAGES = {"full": "finetune_backbone", "deebert": "train_leebert", "early_exit": "train_sweet"}
ROWS = make_rows(6, seed=9)


def params_of(section):
    return {
        "tasks": {"words": {"source": "local", "train": "words.csv", "labels": ["bad", "good"], "max_length": 32}},
        "backbones": {"tiny": section | {"exits": [1, 2, 4]}},
        "seeds": [0],
        "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
        "trained_by": {"train_sweet": ["early_exit"], "train_leebert": ["deebert"], "train_multi_model": []},
        "methods": {
            "full": {"train": {"epochs": 0}, "rules": ["fixed"]},
            "deebert": {"train": {"objective": "frozen"}, "rules": ["entropy"]},
            "early_exit": {"train": {}, "rules": ["confidence"]},
        },
        "calibration": {"thresholds": 8},
        "evaluation": {"timed_seeds": [0], "timed_examples": 4, "repeats": 1, "warmup": 1, "bootstrap": 20},
        "runtime": {"device": "cpu"},
    }  # fmt: skip


def run(script, *args):
    """Run a script as its command line would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(STEPS / f"{script}.py"), *args])
        runpy.run_path(str(STEPS / f"{script}.py"), run_name="__main__")


def prepare(folder, section):
    """Write the project's files into the working folder and run its first stage."""
    (folder / "data").mkdir()
    with (folder / "data/words.csv").open("w", newline="") as file:
        rows = [(row.texts[0], ("bad", "good")[row.label]) for row in make_rows(120)]
        csv.writer(file).writerows([("text", "label"), *rows])
    (folder / "params.yaml").write_text(yaml.safe_dump(params_of(section)))
    run("prepare_data", "--task", "words", "--backbone", "tiny", "--seed", "0", "--data-folder", "data")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The stock model of a project whose stages all ran: its classes stand in another order than the task's."""
    folder = tmp_path_factory.mktemp("own_head")
    stock, section = fine_tuned("roberta", folder / "checkpoint", ("GOOD", "BAD"), hidden_dropout_prob=0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
        prepare(folder, section)
        cell = ("--task", "words", "--backbone", "tiny", "--seed", "0")
        for method, stage in STAGES.items():
            run(stage, *cell, *(() if method == "full" else ("--method", method)))
        for method in STAGES:
            for stage in ("collect_answers", "calibrate_thresholds", "evaluate_batch1"):
                run(stage, *cell, "--method", method)
        run("make_tables", "--runs", "runs", "--out", "results")
    return folder, stock, section


def model_of(project, method):
    return load_model(project[0] / SEED / method)


def test_a_full_model_without_epochs_is_the_stock_model(project):
    assert difference(project[1], model_of(project, "full"), ROWS, order=[1, 0]) <= 1e-6


def test_frozen_exits_leave_the_checkpoints_answer_as_it_was(project):
    model = model_of(project, "deebert")
    assert model.exits == (1, 2, 4)
    assert difference(project[1], model, ROWS, order=[1, 0]) <= 1e-6
    schema = Schema("words", "classification", ("bad", "good"), "accuracy", 32)
    untrained = build_model(Backbone(**project[2] | {"exits": [1, 2, 4]}), schema, 0)
    for ours, before in zip(model.heads[:-1], untrained.heads[:-1], strict=True):
        assert not torch.equal(ours.classifier.weight, before.classifier.weight)


def test_joint_exits_start_from_the_checkpoints_head_and_change_it(project):
    model, rate = model_of(project, "early_exit"), 1e-3
    assert difference(project[1], model, ROWS, order=[1, 0]) > 1e-3
    steps = read_json(project[0] / SEED / "early_exit/train/metrics.json")["steps"]
    moved = model.heads[-1].classifier.weight - project[1].classifier.out_proj.weight[[1, 0]]
    assert 0 < moved.abs().max() <= 2 * rate * steps, "Adam moves a weight by about the rate a step"


def test_the_record_says_that_nothing_was_trained(project):
    folder = project[0] / SEED / "full"
    record, (row,) = read_json(folder / "train/metrics.json"), read_jsonl(folder / "train/history.jsonl")
    assert record["steps"] == record["metrics"]["best_epoch"] == row["step"] == row["epoch"] == 0
    assert "train_loss" not in record["metrics"]
    assert row["development4_quality"] == record["metrics"]["development4_quality"]
    assert read_json(folder / "train_timings.json")["seconds"] == 0.0
    assert record["params"]["methods.full.train"] == {"epochs": 0}
    assert record["params"]["backbones.tiny"]["head"] == "checkpoint"


def test_training_costs_what_was_trained_and_is_no_multiple_of_nothing(project):
    with (project[0] / "results/tables/cost.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert float(rows["full"]["training_steps"]) == float(rows["full"]["training_seconds_mean"]) == 0.0
    assert {row["training_ratio_mean"] for row in rows.values()} == {""}
    steps = {float(rows[method]["training_steps"]) for method in ("deebert", "early_exit")}
    assert steps == {read_json(project[0] / SEED / "deebert/train/metrics.json")["steps"]}
    assert "| full" in (project[0] / "results/tables/main.md").read_text().lower()


def test_classes_that_only_the_data_name_are_compared_before_anything_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    _, section = fine_tuned("bert", tmp_path / "checkpoint", ("no", "yes"))
    body = params_of(section)
    del body["tasks"]["words"]["labels"]
    assert parse_params(body)
    monkeypatch.setattr(sys.modules[__name__], "params_of", lambda section: body)
    with pytest.raises(SystemExit, match="2"):
        prepare(tmp_path, section)
    assert "answers no, yes, and the task's classes are bad, good" in capsys.readouterr().err
    assert not (SEED / "data").exists()
