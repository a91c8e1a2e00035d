"""Points of models that remove tokens: their overhead, what is left when rows leave, and goals counted in FLOPs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from calibrated_stages import make_folder, run
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from tiny_reduction import SCHEMA, model_of

from adaptive_inference.backbones import _tiny
from adaptive_inference.calibration import operating_point
from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.calibration.choose import choose_points
from adaptive_inference.calibration.curves import calibrate
from adaptive_inference.calibration.operating_point import OperatingPoint, Setting
from adaptive_inference.cost.published import published_speedup
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.engine import Engine
from adaptive_inference.evaluation import as_published
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.evaluation.overhead import nothing_removed, with_thresholds_of_zero
from adaptive_inference.evaluation.points import measure_point
from adaptive_inference.evaluation.survival import SHARES, survival
from adaptive_inference.evaluation.wallclock import WallClock, time_points
from adaptive_inference.exit_rules import load_rules
from adaptive_inference.exits.outputs import ExitOutputs, collect_outputs
from adaptive_inference.settings.protocol import Evaluation, Goal
from adaptive_pipeline.runs.records import EvaluationRecord

WHOLE = OperatingPoint(operating_point.Goal("whole"), Setting("fixed", 0.0), False)


def features_of(count=24):
    draw = np.random.default_rng(0)
    rows = [draw.integers(5, 60, draw.integers(2, 20)).tolist() for _ in range(count)]
    return [
        {"id": i, "label": i % 3, "length": len(ids), "input_ids": ids, "attention_mask": [1] * len(ids)}
        for i, ids in enumerate(rows)
    ]


def candidate_of(model, features):
    outputs = collect_outputs(model, features, 8)
    calibrator = Calibrator.identity(len(model.exits))
    yardstick = Yardstick.of(SCHEMA, model_of(exits=(4,), reduces=False), model, outputs)
    return Candidate("adapler", model, calibrate(outputs, calibrator), calibrator, yardstick)


# ---- the overhead ----------------------------------------------------------------------------------------------------


def test_without_removal_the_model_is_the_one_without_predictors_and_its_own_stays_as_it_was():
    model, features = model_of(), features_of()
    before = [item.clone() for item in model.parameters()]
    bare = with_thresholds_of_zero(model)
    whole = collect_outputs(bare, features, 8)
    assert (whole.survivors == whole.lengths[:, None]).all()
    reduction, model.reduction = model.reduction, None
    try:
        np.testing.assert_allclose(whole.logits, collect_outputs(model, features, 8).logits, atol=1e-5)
    finally:
        model.reduction = reduction
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert (collect_outputs(model, features, 8).survivors < whole.survivors).any()
    assert bare.backbone.input_parameters()[0] is model.backbone.input_parameters()[0]  # no second copy
    with pytest.raises(ValueError, match="removes no tokens"):
        with_thresholds_of_zero(model_of(reduces=False))


def test_the_overhead_has_a_row_of_its_own_slower_in_flops_by_the_predictors_alone():
    features = features_of()
    own = candidate_of(model_of(exits=(4,)), features)
    point, who = nothing_removed(own, features, 8)
    row = measure_point(point, who, 1000, resamples=10, seed=0)
    assert (row["method"], point.goal.name, point.qualifies, point.seen) == (
        "adapler",
        "nothing_removed",
        True,
        None,
    )
    assert point == OperatingPoint.from_json(point.to_json())
    assert row["layers_speedup"] == 1.0
    lengths, full = who.outputs.lengths, who.yardstick.full_flops
    predictors = 4 * 2 * (32 * 32 + 32) * lengths  # two per multiply-add; 32 wide, as their hidden layer
    assert (who.yardstick.flops[:, 0] - full == predictors).all()
    assert row["flops_speedup"] == pytest.approx(full.sum() / (full + predictors).sum())
    assert row["survival"]["kept"] == 1.0


def test_overhead_and_removal_share_a_setting_and_are_timed_and_checked_apart():
    features = features_of()
    own = candidate_of(model_of(exits=(4,)), features)
    clock = WallClock(
        Engine(model_of(exits=(4,), reduces=False), "fixed"),
        features,
        Evaluation(timed_examples=6, repeats=1, bootstrap=0),
        0,
    )
    rows, agreement = time_points(clock, [(WHOLE, own), nothing_removed(own, features, 8)], Engine)
    assert [row["operating_point"] for row in rows] == ["whole", "nothing_removed"]
    assert rows[0]["median_ms"] != rows[1]["median_ms"]
    assert [item["differing"] for item in agreement] == [0, 0]


# ---- what is left when rows leave ------------------------------------------------------------------------------------


def outputs_of(lengths, survivors, exits=(1, 2, 4)):
    count = len(lengths)
    return ExitOutputs(
        np.zeros((count, len(exits), 2), np.float32), None, np.zeros(count, int), exits, exits,
        np.arange(count), np.array(lengths), survivors=np.array(survivors),
    )  # fmt: skip


def test_worked_example_of_tokens_left_at_exits():
    outputs = outputs_of([10, 10, 20, 4], [[10, 10, 5, 5], [5, 1, 1, 1], [20, 10, 4, 2], [4, 4, 4, 4]])
    found = survival(outputs, np.array([2, 1, 4, 4]))
    assert found["kept"] == pytest.approx((1 + 0.5 + (1 + 0.5 + 0.2 + 0.1) / 4 + 1) / 4)
    assert found["kept_at_exit"] == {
        "1": [0, 0, 0, 0, 1, 0, 0, 0, 0, 0],  # 5 of 10
        "2": [0, 0, 0, 0, 0, 0, 0, 0, 0, 1],  # all
        "4": [1, 0, 0, 0, 0, 0, 0, 0, 0, 1],  # 2 of 20 and all
    }
    shares = [0.75, 0.2, 0.45, 1.0]
    assert found["exit_correlation"] == pytest.approx(spearmanr([2, 1, 4, 4], shares)[0])


@settings(deadline=None)
@given(st.data())
def test_every_row_is_counted_once_under_its_exit_and_share(data):
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    survivors = [sorted((data.draw(st.integers(1, n)) for _ in range(4)), reverse=True) for n in lengths]
    exits = np.array([data.draw(st.sampled_from([1, 2, 4])) for _ in lengths])
    found = survival(outputs_of(lengths, survivors), exits)
    assert 0 < found["kept"] <= 1
    for layer, counts in found["kept_at_exit"].items():
        here = [i for i, exit_ in enumerate(exits) if exit_ == int(layer)]
        assert len(counts) == SHARES
        assert sum(counts) == len(here)
        expected = [0] * SHARES
        for i in here:
            kept = survivors[i][int(layer) - 1]
            part = next(k for k in range(SHARES) if SHARES * kept <= (k + 1) * lengths[i])
            expected[part] += 1
        assert counts == expected
    correlation = found["exit_correlation"]
    assert correlation is None or -1 - 1e-9 <= correlation <= 1 + 1e-9


def test_a_row_that_cannot_vary_has_no_correlation_and_a_model_that_keeps_all_no_survival():
    assert survival(outputs_of([4, 8], [[4] * 4, [2] * 4]), np.array([4, 4]))["exit_correlation"] is None
    with pytest.raises(ValueError, match="removes no tokens"):
        survival(replace(outputs_of([4], [[4] * 4]), survivors=None), np.array([4]))
    keeps = candidate_of(model_of(exits=(4,), reduces=False), features_of())
    assert measure_point(WHOLE, keeps, 1000, 10, 0)["survival"] is None


# ---- goals in FLOPs --------------------------------------------------------------------------------------------------


def points_of(cost):
    """Choose with the last exit's answers as labels, so that leaving early can only lose quality."""
    features = features_of(60)
    own = candidate_of(model_of(), features)
    labels = own.outputs.logits[:, -1].argmax(-1)
    own = replace(own, outputs=replace(own.outputs, labels=labels))
    full = replace(collect_outputs(model_of(exits=(4,), reduces=False), features, 8), labels=labels)
    asked = Goal(cost=cost, max_loss=100.0, min_speedup=[1.2])
    return own, choose_points(load_rules(["confidence"]), own.outputs, own.yardstick, asked, 30, full)[1]


