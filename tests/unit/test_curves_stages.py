"""The calibration and evaluation stages, run in this process on tiny models that were never trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import calibrate_thresholds
import evaluate_batch1
from adaptive_inference.data.task import Example, Schema, save_split
from adaptive_inference.errors import UserError
from adaptive_inference.evaluation.quality import quality
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.params import Backbone, parse_params
from adaptive_inference.records import Cell
from stage import Stage

BACKBONE = {"weights": "random:bert", "exits": [1, 2, 4]}
WORDS = ["good", "bad", "film", "plot", "not", "very", "the", "a", "movie", "dull", "great"]


def params_of(method: str, rules: list[str], kind: str, **sections: dict):
    task = {
        "source": "local",
        "train": "x.csv",
        "kind": kind,
        "metric": "accuracy" if kind == "classification" else "pearson",
    }
    methods = {"full": {"train": {}, "rules": ["fixed"]}}
    if method != "full":
        methods[method] = {"train": {}, "rules": rules}
    body = {
        "tasks": {"toy": task},
        "backbones": {"tiny": BACKBONE},
        "seeds": [0, 1],
        "trained_by": {"train_sweet": [m for m in methods if m != "full"], "train_multi_model": []},
        "methods": methods,
        "calibration": {"thresholds": 8},
        "goal": {"max_loss": 5.0, "min_speedup": [1.5]},
        "evaluation": {"timed_seeds": [0], "timed_examples": 4, "repeats": 1, "warmup": 1, "bootstrap": 20},
    }
    for name, changes in sections.items():
        body[name] = body[name] | changes
    return parse_params(body)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Splits and models of a two-class and of a regression task."""
    root = tmp_path_factory.mktemp("stages")
    generator = np.random.default_rng(0)
    for kind, labels in (("classification", ("no", "yes")), ("regression", None)):
        schema = Schema("toy", kind, labels, "accuracy" if labels else "pearson", 32)
        home = root / kind
        schema.save(home)
        for name, rows in (("calibration", 30), ("evaluation", 24)):
            examples = []
            for i in range(rows):
                text = " ".join(generator.choice(WORDS, generator.integers(2, 12)))
                label = int(generator.integers(0, 2)) if labels else float(generator.normal())
                examples.append(Example(i, (text,), label, tier=1 + i % 5))
            save_split(home, name, examples)
        for name, exits, certainty in (("full", [4], False), ("sweet", [1, 2, 4], True)):
            model = build_model(Backbone(**BACKBONE), schema, 0, certainty=certainty, exits=exits)
            for head in model.heads:
                torch.nn.init.normal_(head.classifier.weight, generator=torch.Generator().manual_seed(1))
            model.save_pretrained(home / name)
        members = [build_model(Backbone(**BACKBONE), schema, 0, exits=[k]) for k in (1, 2, 4)]
        MultiModel(members).save_pretrained(home / "multi_model")
    return root


def run(
    folder,
    tmp_path,
    monkeypatch,
    method="sweet",
    rules=("confidence",),
    kind="classification",
    seed=0,
    **sections,
):
    """Run both stages; return calibration.json, the evaluation's record, its curves and its timings."""
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    params, home = params_of(method, list(rules), kind, **sections), folder / kind
    inputs = {"data": home, "full": home / "full", "model": home / method}
    stages = []
    for module in (calibrate_thresholds, evaluate_batch1):
        out = tmp_path / module.__name__
        out.mkdir(parents=True)
        cell = Cell("toy", "tiny", seed, method)
        stage = Stage(module.__name__, cell, params, dict(inputs), out, out, {}, module.__file__)
        module.main(stage)
        stage.record.save(out)
        inputs["calibration"] = out / "calibration.json"
        stages.append(stage)
    calibration = json.loads((tmp_path / "calibrate_thresholds" / "calibration.json").read_text())
    curves = json.loads((tmp_path / "evaluate_batch1" / "curves.json").read_text())
    return calibration, stages[1].record, curves, stages[1].timings


def test_every_operating_point_has_a_row_and_a_timing(folder, tmp_path, monkeypatch):
    rules = ("confidence", "learning_to_exit", "oracle")
    calibration, record, curves, timings = run(folder, tmp_path, monkeypatch, rules=rules)
    keys = [(p["rule"], p["name"]) for p in calibration["operating_points"]]
    assert keys == [(rule, goal) for rule in rules for goal in ("max_loss_5", "min_speedup_1.5")]
    assert [(row["rule"], row["operating_point"]) for row in record.details["rows"]] == keys
    qualified = [
        (p["rule"], p["name"])
        for p in calibration["operating_points"]
        if p["qualifies"] and p["rule"] != "oracle"
    ]
    assert [(row["rule"], row["operating_point"]) for row in timings["rows"]] == qualified
    assert [row["attainable"] for row in record.details["rows"]] == [True] * 4 + [False] * 2
    assert calibration["recommended"]["rule"] != "oracle"
    assert all(row["rows"] == 4 for row in record.details["engine_agreement"])
    assert list(curves) == sorted(rules)
    assert len(curves["confidence"]["thresholds"]) == len(curves["confidence"]["flops_speedup"]) == 8
    assert len(calibration["temperatures"]) == len(calibration["certainty_min"]) == 3
    assert calibration["calibrated_on"] == "calibration"
    assert calibration["rows"] == 30
    assert [item["layer"] for item in record.details["exits"]] == [1, 2, 4]
    recommended = (calibration["recommended"]["rule"], calibration["recommended"]["operating_point"])
    row = record.details["rows"][keys.index(recommended)]
    assert record.metrics["layers_speedup"] == row["layers_speedup"]
    assert (record.details["rule"], record.details["operating_point"]) == recommended


