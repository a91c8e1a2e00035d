"""Exit rules: boundaries are exact, and the offline sweep answers as the online rule does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import ExitRule, load_rule

SCORE_RULES = ("confidence", "entropy", "uncertainty", "margin", "learning_to_exit")
COUNTERS = (
    "patience", "patience_confidence", "patience_confidence(patience=1)", "patience_confidence(patience=3)", "voting",
)  # fmt: skip
RULES = (*SCORE_RULES, "fixed", *COUNTERS)
COUNTS_EXITS = ("patience", "voting")  # their thresholds are whole numbers


def online_exits(rule: ExitRule, logits: np.ndarray, certainty: np.ndarray, threshold: float) -> np.ndarray:
    """Ask the online rule exit after exit, with only the rows that are still there, as an engine does."""
    rows = np.arange(len(logits))
    left = np.full(len(logits), logits.shape[1] - 1)
    online = rule.online(threshold)
    for k in range(logits.shape[1] - 1):
        leave = online.leave(k, logits[rows, k], certainty[rows, k])
        left[rows[leave]] = k
        online.select(np.flatnonzero(~leave))
        rows = rows[~leave]
        if not len(rows):
            break
    return left


def case(seed: int, rows: int = 40, exits: int = 4, classes: int = 3, scale: float = 3.0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, scale, (rows, exits, classes)).astype(np.float32)
    return (
        logits.astype(np.float64),
        generator.uniform(0, 1, (rows, exits)),
        generator.integers(0, classes, rows),
    )


@pytest.mark.parametrize("name", RULES)
@given(
    logits=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(2, 9)),
        # few distinct values: ties between classes and between score and threshold are the rule, not the exception
        elements=st.sampled_from([-100.0, -3.0, -1.0, 0.0, 0.5, 1.0, 3.0, 100.0])
        | st.floats(-30, 30, width=32),
    ),
    at=st.integers(0, 5),
    threshold=st.floats(-0.5, 3),
    take_score=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_online_equals_offline(name, logits, at, threshold, take_score):
    rule = load_rule(name)
    certainty = 1 / (1 + np.exp(-logits[..., 0].astype(np.float64)))
    if name in COUNTS_EXITS:
        threshold = float(1 + at)
    elif take_score and name.startswith("patience_confidence"):
        scores = load_rule("uncertainty").score(logits.astype(np.float64)).ravel()
        threshold = float(scores[at % len(scores)])
    elif take_score and name != "fixed":  # a threshold that is exactly some row's score
        scores = rule.score(logits.astype(np.float64), certainty).ravel()
        threshold = float(scores[at % len(scores)])
    offline = rule.exit_indices(logits, certainty, None, np.array([threshold]))[0]
    np.testing.assert_array_equal(offline, online_exits(rule, logits, certainty, threshold))


@pytest.mark.parametrize("name", RULES)
def test_online_answers_a_row_alone_as_in_a_batch(name):
    rule, (logits, certainty, _) = load_rule(name), case(1)
    threshold = 2.0 if name in COUNTS_EXITS else 0.6
    together = online_exits(rule, logits, certainty, threshold)
    alone = [online_exits(rule, logits[[i]], certainty[[i]], threshold)[0] for i in range(len(logits))]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("name", [*RULES, "oracle"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("count", [2, 11, 100])
def test_grid_runs_from_the_fastest_to_full_depth_and_mean_layers_never_fall(name, classes, count):
    rule, (logits, certainty, labels) = load_rule(name), case(2, classes=classes)
    logits[:5] = 0.0  # exact ties at every exit
    logits[5:10] = [900.0] + [0.0] * (classes - 1)  # probability rounds to exactly 1
    certainty[:5], certainty[5:10] = 0.0, 1.0
    grid = rule.grid(classes, count, logits.shape[1])
    assert len(grid) <= max(count, logits.shape[1])
    exits = rule.exit_indices(logits, certainty, labels, grid)
    assert (np.diff(exits.mean(1)) >= 0).all()
    if name != "oracle":
        alike = np.zeros_like(logits)  # undecided at every exit: as fast as a rule that counts can be
        fastest = {"patience": 1, "patience_confidence": 1, "patience_confidence(patience=3)": 2}.get(name, 0)
        assert (rule.exit_indices(alike, certainty, labels, grid)[0] == fastest).all()
        assert name == "patience" or (exits[0] == fastest).all()
        assert (exits[-1] == logits.shape[1] - 1).all()


@pytest.mark.parametrize("classes", range(2, 40))
def test_confidence_at_one_over_c_sends_exact_ties_out_at_the_first_exit(classes):
    rule = load_rule("confidence")
    logits = np.full((3, 4, classes), 0.1, np.float32) * np.array([1, 7, -3], np.float32)[:, None, None]
    assert (rule.exit_indices(logits, None, None, np.array([1 / classes])) == 0).all()
    assert rule.grid(classes, 50, 4)[0] == 1 / classes
    assert rule.grid(classes, 50, 4)[-1] > 1


def test_confidence_equal_to_the_threshold_leaves_and_above_one_never_does():
    rule = load_rule("confidence")
    logits = np.array([[[50.0, -50.0], [0.0, 0.0], [0.0, 1.0]]])
    assert rule.score(logits)[0, 0] == 1.0
    assert rule.exit_indices(logits, None, None, np.array([1.0, np.nextafter(1.0, 2.0)])).tolist() == [
        [0],
        [2],
    ]


def test_entropy_is_strict_and_uncertainty_is_not():
    logits = np.array([[[1.0, 1.0], [0.0, 0.0], [5.0, 0.0]]])
    entropy, uncertainty = load_rule("entropy"), load_rule("uncertainty")
    score = entropy.score(logits)[0, 0]
    assert np.isclose(score, np.log(2))
    assert entropy.exit_indices(logits, None, None, np.array([score, np.nextafter(score, 9)])).tolist() == [
        [2],
        [0],
    ]
    assert uncertainty.exit_indices(logits, None, None, np.array([1.0, 0.999])).tolist() == [[0], [2]]
    certain = np.array([[[1000.0, 0.0], [0.0, 0.0]]])
    assert entropy.exit_indices(certain, None, None, np.array([0.0])).tolist() == [[1]]
    assert uncertainty.exit_indices(certain, None, None, np.array([0.0])).tolist() == [[0]]


def test_scores_equal_their_textbook_formulas():
    logits, _, _ = case(3, classes=5)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    top = np.sort(p, -1)
    entropy = -(p * np.log(p)).sum(-1)
    np.testing.assert_allclose(load_rule("confidence").score(logits), top[..., -1])
    np.testing.assert_allclose(load_rule("margin").score(logits), top[..., -1] - top[..., -2], atol=1e-12)
    np.testing.assert_allclose(load_rule("entropy").score(logits), entropy, atol=1e-12)
    np.testing.assert_allclose(load_rule("uncertainty").score(logits), entropy / np.log(5), atol=1e-12)


def test_confidence_sweep_equals_a_loop_over_rows_exits_and_thresholds():
    logits, _, _ = case(4, rows=30)
    rule, thresholds = load_rule("confidence"), np.array([0.9, 0.34, 0.6, 1.01])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [[next((k for k in range(3) if row[k].max() >= t), 3) for row in p] for t in thresholds]
    assert rule.exit_indices(logits, None, None, thresholds).tolist() == expected


def test_oracle_takes_the_first_right_exit_and_cannot_predict():
    rule, (logits, _, labels) = load_rule("oracle"), case(5)
    exits = rule.exit_indices(logits, None, labels, np.zeros(1))[0]
    right = logits.argmax(-1) == labels[:, None]
    assert (right[np.arange(len(labels)), exits] == right.any(1)).all()
    assert (exits == [next((k for k in range(3) if row[k]), 3) for row in right]).all()
    assert not rule.attainable
    with pytest.raises(UserError, match="labels"):
        rule.online(0.0)


def test_fixed_without_threshold_is_full_depth():
    logits, certainty, _ = case(6)
    rule = load_rule("fixed")
    assert (online_exits(rule, logits, certainty, None) == 3).all()
    assert rule.exit_indices(logits, None, None, np.array([0, 2, 99])).tolist() == [
        [0] * 40,
        [2] * 40,
        [3] * 40,
    ]


def test_near_threshold_marks_the_rows_whose_score_lies_on_it():
    logits, certainty, _ = case(7)
    rule = load_rule("confidence")
    threshold = float(rule.score(logits)[11, 1])
    assert rule.near_threshold(logits, certainty, threshold)[11]
    assert rule.near_threshold(logits, certainty, threshold).sum() < 5
    assert not load_rule("fixed").near_threshold(logits, certainty, 1.0).any()


def test_a_rule_refuses_a_task_or_model_it_cannot_work_with():
    with pytest.raises(UserError, match="confidence"):
        load_rule("confidnce")
    with pytest.raises(UserError, match="regression"):
        load_rule("confidence").check("regression", has_certainty=False)
    with pytest.raises(UserError, match="certainty heads"):
        load_rule("learning_to_exit").check("classification", has_certainty=False)
    load_rule("fixed").check("regression", has_certainty=False)


def test_one_exit_always_answers():
    logits, certainty, labels = case(8, exits=1)
    for name in (*RULES, "oracle"):
        rule = load_rule(name)
        assert (rule.exit_indices(logits, certainty, labels, rule.grid(3, 5, 1)) == 0).all()


def test_dropping_rows_between_exits_keeps_the_state_of_the_others():
    logits, certainty, _ = case(9)
    rule = load_rule("margin")
    order = np.random.default_rng(0).permutation(len(logits))
    plain = online_exits(rule, logits, certainty, 0.4)
    np.testing.assert_array_equal(online_exits(rule, logits[order], certainty[order], 0.4), plain[order])


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        ("confidence", 95), ("confidence", -0.1), ("margin", 1.5), ("learning_to_exit", 2), ("uncertainty", 5),
        ("uncertainty", float("nan")), ("fixed", -1), ("fixed", 0.5),
    ],
)  # fmt: skip
def test_a_threshold_in_other_units_is_refused_and_every_one_of_a_grid_taken(rule, threshold):
    with pytest.raises(UserError, match=f"exit rule '{rule}'"):
        load_rule(rule).check_threshold(threshold, 2)
    for usual in load_rule(rule).grid(2, 20, 6):
        load_rule(rule).check_threshold(float(usual), 2)