def test_a_goal_in_flops_counts_what_removal_saves_and_a_goal_in_layers_does_not():
    own, point = points_of("flops")
    full, flops = own.yardstick.full_flops, own.yardstick.flops
    assert full.sum() / flops[:, -1].sum() > 1.2  # removal alone meets the goal: no row needs to leave early
    assert (point.qualifies, point.seen.layers_speedup, point.seen.quality) == (True, 1.0, 1.0)
    assert point.seen.flops_speedup == pytest.approx(full.sum() / flops[:, -1].sum())
    _, by_layers = points_of("layers")
    assert by_layers.qualifies
    assert by_layers.seen.layers_speedup >= 1.2
    assert by_layers.seen.flops_speedup > by_layers.seen.layers_speedup
    row = measure_point(point, own, 1000, 10, 0)
    assert row["flops_speedup"] == pytest.approx(point.seen.flops_speedup)  # the same rows here


# ---- as the paper would count ----------------------------------------------------------------------------------------


@pytest.fixture
def deep(monkeypatch):
    """A tiny model of 12 layers, taken for BERT-base: the accounting is of that alone."""
    monkeypatch.setattr(_tiny, "LAYERS", 12)
    model = model_of.__wrapped__(exits=(12,))
    monkeypatch.setattr(as_published, "SHAPE", (12, 32, model.backbone.config.intermediate_size))
    return model


