"""The recommendation's promise: the choice made again on resampled rows, and what it is judged by."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.calibration.risk_control import fewest_rows
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.selection.candidates import Candidates, Family
from adaptive_inference.selection.drift import two_sample_test
from adaptive_inference.selection.families import timed_families_of
from adaptive_inference.selection.pool import Pool
from adaptive_inference.selection.promise import NONE, Resampled

ROWS = 300


def family(answers, speedup, rule="confidence", members=None):
    answers, count = np.asarray(answers, dtype=np.int16), len(speedup)
    members = np.zeros(count, dtype=np.int64) if members is None else np.asarray(members)
    speedup = np.asarray(speedup, dtype=float)
    return Family(rule, np.linspace(1, 0, count), members, answers, speedup, speedup)


def candidates(method, labels, *families, metric="accuracy"):
    labels = np.asarray(labels)
    return Candidates(method, metric, 2, labels, np.arange(len(labels)), families)


def world(generator, methods=4, rows=ROWS, thresholds=20, cost_of_speed=3.0):
    """Draw a full model and methods whose thresholds lose more, the faster they are: their true losses are known.

    An answer that is right is 1. Each method's answers are those of the full model, but for rows that are lost, or won, each
    with a probability that grows with speed.
    """
    full = (generator.random(rows) < 0.95).astype(int)
    speedup = np.linspace(1.05, 2.5, thresholds)
    others, truths = [], []
    for k in range(methods):
        lost = 0.01 * cost_of_speed * (speedup - 1) * generator.uniform(0.6, 1.4)
        won = 0.005 * np.ones(thresholds)
        level = generator.random(rows)
        wrong = level < lost[:, None]
        right = level > 1 - won[:, None]
        answers = np.where(wrong, 0, np.where(right, 1, full))
        others.append(candidates(f"method{k}", np.ones(rows), family(answers, speedup)))
        truths.append(100 * (0.95 * lost - 0.05 * won))
    pool = Pool.of(candidates("full", np.ones(rows), family(full[None], [1.0], "fixed")), others, "flops")
    return pool, np.concatenate(truths)


def test_candidates_are_read_as_they_were_written(tmp_path):
    one = candidates(
        "sweet",
        [0, 1, 1],
        family([[0, 1, 0], [1, 1, 1]], [1.2, 2.0]),
        family([[0, 0, 0]], [3.0], "fixed", [2]),
    )
    one.save(tmp_path / "a/sweet.safetensors")
    again = Candidates.load(tmp_path / "a/sweet.safetensors")
    again.save(tmp_path / "b/sweet.safetensors")
    assert (tmp_path / "a/sweet.safetensors").read_bytes() == (tmp_path / "b/sweet.safetensors").read_bytes()
    assert again.method == "sweet"
    assert again.families[1].setting(0).member == 2
    assert again.families[0].setting(1).member is None
    np.testing.assert_array_equal(again.families[0].answers, one.families[0].answers)
    (tmp_path / "c").write_bytes(b"nothing")
    with pytest.raises(UserError, match="holds no candidates"):
        Candidates.load(tmp_path / "c")


def test_a_pool_keeps_what_is_faster_than_the_full_model_once_and_orders_it():
    full = candidates("full", [0, 1], family([[0, 1]], [1.0], "fixed"))
    twice = family([[0, 1], [0, 0], [0, 0], [1, 1]], [1.0, 2.0, 2.0, 1.5])
    pool = Pool.of(full, [candidates("sweet", [0, 1], twice)], "flops")
    assert pool.speedup.tolist() == [1.5, 2.0]
    assert pool.setting(1).threshold == pytest.approx(2 / 3)  # the first of two that are one
    np.testing.assert_allclose(pool.losses(np.arange(2)), [50.0, 50.0])


def test_a_pool_by_the_clock_ranks_by_time_and_finds_the_best_within_a_speed():
    full = candidates("full", [0, 1], family([[0, 1]], [1.0], "fixed"))
    both = family([[0, 1], [0, 0], [0, 1]], [3.0, 4.0, 5.0])
    timed = replace(both, clock_speedup=np.array([1.2, 2.5, 0.9]))
    pool = Pool.of(full, [candidates("sweet onnx_int8", [0, 1], timed)], "clock")
    assert pool.speedup.tolist() == [
        1.2,
        2.5,
    ]  # in layers the third is the fastest, here it is slower than the full model
    assert pool.best_within(1.0) == 0
    assert pool.best_within(2.0) == 1
    assert pool.best_within(3.0) is None


def test_time_of_a_model_in_a_deployment_is_the_mean_over_the_exits_that_its_rows_take():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(40, 3, 2))
    outputs = ExitOutputs(
        logits, None, np.zeros(40, dtype=int), (1, 2, 4), (1, 2, 4), np.arange(40), np.full(40, 5)
    )
    flops = np.repeat([[1.0, 2.0, 4.0]], 40, axis=0)
    yardstick = Yardstick("accuracy", "classification", 2, 4, flops[:, -1], flops)
    times = np.array([0.1, 0.3, 0.5])
    found = timed_families_of(
        {"confidence": load_rule("confidence"), "oracle": load_rule("oracle")}, outputs, yardstick, 9, times
    )
    (own,) = found  # the oracle cannot be run
    rule = load_rule("confidence")
    exits = rule.exit_indices(logits, None, outputs.labels, own.thresholds)
    np.testing.assert_allclose(1 / own.clock_speedup, times[exits].mean(1))


def test_methods_that_answered_other_rows_are_refused():
    full = candidates("full", [0, 1], family([[0, 1]], [1.0], "fixed"))
    other = Candidates("sweet", "accuracy", 2, np.array([0, 1]), np.array([4, 5]), full.families)
    with pytest.raises(UserError, match="calibrated on other rows"):
        Pool.of(full, [other], "layers")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_smoothing_lets_loss_only_grow_with_speed_and_keeps_each_familys_mean(seed):
    pool, _ = world(np.random.default_rng(seed))
    resampled = Resampled(pool, 20, seed)
    for start, end in pool.families:
        assert (np.diff(resampled.smooth[:, start:end], axis=1) >= -1e-9).all()
        np.testing.assert_allclose(
            resampled.smooth[:, start:end].mean(1), resampled.inside[:, start:end].mean(1), atol=1e-4
        )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 3.0), st.floats(0.5, 0.95))
def test_what_is_chosen_is_the_fastest_within_goal_and_margin_but_for_ties(seed, goal, confidence):
    pool, _ = world(np.random.default_rng(seed))
    resampled = Resampled(pool, 50, seed)
    promise = resampled.promise(goal, confidence)
    fit = np.flatnonzero(resampled.smooth_all[0] <= goal - promise.margin + 1e-7)
    if promise.chosen == NONE:
        assert len(fit) == 0 or fewest_rows(goal, confidence) > ROWS
    else:
        assert promise.chosen in fit
        assert pool.speedup[promise.chosen] >= pool.speedup[fit].max() / 1.01 - 1e-9
    assert promise.probability >= confidence
    assert sum(promise.shares.values()) == pytest.approx(1.0)
    assert promise.low <= promise.high


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 2.0))
def test_a_higher_confidence_asks_for_no_smaller_margin(seed, goal):
    resampled = Resampled(world(np.random.default_rng(seed))[0], 50, seed)
    margins = [resampled.promise(goal, confidence).margin for confidence in (0.5, 0.7, 0.9, 0.99)]
    assert margins == sorted(margins)


def test_a_metric_that_is_no_mean_over_rows_is_computed_on_the_resampled_rows():
    pool, _ = world(np.random.default_rng(3), methods=2, thresholds=5)
    labels = np.random.default_rng(4).integers(0, 2, ROWS)
    pool = Pool(
        "f1", 2, labels, pool.full, pool.answers, pool.speedup, pool.families, pool.names, pool.origins
    )
    resampled = Resampled(pool, 5, 0)
    for b, counts in enumerate(resampled.counts):
        rows = np.repeat(np.arange(ROWS), counts)
        np.testing.assert_allclose(resampled.inside[b], pool.losses(rows))
        outside = np.flatnonzero(counts == 0)
        np.testing.assert_allclose(resampled._outside(b, np.array([1, 3])), pool.losses(outside)[[1, 3]])


def test_accuracy_by_matrix_product_is_accuracy_of_the_resampled_rows():
    pool, _ = world(np.random.default_rng(5))
    resampled = Resampled(pool, 5, 0)
    for b, counts in enumerate(resampled.counts):
        rows = np.repeat(np.arange(ROWS), counts)
        np.testing.assert_allclose(resampled.inside[b], pool.losses(rows), atol=1e-4)
        outside = np.flatnonzero(counts == 0)
        np.testing.assert_allclose(
            resampled._outside(b, np.array([1, 7])), pool.losses(outside)[[1, 7]], atol=1e-4
        )


def test_what_loses_nothing_is_promised_at_once_and_what_loses_much_never():
    labels = np.ones(ROWS)
    full = candidates("full", labels, family(np.ones((1, ROWS)), [1.0], "fixed"))
    free = candidates("free", labels, family(np.ones((2, ROWS)), [1.5, 3.0]))
    lossy = candidates("lossy", labels, family(np.arange(ROWS)[None] % 2, [9.0]))
    promise = Resampled(Pool.of(full, [free, lossy], "flops")).promise(1.0, 0.8)
    assert (promise.chosen, promise.margin, promise.probability, promise.loss) == (1, 0.0, 1.0, 0.0)
    assert promise.shares == {("free", "confidence"): 1.0}
    assert Resampled(Pool.of(full, [lossy], "flops")).promise(1.0, 0.8).chosen == NONE
    assert Resampled(Pool.of(full, [], "flops")).promise(1.0, 0.8).chosen == NONE


def test_ties_in_speed_go_to_the_lower_loss():
    labels = np.ones(ROWS)
    one_wrong = np.ones(ROWS)
    one_wrong[0] = 0
    full = candidates("full", labels, family(np.ones((1, ROWS)), [1.0], "fixed"))
    fast = candidates("fast", labels, family(one_wrong[None], [2.001]))
    good = candidates("good", labels, family(np.ones((1, ROWS)), [2.0]))
    pool = Pool.of(full, [fast, good], "flops")
    assert pool.name(Resampled(pool).promise(1.0, 0.8).chosen) == ("good", "confidence")


def test_the_promise_holds_where_the_fastest_that_keeps_the_goal_does_not():
    """In a world whose true losses are known, over 100 draws of calibration rows."""
    held, old = [], []
    for seed in range(100):
        pool, truth = world(np.random.default_rng(seed), methods=6, rows=500)
        chosen = Resampled(pool, 100, seed).promise(1.0, 0.8).chosen
        held.append(chosen == NONE or truth[chosen] <= 1.0)
        fit = np.flatnonzero(pool.losses(np.arange(500)) <= 1.0)
        old.append(truth[fit[pool.speedup[fit].argmax()]] <= 1.0)
    assert np.mean(old) < 0.5
    assert np.mean(held) > 0.75


def outputs(generator, rows, shift=0.0):
    logits = generator.normal(size=(rows, 2, 3)).astype(np.float32)
    lengths = generator.integers(5, 40, rows) + int(shift)
    labels = generator.integers(0, 3, rows)
    return ExitOutputs(logits, None, labels, (1, 2), (1, 2), np.arange(rows), lengths)


def test_a_classifier_tells_other_texts_apart_and_not_texts_that_are_alike():
    generator = np.random.default_rng(0)
    base = outputs(generator, 400)
    alike = two_sample_test(base, outputs(generator, 300), "classification")
    longer = two_sample_test(base, outputs(generator, 300, shift=20), "classification")
    assert alike["p_value"] > 0.01
    assert abs(alike["auc"] - 0.5) < 0.1
    assert longer["p_value"] < 1e-6
    assert longer["auc"] > 0.7
    assert longer["features"] == ["length", "confidence at exit 1", "confidence at exit 2"]


def test_too_few_rows_promise_nothing_since_they_cannot_show_a_rare_loss():
    for rows, chosen in ((160, NONE), (161, 0)):
        full = candidates("full", np.ones(rows), family(np.ones((1, rows)), [1.0], "fixed"))
        free = candidates("free", np.ones(rows), family(np.ones((1, rows)), [2.0]))
        assert Resampled(Pool.of(full, [free], "flops")).promise(1.0, 0.8).chosen == chosen
    assert [fewest_rows(1.0, 0.8), fewest_rows(1.0, 0.9), fewest_rows(0.0, 0.8)] == [161, 230, 1]


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_a_handful_of_rows_gives_numbers(metric):
    labels = np.array([0, 1, 1, 0, 1])
    full = candidates("full", labels, family(labels[None], [1.0], "fixed"), metric=metric)
    other = candidates("other", labels, family([[0, 1, 1, 0, 0]], [2.0]), metric=metric)
    promise = Resampled(Pool.of(full, [other], "flops")).promise(60.0, 0.5)
    assert np.isfinite([promise.loss, promise.low, promise.high, promise.probability]).all()


def test_what_was_lost_is_of_the_resamples_that_chose_something():
    pool, _ = world(np.random.default_rng(1), methods=1, thresholds=3, cost_of_speed=2.0)
    promise = Resampled(pool, 200, 1).promise(1.0, 0.5)
    assert promise.shares.get(("full", ""), 0.0) == pytest.approx(promise.kept_full)
    assert promise.chosen == NONE or promise.loss >= promise.low


def test_a_split_of_one_row_is_not_tested_for_drift():
    generator = np.random.default_rng(0)
    assert two_sample_test(outputs(generator, 1), outputs(generator, 20), "classification") is None