def test_the_full_model_is_its_own_yardstick(folder, tmp_path, monkeypatch):
    calibration, record, _, timings = run(folder, tmp_path, monkeypatch, method="full")
    (row,) = record.details["rows"]
    assert (row["method"], row["rule"], row["operating_point"], row["threshold"]) == (
        "full",
        "fixed",
        "full",
        0.0,
    )
    assert row["layers_speedup"] == row["flops_speedup"] == 1.0
    assert row["added_parameters"] == 0
    assert record.metrics["quality"] == row["quality"] == record.metrics["exit4_quality"]
    assert len(timings["rows"]) == 1
    assert calibration["recommended"]["operating_point"] == "full"


def test_a_cascade_has_its_members_alone_as_rows(folder, tmp_path, monkeypatch):
    calibration, record, _, timings = run(folder, tmp_path, monkeypatch, method="multi_model")
    rows = {row["method"]: row for row in record.details["rows"] if row["method"] != "multi_model"}
    assert [rows[f"static_{k}"]["layers_speedup"] for k in (1, 2, 4)] == [4.0, 2.0, 1.0]
    assert [rows[f"static_{k}"]["quality"] for k in (1, 2, 4)] == [
        item["quality"] for item in record.details["exits"]
    ]
    assert rows["static_4"]["flops_speedup"] == 1.0
    assert rows["static_1"]["added_parameters"] < 0 == rows["static_4"]["added_parameters"]
    assert {row["method"] for row in timings["rows"]} >= {"static_1", "static_2", "static_4"}
    assert calibration["recommended"]["rule"] in ("confidence", "fixed")


def test_kept_answers_give_the_reported_quality_again(folder, tmp_path, monkeypatch):
    for method in ("multi_model", "sweet"):
        goal = {"min_speedup": [1.5, 50.0]}
        _, record, *_ = run(folder, tmp_path / method, monkeypatch, method=method, seed=1, goal=goal)
        file = tmp_path / method / "evaluate_batch1" / "predictions.json"
        body = json.loads(file.read_text())
        assert body["ids"] == list(range(24))
        assert body["num_classes"] == 2
        measured = {
            (row["method"], row["rule"], row["operating_point"]): row["quality"]
            for row in record.details["rows"]
            if row["threshold"] is not None  # no threshold is 50 times faster
        }
        labels = np.array(body["labels"])
        assert measured == {
            (p["method"], p["rule"], p["operating_point"]): np.mean(np.array(p["predictions"]) == labels)
            for p in body["points"]
        }
        lines = file.read_text().splitlines()
        assert sum("predictions" in line for line in lines) == len(measured)
        costs = [item["layers_speedup"] for item in record.details["exits"]]
        assert costs == ([4.0, 4 / 3, 4 / 7] if method == "multi_model" else [4.0, 2.0, 1.0])
        assert all(item["flops_speedup"] > 0 for item in record.details["exits"])


def test_nothing_is_timed_and_records_are_equal_for_other_seeds_and_again(folder, tmp_path, monkeypatch):
    *_, timings = run(folder, tmp_path / "a", monkeypatch, seed=1)
    assert timings["rows"] == []
    run(folder, tmp_path / "b", monkeypatch, seed=1)
    for file in (
        "calibrate_thresholds/calibration.json",
        "evaluate_batch1/metrics.json",
        "evaluate_batch1/curves.json",
        "evaluate_batch1/predictions.json",
    ):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_calibrating_on_the_reported_split_is_said(folder, tmp_path, monkeypatch):
    calibration, record, *_ = run(folder, tmp_path, monkeypatch, calibration={"calibrate_on": "evaluation"})
    assert calibration["calibrated_on"] == record.details["calibrated_on"] == "evaluation"
    assert calibration["rows"] == 24


def test_an_unreachable_goal_gives_rows_that_say_so(folder, tmp_path, monkeypatch):
    calibration, record, _, timings = run(folder, tmp_path, monkeypatch, goal={"min_speedup": [50.0]})
    row = record.details["rows"][1]
    assert (row["operating_point"], row["qualifies"], row["threshold"], row["quality"]) == (
        "min_speedup_50",
        False,
        None,
        None,
    )
    assert "min_speedup_50" not in {item["operating_point"] for item in timings["rows"]}
    assert calibration["operating_points"][1]["qualifies"] is False


def test_a_regression_task_goes_through_with_the_fixed_rule_and_refuses_the_others(
    folder, tmp_path, monkeypatch
):
    calibration, record, *_ = run(folder, tmp_path / "a", monkeypatch, rules=("fixed",), kind="regression")
    assert calibration["temperatures"] == [1.0] * 3
    assert calibration["reliability"] == {"before": [], "after": []}
    assert record.details["rows"][0]["metric"] == "pearson"
    body = json.loads((tmp_path / "a/evaluate_batch1/predictions.json").read_text())
    (row,) = [row for row in record.details["rows"] if row["operating_point"] == "min_speedup_1.5"]
    answers = {point["operating_point"]: point["predictions"] for point in body["points"]}["min_speedup_1.5"]
    assert quality("pearson", answers, body["labels"]) == row["quality"]
    with pytest.raises(UserError, match="regression"):
        run(folder, tmp_path / "b", monkeypatch, rules=("confidence",), kind="regression")


def test_a_rule_that_needs_certainty_heads_is_refused_for_a_model_without(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="certainty heads"):
        run(folder, tmp_path, monkeypatch, method="multi_model", rules=("learning_to_exit",))
