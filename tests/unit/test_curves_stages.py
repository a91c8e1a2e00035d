"""The calibration and evaluation stages, run in this process on tiny models that were never trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibrated_stages import make_folder, names, params_of, points_of, run

import calibrate_thresholds
from adaptive_inference.calibration.answers import Answers
from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.calibration.curves import calibrate, sweep_all
from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Seen, Setting
from adaptive_inference.errors import UserError
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.evaluation.predictions import point_predictions, predictions_text
from adaptive_inference.exit_rules import load_rule, load_rules
from adaptive_inference.files import plain
from adaptive_inference.tasks.quality import quality
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.runs.digests import digest_path
from adaptive_pipeline.stage import Stage

PROJECT = Path(__file__).parents[2]
HEAD, CERTAINTY = 32 * 32 + 32 + 2 * 32 + 2, 32 + 1  #: weights of the tiny model's parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("stages"))


def test_every_operating_point_has_a_row_and_a_timing(folder, tmp_path, monkeypatch):
    rules = ("confidence", "learning_to_exit", "oracle")
    calibration, record, curves, timings = run(folder, tmp_path, monkeypatch, rules=rules)
    points = points_of(calibration)
    keys = [(rule, goal) for rule in rules for goal in ("max_loss_5", "min_speedup_1.5")]
    assert names(points) == keys
    assert [row.point for row in record.rows] == points
    qualified = names(p for p in points if p.qualifies and p.setting.rule != "oracle")
    assert [(row["rule"], row["operating_point"]) for row in timings["rows"]] == qualified
    assert all(0 < row["wallclock_speedup_batch16"] < np.inf for row in timings["rows"])
    assert names(item.point for item in record.agreement) == qualified
    assert [row.attainable for row in record.rows] == [True] * 4 + [False] * 2
    assert {row.added_parameters for row in record.rows} == {2 * HEAD + 3 * CERTAINTY}
    assert all(item.rows == 4 for item in record.agreement)
    assert list(curves) == sorted(rules)
    assert len(curves["confidence"]["thresholds"]) == len(curves["confidence"]["flops_speedup"]) == 8
    assert len(calibration["temperatures"]) == len(calibration["certainty_min"]) == 3
    assert calibration["calibrated_on"] == "calibration"
    assert calibration["rows"] == 30
    assert [item.layer for item in record.exits] == [1, 2, 4]
    for item, alone in zip(record.overthinking["exits"], record.exits[:-1], strict=True):
        gained = item["wrong_then_right"] - item["right_then_wrong"]
        assert record.exits[-1].quality == pytest.approx(alone.quality + gained)
    recommended = OperatingPoint.from_json(calibration["recommended"])
    assert recommended.setting.rule != "oracle"
    assert record.recommended == recommended
    row = record.rows[points.index(recommended)]
    assert record.metrics["layers_speedup"] == row.layers_speedup


LATE_IMPORTS = """
import sys
from pathlib import Path
import pytest
from calibrated_stages import make_folder, run
import evaluate_batch1
from adaptive_pipeline.runs.digests import code_digest
with pytest.MonkeyPatch.context() as patch:
    _, record, _, _ = run(make_folder(Path("models")), Path("out").absolute(), patch)
