"""The offline sweep: curves from one pass equal a loop, and equal what the engine does at batch 1."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from adaptive_inference.calibration.answers import Answers
from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.calibration.curves import calibrate, exit_quality, sweep
from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Seen, Setting
from adaptive_inference.cost.flops import flops_by_exit
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.engine import Engine
from adaptive_inference.errors import UserError
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.evaluation.points import best_at_goals, check_agreement, headlines, measure_point
from adaptive_inference.evaluation.wallclock import WallClock
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.exits.outputs import ExitOutputs, collect_outputs
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.settings.protocol import Evaluation
from adaptive_inference.tasks.encode import collate
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.runs.records import PointRow

SCHEMA = Schema("toy", "classification", ("a", "b", "c"), "accuracy", 32)
RULES = ("confidence", "entropy", "uncertainty", "margin", "learning_to_exit", "fixed")
COUNTERS = ("patience", "patience_confidence", "voting")


def model_of(exits=(1, 2, 4), certainty=True, family="bert"):
    model = build_model(
        Backbone(weights=f"random:{family}", exits=list(exits)), SCHEMA, 0, certainty=certainty
    )
    generator = torch.Generator().manual_seed(exits[0])
    for head in [*(head.classifier for head in model.heads), *(model.certainty_heads or [])]:
        head.weight.data.normal_(0, 1.0, generator=generator)  # untrained heads would be sure of nothing
    return model.eval()


def features_of(rows=24, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 20, rows)
    return [
        {
            "input_ids": generator.integers(5, 150, n).tolist(),
            "attention_mask": [1] * int(n),
            "label": int(generator.integers(0, 3)),
            "id": 100 + i,
            "length": int(n),
        }
        for i, n in enumerate(lengths)
    ]


def toy_outputs(rows=200, exits=(1, 4, 6, 12), cost=None, seed=0, tiers=None) -> ExitOutputs:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    skill = np.linspace(0.5, 3, len(exits))[None, :, None] * np.eye(3)[labels][:, None]
    logits = (generator.normal(0, 1, (rows, len(exits), 3)) + skill).astype(np.float32)
    certainty = generator.uniform(0, 1, (rows, len(exits))).astype(np.float32)
    numbers = np.arange(rows)
    return ExitOutputs(logits, certainty, labels, exits, cost or exits, numbers, 5 + numbers % 9, tiers)


YARDSTICK = Yardstick("accuracy", "classification", 3, 12)


@pytest.mark.parametrize("name", [*RULES, *COUNTERS, "oracle"])
def test_a_curve_equals_a_loop_over_its_thresholds(name):
    outputs, rule = toy_outputs(), load_rule(name)
    generator = np.random.default_rng(1)
    yardstick = Yardstick(
        "accuracy",
        "classification",
        3,
        12,
        generator.integers(90, 110, 200),
        generator.integers(1, 99, (200, 4)).cumsum(1),
    )
    curve = sweep(rule, outputs, yardstick, rule.grid(3, 20, 4))
    for t, threshold in enumerate(curve.thresholds):
        exits = rule.exit_indices(outputs.logits, outputs.certainty, outputs.labels, np.array([threshold]))[0]
        answers = np.array([outputs.logits[i, k].argmax() for i, k in enumerate(exits)])
        assert curve.quality[t] == pytest.approx((answers == outputs.labels).mean())
        assert curve.layers_speedup[t] == pytest.approx(12 * 200 / sum(outputs.exits[k] for k in exits))
        spent = sum(yardstick.flops[i, k] for i, k in enumerate(exits))
        assert curve.flops_speedup[t] == pytest.approx(yardstick.full_flops.sum() / spent)


def test_both_ends_of_a_curve_are_the_first_exit_and_the_full_model():
    outputs = toy_outputs()
    forced = [item["quality"] for item in exit_quality(outputs, YARDSTICK)]
    for name in RULES:
        rule = load_rule(name)
        curve = sweep(rule, outputs, YARDSTICK, rule.grid(3, 50, 4))
        assert curve.layers_speedup[[0, -1]].tolist() == [12.0, 1.0]
        assert curve.quality[[0, -1]].tolist() == [forced[0], forced[-1]]
        assert (np.diff(curve.layers_speedup) <= 1e-12).all()


def test_a_curve_of_a_rule_that_counts_begins_as_early_as_it_can_and_ends_with_the_full_model():
    outputs = toy_outputs()
    for name, fastest in (("patience", 12 / 4), ("patience_confidence", 12 / 4), ("voting", 12.0)):
        curve = sweep(load_rule(name), outputs, YARDSTICK, load_rule(name).grid(3, 50, 4))
        assert curve.layers_speedup[0] <= fastest
        assert curve.layers_speedup[0] == fastest or name == "patience"  # exits may disagree
        assert curve.layers_speedup[-1] == 1.0
        assert (np.diff(curve.layers_speedup) <= 1e-12).all()


def test_a_cascade_costs_its_cumulative_layers_and_can_cost_more_than_the_full_model():
    outputs, rule = toy_outputs(cost=(1, 5, 11, 23)), load_rule("confidence")
    curve = sweep(rule, outputs, YARDSTICK, np.array([0.0, 2.0]))
    np.testing.assert_allclose(curve.layers_speedup, [12.0, 12 / 23])


def test_an_exit_with_all_equal_logits_is_still_counted_as_reached():
    logits = np.zeros((1, 2, 3), np.float32)
    outputs = ExitOutputs(logits, None, np.array([0]), (1, 12), (1, 12), np.array([7]), np.array([5]))
    assert sweep(load_rule("confidence"), outputs, YARDSTICK, np.array([0.2, 0.9])).exits.tolist() == [
        [0],
        [1],
    ]


@pytest.mark.parametrize("cascade", [False, True])
def test_the_engine_leaves_where_the_sweep_says_for_every_rule_and_threshold(cascade):
    model = MultiModel([model_of((k,), certainty=False) for k in (1, 2, 4)]) if cascade else model_of()
    features = features_of()
    raw = collect_outputs(model, features, batch_size=7)
    sure = (
        {} if raw.certainty is None else {"certainty_min": (0.1, 0.2, 0.0), "certainty_max": (0.8, 0.9, 1.0)}
    )
    calibrator = Calibrator((0.8, 1.5, 3.0), **sure)
    outputs = calibrate(raw, calibrator)
    examples = [collate([feature], 0) for feature in features]
    differing = left = 0
    for name in (*RULES, *COUNTERS):
        rule = load_rule(name)
        if rule.needs_certainty and cascade:
            continue
        for threshold in rule.grid(3, 6, 3):
            engine = Engine(model, rule, float(threshold), calibrator)
            decisions = [engine.run(example) for example in examples]
            exits = np.concatenate([decision.exit_indices for decision in decisions])
            answers = np.array([int(decision.logits.argmax()) for decision in decisions])
            differing += check_agreement(rule, float(threshold), outputs, exits, answers)["differing"]
            left += len(np.unique(exits)) > 1
    assert differing <= 2  # of some 600; each was within rounding of its threshold
    assert left > 10  # and the rules did spread the rows over the exits


def test_an_engine_that_leaves_elsewhere_is_found():
    outputs, rule = toy_outputs(), load_rule("confidence")
    exits = rule.exit_indices(outputs.logits, None, None, np.array([0.7]))[0]
    answers = outputs.logits[np.arange(200), exits].argmax(-1)
    agreement = check_agreement(rule, 0.7, outputs, exits, answers)
    assert agreement["rows"] == 200
    assert agreement["differing"] == 0
    exits[5] = (exits[5] + 1) % 4
    with pytest.raises(RuntimeError, match=r"\[5\]"):
        check_agreement(rule, 0.7, outputs, exits, answers)


@pytest.mark.parametrize("rounding", [1.2e-7, 1e-4])
def test_rounding_of_a_certainty_is_excused_in_its_exits_range_and_more_is_a_defect(rounding):
    """A range of 0.001 makes rounding 1000 times larger; the engine then leaves elsewhere than the sweep."""
    model, features = model_of(), features_of()
    raw = collect_outputs(model, features, batch_size=1)
    row = int(raw.certainty[:, 0].argsort()[12])
    middle = raw.certainty[row].astype(np.float64)
    calibrator = Calibrator((20.0,) * 3, tuple(middle - 5e-4), tuple(middle + 5e-4))  # logits of at most 1
    threshold = float(calibrator.certainty(raw.certainty[row, :1] + rounding / 2.0, 0)[0])
    rounded = replace(raw, certainty=raw.certainty.astype(np.float64) + rounding)
    candidate = Candidate("lte", model, calibrate(rounded, calibrator), calibrator, YARDSTICK)
    clock = WallClock(
        Engine(model, "fixed"), features, Evaluation(timed_examples=24, repeats=1, warmup=0, bootstrap=1), 0
    )
    engine = Engine(model, "learning_to_exit", threshold, calibrator)
    if rounding > 1e-6:
        with pytest.raises(RuntimeError, match=str(features[row]["id"])):
            clock.measure([(engine, candidate)])
        return
    ((_, agreement),) = clock.measure([(engine, candidate)])
    assert 1 <= agreement["differing"] <= agreement["near_threshold"] < 12


def test_the_batches_are_the_timed_rows_in_order_padded_to_their_longest_and_all_run_by_both():
    model, features = model_of(certainty=False), features_of(24)
    engine, ran = Engine(model, "confidence", 0.6), []
    clock = WallClock(
        Engine(model, "fixed"), features, Evaluation(timed_examples=20, repeats=2, warmup=1, bootstrap=1), 0
    )
    assert [len(batch["input_ids"]) for batch in clock.batches] == [16, 4]
    rows = [features[i]["input_ids"] for i in clock.rows]
    kept = [
        ids[mask.bool()].tolist()
        for batch in clock.batches
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert kept == rows
    assert [batch["input_ids"].shape[1] for batch in clock.batches] == [
        max(map(len, some)) for some in (rows[:16], rows[16:])
    ]
    assert not any("attention_mask" in example for example in clock.examples)
    for who in (engine, clock.baseline):
        answer = who.run
        who.run = lambda batch, answer=answer: (ran.append(len(batch["input_ids"])), answer(batch))[1]
    candidate = Candidate("method", model, collect_outputs(model, features, 8), engine.calibrator, YARDSTICK)
    ((row, _),) = clock.measure([(engine, candidate)])
    assert (ran.count(16), ran.count(4)) == (
        2 * 2 + 2,
        2 * 2,
    )  # two rounds of both; the first batch once untimed
    assert 0 < row["wallclock_speedup_batch16"] < np.inf


def test_outputs_are_in_row_order_whatever_the_batch_and_leave_dropout_off():
    model, features = model_of(), features_of()
    model.train()
    whole, single = collect_outputs(model, features, 24), collect_outputs(model, features, 1)
    assert not model.training
    scale = np.abs(whole.logits).max()
    np.testing.assert_allclose(whole.logits, single.logits, atol=1e-5 * scale)
    np.testing.assert_allclose(whole.certainty, single.certainty, atol=1e-5)
    assert whole.ids.tolist() == [feature["id"] for feature in features]
    assert whole.labels.tolist() == [feature["label"] for feature in features]
    assert (whole.logits.shape, whole.certainty.shape, whole.exits) == ((24, 3, 3), (24, 3), (1, 2, 4))


def candidate_of(model, tiers=None) -> Candidate:
    outputs = collect_outputs(model, features_of(), 8, tiers)
    calibrator = Calibrator.identity(3)
    yardstick = Yardstick.of(SCHEMA, model_of((4,), certainty=False), model, outputs)
    return Candidate("method", model, calibrate(outputs, calibrator), calibrator, yardstick)


def test_a_row_holds_interval_counts_and_tiers():
    tiers = [1 + i % 5 for i in range(24)]
    point = OperatingPoint(Goal("max_loss", 1.0), Setting("confidence", 0.6), True, Seen(0.5, 2.0))
    row = measure_point(point, candidate_of(model_of(), tiers), 1000, resamples=200, seed=0)
    assert row["quality_low"] <= row["quality"] <= row["quality_high"]
    assert row["quality_low"] < row["quality_high"]
    assert list(row["exit_counts"]) == ["1", "2", "4"]
    assert sum(row["exit_counts"].values()) == 24
    layers = sum(int(layer) * count for layer, count in row["exit_counts"].items())
    assert row["layers_speedup"] == pytest.approx(4 * 24 / layers)
    assert sum(item["count"] for item in row["tiers"].values()) == 24
    for layer, count in row["exit_counts"].items():
        assert sum(item["exit_counts"][layer] for item in row["tiers"].values()) == count
    mean = sum(item["count"] * item["mean_exit_layer"] for item in row["tiers"].values()) / 24
    assert mean == pytest.approx(layers / 24)
    assert row["point"] == point
    assert PointRow(**row).point.seen.quality == 0.5


def test_a_point_that_no_threshold_reaches_gives_a_row_without_figures():
    point = OperatingPoint(Goal("max_loss", 1.0), Setting("margin", None), False)
    row = PointRow(**measure_point(point, candidate_of(model_of()), 0, 10, 0))
    assert row.point.qualifies is False
    assert row.quality is row.layers_speedup is row.exit_counts is None


def test_a_member_alone_costs_its_own_layers_and_answers_as_the_forced_exit():
    cascade = candidate_of(MultiModel([model_of((k,), certainty=False) for k in (1, 2, 4)]))
    point = OperatingPoint(Goal("member", 2.0), Setting("fixed", 0.0, member=2), True, Seen(0.4, 2.0))
    forced = OperatingPoint(Goal("max_loss", 1.0), Setting("fixed", 1.0), True, Seen(0.4, 4 / 3))
    member = cascade.answering(point)
    assert member.model is cascade.model.members[1]
    assert cascade.answering(forced) is cascade
    row = measure_point(point, member, 0, 0, 0)
    assert (row["method"], row["layers_speedup"], row["exit_counts"]) == ("static_2", 2.0, {"2": 24})
    assert row["quality"] == exit_quality(cascade.outputs, cascade.yardstick)[1]["quality"]
    assert row["flops_speedup"] == pytest.approx(2.0, rel=0.01)
    assert row["quality_low"] is None
    in_the_cascade = measure_point(forced, cascade, 0, 0, 0)
    assert in_the_cascade["layers_speedup"] == pytest.approx(4 / 3)


def test_a_cascade_spends_what_its_members_spend_alone():
    models = [model_of((k,), certainty=False) for k in (1, 2, 4)]
    cascade = candidate_of(MultiModel(models))
    for k, model in enumerate(models):
        alone = flops_by_exit(model, cascade.outputs.lengths)
        np.testing.assert_array_equal(cascade.yardstick.alone(k).flops, alone)


def test_a_rule_that_reads_the_certainty_heads_pays_for_them():
    candidate = candidate_of(model_of())
    plain, sure = (
        candidate.yardstick.flops_under(load_rule(name)) for name in ("margin", "learning_to_exit")
    )
    np.testing.assert_array_equal(plain, flops_by_exit(candidate.model, candidate.outputs.lengths))
    assert (np.diff(sure - plain, axis=1) > 0).all()
    assert candidate_of(model_of(certainty=False)).yardstick.certainty_flops is None


def test_the_best_rule_at_a_goal_is_told_by_calibration_and_its_figures_by_evaluation():
    def row(rule, goal, seen, quality, attainable=True):
        point = OperatingPoint(goal, Setting(rule, 0.5), seen is not None, seen)
        figures = {"quality": quality, "layers_speedup": quality + 1, "flops_speedup": quality + 2}
        body = {"method": "m", "point": point, "attainable": attainable}
        return body | (figures if seen else {})

    loss, speed, risk = Goal("max_loss", 1.0), Goal("min_speedup", 2.0), Goal("risk", 0.1)
    rows = [
        row("margin", loss, Seen(0.9, 2.0), 0.1),
        row("entropy", loss, Seen(0.8, 3.0), 0.2),  # of quality: the fastest
        row("oracle", loss, Seen(1.0, 9.0), 0.3, attainable=False),
        row("margin", speed, Seen(0.9, 2.0), 0.4),  # of speed: the best
        row("entropy", speed, Seen(0.8, 3.0), 0.5),
        row("margin", risk, None, 0.0),
        row("fixed", Goal("member", 2.0), Seen(0.9, 6.0), 0.6),
    ]
    assert best_at_goals(rows) == {"max_loss_1": rows[1], "min_speedup_2": rows[3]}
    timings = [{"method": "m", "rule": "entropy", "operating_point": "max_loss_1", "wallclock_speedup": 1.5}]
    metrics, clock = headlines(rows, rows[1]["point"], timings)
    assert clock == {"wallclock_speedup": 1.5, "max_loss_1_wallclock_speedup": 1.5}
    assert {name: metrics[f"{name}quality"] for name in ("", "max_loss_1_", "min_speedup_2_")} == {
        "": 0.2, "max_loss_1_": 0.2, "min_speedup_2_": 0.4
    }  # fmt: skip
    assert len(metrics) == 9
    metrics, clock = headlines(rows, None, [])
    assert (metrics["quality"], metrics["flops_speedup"], clock) == (None, None, {})
    in_flops = [row("margin", Goal("max_loss", 1.0, "flops"), Seen(0.9, 2.0, 1.5), 0.1),
                row("entropy", Goal("max_loss", 1.0, "flops"), Seen(0.9, 3.0, 1.2), 0.2)]  # fmt: skip
    assert best_at_goals(in_flops)["max_loss_1"] is in_flops[0]


# ---- answers on disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("certainty", [False, True])
@pytest.mark.parametrize("tiers", [None, [1 + i % 5 for i in range(24)]])
def test_answers_come_back_bit_by_bit_from_a_file_of_equal_bytes(tmp_path, certainty, tiers):
    model, full = model_of(certainty=certainty), model_of((4,), certainty=False)
    for name in ("a", "b"):
        outputs = collect_outputs(model, features_of(), 8, tiers)
        yardstick = Yardstick.of(SCHEMA, full, model, outputs)
        made = Answers(outputs, yardstick, certainty, {"model": "0", "data": "1"})
        made.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = Answers.load(tmp_path / "a")
    assert (back.cascade, back.made_from) == (made.cascade, made.made_from)
    for wanted, found in ((outputs, back.outputs), (yardstick, back.yardstick)):
        for field in fields(wanted):
            one, other = getattr(wanted, field.name), getattr(found, field.name)
            assert type(one) is type(other)
            assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
            np.testing.assert_array_equal(one, other)


def test_a_long_pass_tells_how_far_it_is(monkeypatch, caplog):
    caplog.set_level("INFO", "adaptive_inference")
    collect_outputs(model_of(), features_of(), 8)
    assert caplog.messages == []
    monkeypatch.setattr("adaptive_inference.exits.outputs.TELL_EVERY", 0.0)
    count = len(features_of())
    collect_outputs(model_of(), features_of(), 8)
    assert caplog.messages == [f"{n} of {count} rows answered, the longest first" for n in range(0, count, 8)]


@pytest.mark.parametrize("content", [None, b"", b"no answers"])
def test_a_file_without_answers_is_refused(tmp_path, content):
    file = tmp_path / "answers.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"answers\.safetensors holds no answers .*run its stage again"):
        Answers.load(file)


def test_weights_are_no_answers(tmp_path):
    model_of().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds no answers"):
        Answers.load(next(tmp_path.glob("*.safetensors")))


def test_wrong_rule_for_model_or_task_is_refused_before_any_figure():
    outputs = toy_outputs()
    bare = replace(outputs, certainty=None)
    with pytest.raises(UserError, match="certainty"):
        sweep(load_rule("learning_to_exit"), bare, YARDSTICK, np.array([0.5]))
    with pytest.raises(UserError, match="regression"):
        sweep(load_rule("entropy"), outputs, Yardstick("pearson", "regression", 1, 12), np.array([0.5]))
