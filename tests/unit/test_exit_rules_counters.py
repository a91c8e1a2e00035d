"""Rules that count exits: the worked numbers of the PABEE/LeeBERT note, their options, and what is refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exit_rules import case, online_exits

from adaptive_inference.calibration.curves import sweep
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.errors import UserError
from adaptive_inference.evaluation.points import check_agreement
from adaptive_inference.exit_rules import load_rule, load_rules
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_pipeline.reporting.names import rule_key, rule_name


def of_labels(*rows, classes=2):
    """Return logits (N, E, C) whose largest are these labels."""
    return np.eye(classes)[np.array(rows)]


def of_scores(*rows):
    """Return the outputs (N, E, 1) of a regression."""
    return np.array(rows, dtype=np.float64)[..., None]


def layers(name, logits, *thresholds):
    """Return the exits (from 1) of the first row at some thresholds; online must agree."""
    rule = load_rule(name)
    offline = rule.exit_indices(logits, None, None, np.array(thresholds, dtype=np.float64))
    for threshold, expected in zip(thresholds, offline, strict=True):
        sure = np.zeros(logits.shape[:2])
        np.testing.assert_array_equal(online_exits(rule, logits, sure, threshold), expected)
    return (offline[:, 0] + 1).tolist()


# ---- patience: properties 1 to 6 of the note, section 8


def test_patience_on_the_worked_label_sequences():
    """Property 1."""
    assert layers("patience", of_labels([0, 1, 1, 1, 0, 0, 0, 0]), 2, 3) == [4, 8]
    assert layers("patience", of_labels([0, 1, 0, 1, 0, 1, 0, 1]), 1) == [8]
    assert layers("patience", of_labels([0, 0, 1, 1, 1, 1, 1, 1]), 7) == [8]
    # one exit more shows that t = 3 fires at exit 8, and that a counter of 5 is no 7
    assert layers("patience", of_labels([0, 1, 1, 1, 0, 0, 0, 0, 1]), 3) == [8]
    assert layers("patience", of_labels([0, 0, 1, 1, 1, 1, 1, 1, 1, 1]), 5, 6, 7, 8) == [8, 9, 10, 10]


@pytest.mark.parametrize("exits", range(1, 9))
def test_constant_labels_leave_after_the_patience_and_patience_0_is_full_depth(exits):
    """Property 2."""
    logits = of_labels([1] * exits)
    assert layers("patience", logits, *range(1, 11)) == [min(t + 1, exits) for t in range(1, 11)]
    assert layers("patience", logits, 0, np.inf) == [exits, exits]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_more_patience_never_leaves_earlier_and_equals_a_loop(labels):
    """Property 4, and the definition as the note writes it."""
    exits = layers("patience", of_labels(labels, classes=3), *range(1, 13))
    assert exits == sorted(exits)
    for t, found in zip(range(1, 13), exits, strict=True):
        counter, previous = 0, None
        for layer, label in enumerate(labels, 1):  # noqa: B007 - read after the loop
            counter = counter + 1 if label == previous else 0
            previous = label
            if counter == t:
                break
        assert found == layer


def test_a_larger_threshold_of_a_score_never_leaves_later_or_earlier_than_its_direction_says():
    """Property 4 for entropy, uncertainty, confidence and patience_confidence."""
    logits, _, _ = case(1, exits=6)
    for name, sign in (("entropy", -1), ("uncertainty", -1), ("patience_confidence", -1), ("confidence", 1)):
        exits = load_rule(name).exit_indices(logits, None, None, np.linspace(0.01, 1.2, 40))
        assert (sign * np.diff(exits, axis=0) >= 0).all()
        assert len(np.unique(exits)) > 2


def test_scores_agree_strictly_within_the_tolerance():
    """Property 5."""
    scores = of_scores([1.00, 1.05, 1.30, 1.39, 1.40, 9.0])
    assert layers("patience(tolerance=0.1)", scores, 2) == [5]
    assert layers("patience(tolerance=0.0)", scores, 1) == [6]
    assert layers("patience(tolerance=0.0)", of_scores([1.0, 1.0, 1.0]), 1) == [3]  # strict: 0 < 0 is false
    assert layers("patience(tolerance=0.5)", of_scores([0.0, 0.5, 9.0]), 1) == [3]
    assert layers("patience(tolerance=0.5)", of_scores([0.0, np.nextafter(0.5, 0.0), 9.0]), 1) == [2]
    assert layers("patience", of_scores([0.0, 0.09, 0.18, 0.27]), 3) == [4]  # a slow drift passes


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.3]), min_size=5, max_size=5), min_size=1, max_size=6
    ),
    st.integers(0, 6),
)
def test_online_equals_offline_for_scores(rows, t):
    layers("patience", of_scores(*rows), t)  # asserts it
    layers("patience(tolerance=0.05)", of_scores(*rows), t)


def test_counters_are_of_rows_not_of_the_batch():
    """Property 6: a counter that all rows share would keep row A until exit 3."""
    logits = of_labels([0, 0, 0, 0], [0, 1, 1, 1])
    assert online_exits(load_rule("patience"), logits, np.zeros((2, 4)), 1.0).tolist() == [1, 2]


@pytest.mark.parametrize(
    "name", ["patience", "voting", "patience_confidence", "patience_confidence(patience=3)"]
)
@pytest.mark.parametrize("at", [1.0, 2.0, 3.0])
def test_rows_that_stay_in_a_shrinking_batch_keep_their_counters(name, at):
    rule, (logits, certainty, _) = load_rule(name), case(3, rows=60, exits=7, classes=4)
    threshold = {"patience": at, "voting": at + 1}.get(name, 0.2 + 0.15 * at)
    offline = rule.exit_indices(logits, None, None, np.array([threshold]))[0]
    assert len(np.unique(offline)) > 2
    order = np.random.default_rng(0).permutation(len(logits))
    found = online_exits(rule, logits[order], certainty[order], threshold)
    np.testing.assert_array_equal(found, offline[order])


def test_ties_of_classes_go_to_the_first():
    tied = np.array([[[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    assert layers("patience", tied, 1) == [2]
    assert layers("voting", tied, 2) == [2]


# ---- scores: properties 7 and 8


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_entropy_in_nats_and_normalised(dtype):
    """Property 7."""
    entropy, uncertainty = load_rule("entropy"), load_rule("uncertainty")
    tolerance = 1e-5 if dtype != np.float16 else 3e-3  # the logits themselves are rounded
    for p, nats, share in (
        ((0.9, 0.1), 0.325083, 0.468996), ((0.99, 0.01), 0.056002, 0.080793), ((0.7, 0.2, 0.1), 0.801819, 0.729847),
        ((0.5, 0.5), 0.693147, 1.0),
    ):  # fmt: skip
        logits = np.log(np.array(p)).astype(dtype)
        assert entropy.score(logits) == pytest.approx(nats, abs=tolerance)
        assert uncertainty.score(logits) == pytest.approx(share, abs=tolerance)
    assert entropy.score(np.array([200.0, 0.0], dtype=dtype)) == pytest.approx(0.0, abs=1e-12)


def test_boundaries_of_every_rule_that_compares_a_score():
    """Property 8, and the strict comparison of patience_confidence."""
    logits = np.array([[[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 0.0]]])
    doubt = float(load_rule("uncertainty").score(logits)[0, 0])
    assert layers("uncertainty", logits, doubt) == [1]
    assert layers("confidence", logits, float(load_rule("confidence").score(logits)[0, 0])) == [1]
    assert layers("entropy", logits, float(load_rule("entropy").score(logits)[0, 0])) == [4]
    above = float(np.nextafter(doubt, 2.0))
    assert layers("patience_confidence", logits, doubt, above) == [4, 2]
    assert layers("patience_confidence(patience=3)", logits, above) == [3]
    assert layers("patience_confidence(patience=4)", logits, above) == [4]


# ---- patience_confidence and voting


def test_patience_confidence_counts_sure_exits_in_a_row_and_ignores_their_classes():
    sure, unsure = [5.0, 0.0], [0.1, 0.0]
    logits = np.array([[sure, unsure, sure, sure[::-1], sure, unsure]])
    by_patience = [layers(f"patience_confidence(patience={p})", logits, 0.5)[0] for p in (1, 3, 4)]
    assert by_patience == [1, 5, 6]
    assert layers("patience_confidence", logits, 0.5) == [4]
    assert layers("patience", logits[:, 2:], 1) == [4]  # which patience does not


def test_patience_confidence_of_patience_1_is_uncertainty_but_for_equality():
    logits, _, _ = case(4, exits=5)
    thresholds = np.linspace(0.01, 0.99, 30)
    one, plain = (load_rule(name) for name in ("patience_confidence(patience=1)", "uncertainty"))
    np.testing.assert_array_equal(
        one.exit_indices(logits, None, None, thresholds), plain.exit_indices(logits, None, None, thresholds)
    )


def test_voting_leaves_when_a_class_has_the_votes_and_answers_with_that_class():
    labels = [0, 1, 2, 1, 0, 0, 2]
    assert layers("voting", of_labels(labels, classes=3), 1, 2, 3, 4) == [1, 4, 6, 7]
    logits, _, _ = case(5, rows=200, exits=7)
    for t in (1, 2, 3, 4):
        exits = load_rule("voting").exit_indices(logits, None, None, np.array([t]))[0]
        for row, k in zip(logits.argmax(-1), exits, strict=True):
            if k < 6:
                votes = np.bincount(row[: k + 1], minlength=3)
                assert votes[row[k]] == t
                assert np.delete(votes, row[k]).max() < t
                assert np.bincount(row[:k], minlength=3).max() < t


def test_voting_waits_for_no_run_so_it_never_leaves_later_than_patience():
    logits, _, _ = case(6, rows=100, exits=8, classes=3)
    for t in range(1, 8):
        voting = load_rule("voting").exit_indices(logits, None, None, np.array([t + 1]))[0]
        assert (voting <= load_rule("patience").exit_indices(logits, None, None, np.array([t]))[0]).all()


# ---- rows that rounding may move


def test_a_tie_on_the_way_out_is_near_the_threshold_and_one_beyond_is_not():
    logits = of_labels([0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 1, 0])
    logits[0, 3] = [0.5, 0.5 + 1e-7]  # beyond the exit of row 0
    logits[1, 1] = [0.5, 0.5 + 1e-7]  # on the way of row 1
    for name, threshold in (("patience", 1.0), ("voting", 2.0)):
        assert load_rule(name).near_threshold(logits, None, threshold).tolist() == [False, True, False]
    per_exit = np.array([1e-5, 1e-9, 1e-5, 1e-5])
    assert not load_rule("patience").near_threshold(logits, None, 1.0, per_exit).any()


def test_a_difference_at_the_tolerance_is_near_the_threshold():
    scores = of_scores([0.0, 0.1 + 1e-7, 0.15, 9.0], [0.0, 0.05, 0.15, 9.0], [0.0, 0.3, 0.9, 0.91])
    assert load_rule("patience").near_threshold(scores, None, 1.0).tolist() == [True, False, False]


def test_an_entropy_at_the_threshold_is_near_it_on_the_way_out_only():
    logits = np.array([[[2.0, 0.0], [2.0, 0.0], [0.3, 0.0], [0.0, 0.0]]])
    rule, doubt = load_rule("patience_confidence"), load_rule("uncertainty").score(np.array([0.3, 0.0]))
    assert not rule.near_threshold(logits, None, float(doubt))[0]
    assert rule.near_threshold(logits[:, 1:], None, float(doubt))[0]


def regression_outputs(*rows):
    scores, count = of_scores(*rows), len(rows)
    exits = tuple(range(1, scores.shape[1] + 1))
    return ExitOutputs(scores, None, np.zeros(count), exits, exits, np.arange(count), np.full(count, 5))


def test_engine_and_sweep_of_a_regression_may_differ_only_at_the_tolerance():
    outputs = regression_outputs([0.0, 0.1 + 1e-7, 0.15, 9.0], [0.0, 0.05, 0.15, 9.0])
    rule, rows = load_rule("patience"), np.arange(2)

    def check(exits):
        return check_agreement(rule, 1.0, outputs, exits, outputs.logits[rows, exits, 0])

    assert check(np.array([1, 1])) == {
        "rows": 2, "near_threshold": 1, "differing": 1,
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="engine left elsewhere"):
        check(np.array([2, 2]))


# ---- options


def test_a_rules_name_is_its_file_and_the_options_that_are_not_at_their_default():
    assert load_rule("patience").name == "patience"
    assert load_rule("patience(tolerance=0.1)") == load_rule("patience")
    for spelling in ("patience(tolerance=.25)", " patience ( tolerance = 2.5e-1 ) "):
        assert load_rule(spelling).name == "patience(tolerance=0.25)"
        assert load_rule(load_rule(spelling).name) == load_rule(spelling)
    assert load_rule("patience(tolerance=1)").name == type(load_rule("patience"))(tolerance=1).name
    assert load_rule("patience_confidence(patience=3)").patience == 3
    assert load_rule("patience_confidence").patience == 2, "options of one rule leave the default one alone"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("patiense(tolerance=1)", "no exit rule 'patiense'.*did you mean 'patience'"),
        ("patience(tolerence=1)", "cannot read 'tolerence=1'; options of patience: tolerance .a number, default 0.1.*"
         "did you mean 'tolerance'"),
        ("patience(tolerance)", "cannot read 'tolerance'"),
        ("patience(tolerance=big)", "cannot read 'tolerance=big'"),
        ("patience(tolerance=1, tolerance=2)", "cannot read 'tolerance=2'"),
        ("patience()", "cannot read ''"),
        ("patience(tolerance=1", "cut short"),
        ("patience tolerance=1", "no exit rule"),
        ("patience(tolerance=-1)", "tolerance -1 .* must be 0 or more"),
        ("patience(tolerance=nan)", "tolerance nan"),
        ("patience_confidence(patience=2.0)", "a whole number, default 2"),
        ("patience_confidence(patience=0)", "must be 1 or more"),
        ("confidence(patience=1)", "options of confidence: none, write the bare name"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_read_are_refused_with_those_that_can(name, message):
    with pytest.raises(UserError, match=message):
        load_rule(name)


def test_the_rules_of_a_method_stand_once_each_and_in_one_spelling():
    assert list(load_rules(["patience", "patience(tolerance=0.2)"])) == [
        "patience",
        "patience(tolerance=0.2)",
    ]
    with pytest.raises(UserError, match="twice"):
        load_rules(["patience", "patience(tolerance=0.1)"])
    with pytest.raises(UserError, match=r"must be written 'patience\(tolerance=0\.2\)'"):
        load_rules(["patience(tolerance=.20)"])


def test_a_rule_with_options_is_shown_and_sorted_with_its_family():
    rules = ["zeta", "voting", "patience(tolerance=0.2)", "oracle", "patience", "confidence"]
    assert sorted(rules, key=rule_key) == [
        "confidence", "patience", "patience(tolerance=0.2)", "voting", "oracle", "zeta",
    ]  # fmt: skip
    assert rule_name("patience_confidence(patience=3)") == "patience + confidence (patience=3)"
    assert [rule_name(name) for name in ("voting", "zeta", "zeta(a=1)")] == ["voting", "zeta", "zeta(a=1)"]


# ---- what is refused or warned of


@pytest.mark.parametrize(
    ("name", "bad"), [("patience", -1), ("patience", 1.5), ("voting", 0), ("voting", 2.2)]
)
def test_a_count_that_is_no_whole_number_is_refused_online_and_offline(name, bad):
    rule = load_rule(name)
    with pytest.raises(UserError, match="whole number"):
        rule.online(bad)
    with pytest.raises(UserError, match="whole number"):
        rule.exit_indices(np.zeros((1, 3, 2)), None, None, np.array([1.0, bad]))


@pytest.mark.parametrize("name", ["patience", "patience_confidence", "voting"])
def test_counters_need_a_threshold(name):
    with pytest.raises(UserError, match="needs a threshold"):
        load_rule(name).online(None)


@pytest.mark.parametrize(
    ("name", "threshold", "warns"),
    [
        ("patience", 3, False), ("patience", 4, True), ("patience", 0, False), ("voting", 4, False), ("voting", 5, True),
        ("patience_confidence(patience=4)", 0.5, False), ("patience_confidence(patience=5)", 0.5, True),
        ("confidence", 1.01, False),
    ],
)  # fmt: skip
def test_a_threshold_that_can_never_fire_is_warned_of_offline(name, threshold, warns, caplog):
    outputs = ExitOutputs(
        of_labels([0, 0, 0, 0]), None, np.zeros(1, int), (1, 2, 3, 4), (1, 2, 3, 4), np.arange(1), np.full(1, 5)
    )  # fmt: skip
    yardstick = Yardstick("accuracy", "classification", 2, 4)
    with caplog.at_level(logging.WARNING, "adaptive_inference"):
        curve = sweep(load_rule(name), outputs, yardstick, np.array([threshold]))
    assert ("can never fire with 4 exits" in caplog.text) == warns
    if warns:
        assert (curve.exits == 3).all()


def test_no_rule_warns_of_its_own_grid():
    for name in ("patience", "voting", "patience_confidence", "confidence"):
        for exits in (2, 3, 12):
            rule = load_rule(name)
            assert not any(rule.never_fires(t, exits) for t in rule.grid(3, 20, exits))


def test_a_task_or_tolerance_that_cannot_work_is_refused():
    for name in ("voting", "patience_confidence"):
        with pytest.raises(UserError, match="does not work for a regression task"):
            load_rule(name).check("regression", has_certainty=False)
    for kind in ("classification", "regression"):
        load_rule("patience").check(kind, has_certainty=False)
    load_rule("patience(tolerance=0)").check("classification", has_certainty=False)
    with pytest.raises(UserError, match="never fires on a regression task"):
        load_rule("patience(tolerance=0)").check("regression", has_certainty=False)


def test_an_entropy_threshold_above_ln_c_is_refused_where_a_user_gives_it():
    rule = load_rule("entropy")
    rule.check_threshold(float(np.log(3)), 3)
    with pytest.raises(UserError, match=r"entropy threshold 1\.2 is above ln 3 = 1\.099"):
        rule.check_threshold(1.2, 3)
    assert rule.grid(3, 5, 4)[0] > np.log(3), "which a grid must be able to hold: exact ties leave too"