sys.exit(record.code != code_digest(evaluate_batch1.__file__))
"""


def test_the_code_of_an_evaluation_holds_every_module_that_it_imports(tmp_path):
    """In a process of its own: nothing but the stages has imported what runs the layers."""
    paths = os.pathsep.join([*sys.path, str(Path(__file__).parent), str(PROJECT / "pipeline_steps")])
    command = [sys.executable, "-c", LATE_IMPORTS]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, check=True)


def test_each_goals_figures_are_those_of_the_rule_that_calibration_ranks_first(folder, tmp_path, monkeypatch):
    rules = ("fixed", "confidence", "margin", "oracle")
    _, record, _, timings = run(folder, tmp_path, monkeypatch, rules=rules, goal={"min_speedup": [1.5, 50.0]})
    fit = {goal: [row for row in record.rows if row.attainable and row.point.goal.name == goal and row.point.qualifies]
           for goal in ("max_loss_5", "min_speedup_1.5")}  # fmt: skip
    loss = max(fit["max_loss_5"], key=lambda row: (row.point.seen.layers_speedup, row.point.seen.quality))
    speed = max(
        fit["min_speedup_1.5"], key=lambda row: (row.point.seen.quality, row.point.seen.layers_speedup)
    )
    for goal, row in (("max_loss_5", loss), ("min_speedup_1.5", speed)):
        for name in ("quality", "layers_speedup", "flops_speedup"):
            assert record.metrics[f"{goal}_{name}"] == getattr(row, name)
        key = {"rule": row.point.setting.rule, "operating_point": goal}
        (timed,) = [item for item in timings["rows"] if key.items() <= item.items()]
        assert timings["goals"][f"{goal}_wallclock_speedup"] == timed["wallclock_speedup"]
    assert not [name for name in (*record.metrics, *timings["goals"]) if name.startswith("min_speedup_50")]
    assert timings["goals"]["wallclock_speedup"] > 0


def test_the_full_model_is_its_own_yardstick(folder, tmp_path, monkeypatch):
    calibration, record, _, timings = run(folder, tmp_path, monkeypatch, method="full")
    (row,) = record.rows
    assert (row.method, row.point.goal, row.point.setting) == ("full", Goal("full"), Setting("fixed", 0.0))
    assert row.point.seen == Seen(calibration["full_quality"], 1.0, 1.0)
    assert row.layers_speedup == row.flops_speedup == 1.0
    assert row.added_parameters == 0
    assert record.metrics["quality"] == row.quality == record.metrics["exit4_quality"]
    assert len(timings["rows"]) == 1
    assert record.recommended == row.point


def test_a_cascade_has_its_members_alone_as_rows(folder, tmp_path, monkeypatch):
    _, record, _, timings = run(folder, tmp_path, monkeypatch, method="multi_model")
    rows = {row.method: row for row in record.rows if row.method != "multi_model"}
    assert [rows[f"static_{k}"].layers_speedup for k in (1, 2, 4)] == [4.0, 2.0, 1.0]
    assert [rows[f"static_{k}"].quality for k in (1, 2, 4)] == [item.quality for item in record.exits]
    assert [rows[f"static_{k}"].point.setting for k in (1, 2, 4)] == [
        Setting("fixed", 0.0, member=k) for k in (1, 2, 4)
    ]
    for k in (1, 2, 4):
        assert rows[f"static_{k}"].point.seen.layers_speedup == 4 / k
        assert rows[f"static_{k}"].point.seen.flops_speedup == pytest.approx(4 / k, rel=0.02)
    assert rows["static_4"].flops_speedup == 1.0
    assert rows["static_1"].added_parameters < 0 == rows["static_4"].added_parameters
    assert {row["method"] for row in timings["rows"]} >= {"static_1", "static_2", "static_4"}
    assert record.recommended is None or record.recommended.setting.member is None


@pytest.mark.parametrize("method", ["static_2", "pkd"])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_model_without_exits_is_measured_once_whatever_the_goals(
    folder, tmp_path, monkeypatch, method, kind
):
    """No model of two layers of four is 50 times faster."""
    goal = {"max_loss": 0.0, "min_speedup": [50.0]}
    body, record, curves, timings = run(folder, tmp_path, monkeypatch, method, ["fixed"], kind, goal=goal)
    (point,) = points_of(body)
    assert (point.goal, point.setting) == (Goal("whole"), Setting("fixed", 0.0))
    assert point.seen.layers_speedup == 2.0
    assert point.qualifies == (point.seen.quality >= body["full_quality"])
    assert OperatingPoint.from_json(body["recommended"]) == point
    (row,) = record.rows
    assert (row.method, row.point, row.exit_counts) == (method, point, {"2": 24})
    assert row.quality == record.exits[0].quality == record.metrics["quality"]
    assert row.layers_speedup == 2.0 < row.flops_speedup + 0.1
    assert row.added_parameters < 0
    assert [item["operating_point"] for item in timings["rows"]] == ["whole"]
    assert curves["fixed"]["layers_speedup"] == [2.0]


@pytest.mark.parametrize("cost", ["layers", "flops"])
def test_goals_are_met_in_the_currency_of_the_params(folder, tmp_path, monkeypatch, cost):
    """The points equal a choice by hand from the curve of the calibration rows."""
    body, record, *_ = run(folder, tmp_path, monkeypatch, goal={"cost": cost, "min_speedup": [1.2, 2.0]})
    assert body["cost"] == cost
    points = points_of(body)
    assert {point.goal.cost for point in points} == {cost}
    answers = Answers.load(tmp_path / "collect_answers/calibration.safetensors")
    outputs = calibrate(answers.outputs, Calibrator.from_json(body))
    curve = sweep_all({"confidence": load_rule("confidence")}, outputs, answers.yardstick, 8)["confidence"]
    speed = curve.layers_speedup if cost == "layers" else curve.flops_speedup
    for point in points:
        if point.goal.kind == "max_loss":
            allowed = curve.quality >= body["full_quality"] - 0.05 - 1e-9
            ranks = list(zip(allowed, speed, curve.quality, strict=True))
        else:
            allowed = speed >= point.goal.value - 1e-9
            ranks = list(zip(allowed, curve.quality, speed, strict=True))
        best = max(range(len(ranks)), key=lambda t, ranks=ranks: ranks[t])
        assert point.reached == allowed.any()
        if allowed.any():
            assert point.setting.threshold == curve.thresholds[best]
            assert point.seen == curve.seen(best)
    assert [row.point for row in record.rows] == points


@pytest.mark.parametrize("method", ["sweet", "multi_model"])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_curves_and_predictions_derive_from_the_answers_alone(folder, tmp_path, monkeypatch, method, kind):
    """To the digit, without a model."""
    rules = ("fixed",) if kind == "regression" else ("confidence", "patience", "fixed")
    if (method, kind) == ("sweet", "classification"):
        rules += ("learning_to_exit",)
    body, _, curves, _ = run(folder, tmp_path, monkeypatch, method, rules, kind, seed=1)
    out = tmp_path / "evaluate_batch1"
    file = tmp_path / "collect_answers/evaluation.safetensors"
    answers = Answers.load(file)
    calibrator = Calibrator.from_json(body)
    own = Candidate(method, None, calibrate(answers.outputs, calibrator), calibrator, answers.yardstick)
    again = {name: curve.to_json() for name, curve in own.curves(load_rules(rules), 8).items()}
    assert plain(again) == curves
    predictions = [point_predictions(point, own.answering(point)) for point in points_of(body)]
    assert predictions_text(own, predictions) == (out / "predictions.json").read_text()
    assert file.stat().st_size < 20_000


def test_another_rule_of_a_model_without_exits_keeps_its_goals(folder, tmp_path, monkeypatch):
    body, *_ = run(folder, tmp_path, monkeypatch, "pkd", ["confidence"])
    assert [p.goal.name for p in points_of(body)] == ["max_loss_5", "min_speedup_1.5"]


def test_kept_answers_give_the_reported_quality_again(folder, tmp_path, monkeypatch):
    for method in ("multi_model", "sweet"):
        goal = {"min_speedup": [1.5, 50.0]}
        _, record, *_ = run(folder, tmp_path / method, monkeypatch, method=method, seed=1, goal=goal)
        file = tmp_path / method / "evaluate_batch1" / "predictions.json"
        body = json.loads(file.read_text())
        assert body["ids"] == list(range(24))
        assert body["num_classes"] == 2
        measured = {
            (row.method, row.point.setting.rule, row.point.goal.name): row.quality
            for row in record.rows
            if row.point.reached  # no threshold is 50 times faster
        }
        labels = np.array(body["labels"])
        assert measured == {
            (p["method"], p["rule"], p["operating_point"]): np.mean(np.array(p["predictions"]) == labels)
            for p in body["points"]
        }
        lines = file.read_text().splitlines()
        assert sum("predictions" in line for line in lines) == len(measured)
        costs = [item.layers_speedup for item in record.exits]
        assert costs == ([4.0, 4 / 3, 4 / 7] if method == "multi_model" else [4.0, 2.0, 1.0])
        assert all(item.flops_speedup > 0 for item in record.exits)


def test_nothing_is_timed_and_records_are_equal_for_other_seeds_and_again(folder, tmp_path, monkeypatch):
    *_, timings = run(folder, tmp_path / "a", monkeypatch, seed=1)
    assert timings["rows"] == []
    run(folder, tmp_path / "b", monkeypatch, seed=1)
    for file in (
        "calibrate_thresholds/calibration.json",
        "collect_answers/calibration.safetensors",
        "collect_answers/evaluation.safetensors",
        "collect_answers/metrics.json",
        "calibrate_thresholds/metrics.json",
        "evaluate_batch1/metrics.json",
        "evaluate_batch1/curves.json",
        "evaluate_batch1/predictions.json",
    ):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_answers_of_another_model_are_refused(folder, tmp_path, monkeypatch):
    run(folder, tmp_path, monkeypatch)
    inputs = {"model": folder / "classification/pkd", "answers": tmp_path / "collect_answers"}
    made_from = Answers.load(inputs["answers"] / "evaluation.safetensors").made_from
    assert made_from["model"] == digest_path(folder / "classification/sweet")
    params = params_of("sweet", ["confidence"], "classification")
    stage = Stage(
        "evaluate_batch1", Cell("toy", "tiny", 0, "sweet"), params, inputs, tmp_path, tmp_path, {}, __file__
    )
    with pytest.raises(UserError, match=r"made from another model than .*pkd; run collect_answers again"):
        stage.begin("runtime", made_from=made_from)


@pytest.mark.parametrize("other", ["data", "model"])
def test_the_full_models_answers_to_other_rows_or_of_another_model_are_refused(
    folder, tmp_path, monkeypatch, other
):
    run(folder, tmp_path, monkeypatch)
    file = tmp_path / "full_answers/calibration.safetensors"
    full = Answers.load(file)
    replace(full, made_from={**full.made_from, other: "0"}).save(file)
    names = {"answers": tmp_path / "collect_answers", "full_answers": tmp_path / "full_answers"}
    params = params_of("sweet", ["confidence"], "classification")
    stage = Stage(
        "calibrate_thresholds",
        Cell("toy", "tiny", 0, "sweet"),
        params,
        names,
        tmp_path,
        tmp_path,
        {},
        __file__,
    )
    with pytest.raises(UserError, match=f"made from another {other} than the method's"):
        calibrate_thresholds.main(stage)


def test_calibrating_on_the_reported_split_is_said(folder, tmp_path, monkeypatch):
    calibration, record, *_ = run(folder, tmp_path, monkeypatch, calibration={"calibrate_on": "evaluation"})
    assert calibration["calibrated_on"] == record.calibrated_on == "evaluation"
    assert calibration["rows"] == 24


def test_an_unreachable_goal_gives_rows_that_say_so(folder, tmp_path, monkeypatch):
    calibration, record, _, timings = run(folder, tmp_path, monkeypatch, goal={"min_speedup": [50.0]})
    row = record.rows[1]
    assert row.point == points_of(calibration)[1]
    assert (row.point.goal.name, row.point.qualifies) == ("min_speedup_50", False)
    assert (row.point.setting.threshold, row.quality) == (None, None)
    assert "min_speedup_50" not in {item["operating_point"] for item in timings["rows"]}


def test_a_regression_task_goes_through_with_the_fixed_rule_and_refuses_the_others(
    folder, tmp_path, monkeypatch
):
    calibration, record, *_ = run(folder, tmp_path / "a", monkeypatch, rules=("fixed",), kind="regression")
    assert record.overthinking is None
    assert calibration["temperatures"] == [1.0] * 3
    assert calibration["reliability"] == {"before": [], "after": []}
    assert record.rows[0].metric == "pearson"
    body = json.loads((tmp_path / "a/evaluate_batch1/predictions.json").read_text())
    (row,) = [row for row in record.rows if row.point.goal.name == "min_speedup_1.5"]
    answers = {point["operating_point"]: point["predictions"] for point in body["points"]}["min_speedup_1.5"]
    assert quality("pearson", answers, body["labels"]) == row.quality
    with pytest.raises(UserError, match="regression"):
        run(folder, tmp_path / "b", monkeypatch, rules=("confidence",), kind="regression")


def test_a_rule_that_needs_certainty_heads_is_refused_for_a_model_without(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="certainty heads"):
        run(folder, tmp_path, monkeypatch, method="multi_model", rules=("learning_to_exit",))


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        ("classification", ("patience", "patience_confidence(patience=3)", "voting", "patience_confidence")),
        ("regression", ("patience(tolerance=0.25)", "patience")),
    ],
)
def test_rules_that_count_exits_keep_their_names_from_params_to_timings(
    folder, tmp_path, monkeypatch, kind, rules
):
    calibration, record, curves, timings = run(folder, tmp_path, monkeypatch, rules=rules, kind=kind)
    assert sorted(curves) == sorted(rules)
    points = points_of(calibration)
    for found in (points, [row.point for row in record.rows]):
        assert {point.setting.rule for point in found} == set(rules)
    assert {row["rule"] for row in timings["rows"]} == {p.setting.rule for p in points if p.reached}
    assert record.recommended is None or record.recommended.setting.rule in rules
    assert all(item.differing <= item.near_threshold for item in record.agreement)


def test_a_rule_in_another_spelling_is_refused_by_the_stage_too(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"must be written 'patience\(tolerance=0\.25\)'"):
        run(folder, tmp_path, monkeypatch, rules=("patience(tolerance=.25)",), kind="regression")