def test_the_paper_counts_scores_on_entry_to_the_next_layer_and_the_last_by_eta_itself(deep):
    features = features_of(9)
    counted = as_published.count_as_published(deep, features, 4)
    survivors = collect_outputs(deep, features, 4).survivors
    assert counted.shape == survivors.shape == (9, 12)
    with torch.inference_mode():
        for row, feature in enumerate(features):
            hidden_BNH, context = deep.backbone.embed({"input_ids": torch.tensor([feature["input_ids"]])})
            for layer, predictor in enumerate(deep.reduction.predictors):
                logits = predictor(hidden_BNH)
                scores = logits.softmax(-1)[0]
                if layer:  # a peaked predictor may count fewer than were computed, never more
                    assert counted[row, layer - 1] == (scores > 1e-6).sum() <= survivors[row, layer - 1]
                if layer == 11:
                    assert counted[row, 11] == (scores > 0.25).sum()
                keep = scores >= 0.25 / len(scores)
                keep[0] = True
                hidden_BNH = deep.backbone.run_layer(layer, hidden_BNH[:, keep], context)
    assert counted[:, 11].sum() < survivors[:, 11].sum()  # the error
    lengths = np.array([feature["length"] for feature in features])
    assert as_published.speedup_as_published(deep, features, 4) == published_speedup(lengths, counted, 3)


def test_no_other_model_has_a_published_figure(deep, monkeypatch):
    features = features_of(3)
    assert as_published.speedup_as_published(model_of.__wrapped__(exits=(4, 12)), features, 4) is None
    assert (
        as_published.speedup_as_published(model_of.__wrapped__(exits=(12,), reduces=False), features, 4)
        is None
    )
    monkeypatch.undo()
    assert as_published.speedup_as_published(deep, features, 4) is None  # 32 wide


# ---- the stage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "rules"), [("adapler", ("fixed",)), ("adapler_early_exit", ("confidence",))]
)
def test_the_stage_tells_of_overhead_survivors_and_batches(tmp_path, monkeypatch, method, rules):
    folder = make_folder(tmp_path / "models")
    goal = {"cost": "flops", "max_loss": 60.0, "min_speedup": [1.01]}
    calibration, record, _, timings = run(folder, tmp_path, monkeypatch, method, rules, goal=goal)
    *chosen, overhead = record.rows
    assert [row.point for row in chosen] == [
        OperatingPoint.from_json(p) for p in calibration["operating_points"]
    ]
    assert (overhead.point.goal.kind, overhead.survival.kept, overhead.layers_speedup) == (
        "nothing_removed",
        1.0,
        1.0,
    )
    assert overhead.flops_speedup < 1.0
    assert all(row.survival.kept < 1.0 for row in chosen)
    assert all(sum(sum(c) for c in row.survival.kept_at_exit.values()) == 24 for row in record.rows)
    assert all(row.flops_speedup > row.layers_speedup for row in chosen)
    assert timings["rows"][-1]["operating_point"] == "nothing_removed"
    assert len(timings["rows"]) == len(record.rows)
    assert "published_speedup" not in record.metrics
    assert EvaluationRecord.from_json(json.loads(json.dumps(record.to_json())), "record") == record
