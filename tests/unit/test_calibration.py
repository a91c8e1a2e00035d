"""Temperatures, certainty ranges, reliability and the choice of operating points."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.calibration.min_max import fit_min_max
from adaptive_inference.calibration.reliability import failure_auroc, reliability
from adaptive_inference.calibration.temperature import fit_temperature, nll


def synthetic(true_temperature: float, rows: int, classes: int = 3, seed: int = 0):
    """Logits whose labels are drawn from ``softmax(logits / T)``."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 4, (rows, classes))
    scaled = logits / true_temperature
    p = np.exp(scaled - scaled.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    labels = (generator.uniform(size=(rows, 1)) > p.cumsum(-1)).sum(-1).clip(max=classes - 1)
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5, 8.0])
def test_temperature_is_recovered_within_five_percent(true):
    logits, labels = synthetic(true, 40_000)
    assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.05)


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 60),
    classes=st.integers(2, 5),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    skill=st.sampled_from([-1.0, 0.0, 0.7, 3.0]),
)
@settings(max_examples=80, deadline=None)
def test_fitted_nll_is_no_worse_than_t_one_and_than_a_fine_grid(seed, rows, classes, scale, skill):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = scale * (generator.normal(size=(rows, classes)) + skill * np.eye(classes)[labels])
    fitted = fit_temperature(logits, labels)
    assert 0.01 <= fitted <= 100
    assert nll(logits, labels, fitted) <= nll(logits, labels)
    assert (
        nll(logits, labels, fitted)
        <= min(nll(logits, labels, t) for t in np.geomspace(0.01, 100, 400)) + 1e-5
    )


def test_separable_data_give_a_bounded_temperature_that_keeps_confidences_apart():
    labels = np.array([0, 1] * 50)
    margin = np.linspace(1, 6, 100)
    logits = np.where(np.eye(2, dtype=bool)[labels], margin[:, None], 0.0)
    fitted = fit_temperature(logits, labels)
    assert 0.05 < fitted < 1
    assert nll(logits, labels, fitted) < 1e-5
    assert len(np.unique(logits[:, 0] / fitted)) > 40
    assert fit_temperature(100 * logits, labels) == 1.0  # nothing to gain


def test_constant_logits_and_hopeless_logits_survive():
    labels = np.array([0, 1, 1, 0])
    assert fit_temperature(np.zeros((4, 2)), labels) == 1.0
    assert fit_temperature(np.eye(2)[1 - labels] * 5, labels) == pytest.approx(100)


def test_temperature_is_deterministic_and_fast():
    logits, labels = synthetic(2.5, 1000)
    start = time.perf_counter()
    values = {fit_temperature(logits, labels) for _ in range(10)}
    assert len(values) == 1
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("temperature", [0.01, 0.3, 1.0, 7.0, 100.0])
def test_prediction_at_a_forced_exit_does_not_change_with_the_temperature(temperature):
    logits = np.random.default_rng(0).normal(0, 5, (500, 3, 4)).astype(np.float32)
    logits[:50, :, 1] = np.nextafter(logits[:50, :, 0], np.inf)  # as close as float32 can be
    logits[50:60] = 0.0
    scaled = Calibrator((temperature,) * 3).logits(logits)
    np.testing.assert_array_equal(scaled.argmax(-1), logits.argmax(-1))


def test_each_exit_is_calibrated_by_itself_and_one_exit_as_all():
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(20, 3, 2)).astype(np.float32)
    certainty = generator.uniform(size=(20, 3)).astype(np.float32)
    low, high = fit_min_max(certainty)
    calibrator = Calibrator((0.7, 1.3, 3.1), tuple(low), tuple(high))
    for k in range(3):
        np.testing.assert_array_equal(calibrator.logits(logits)[:, k], calibrator.logits(logits[:, k], k))
        np.testing.assert_array_equal(
            calibrator.certainty(certainty)[:, k], calibrator.certainty(certainty[:, k], k)
        )
        # one row alone, bit by bit
        np.testing.assert_array_equal(
            calibrator.logits(logits)[4, k], calibrator.logits(logits[4:5, k], k)[0]
        )
    restored = Calibrator.from_json(
        {"temperatures": [0.7, 1.3, 3.1], "certainty_min": low, "certainty_max": high}
    )
    assert restored == calibrator


def test_min_max_maps_the_calibration_range_to_zero_and_one_and_clamps_outside():
    certainty = np.array([[0.2, 0.5], [0.6, 0.5], [0.4, 0.5]])
    low, high = fit_min_max(certainty)
    calibrator = Calibrator((1.0, 1.0), tuple(low), tuple(high))
    mapped = calibrator.certainty(certainty)
    assert mapped[:, 0].min() == 0
    assert mapped[:, 0].max() == 1
    np.testing.assert_allclose(mapped[:, 1], 0.5)  # an empty range leaves the value alone
    assert calibrator.certainty(np.array([[0.1, 0.9], [0.9, 0.1]]))[:, 0].tolist() == [0.0, 1.0]
    assert calibrator.certainty(None) is None


def test_reliability_of_calibrated_rows_is_near_zero_and_of_bold_ones_is_not():
    logits, labels = synthetic(1.0, 50_000)
    honest, bold = reliability(logits, labels), reliability(3 * logits, labels)
    assert honest["ece"] < 0.01 < 0.05 < bold["ece"]
    assert sum(item["count"] for item in honest["bins"]) == 50_000
    assert len(honest["bins"]) == 15
    assert honest["bins"][0] == {"confidence": None, "accuracy": None, "count": 0}  # below 1 / 3


def test_ece_equals_its_definition_on_a_small_case():
    # Confidence 0.8 (bin 12) for four rows of which two are right; exactly 1.0 (last bin) for one that is right.
    logits = np.array([[np.log(4.0), 0.0]] * 4 + [[100.0, 0.0]])
    got = reliability(logits, np.array([0, 0, 1, 1, 0]))
    assert got["ece"] == pytest.approx(0.3 * 4 / 5)
    assert got["bins"][14]["count"] == 1
    tie = reliability(np.zeros((2, 3)), np.array([0, 1]))  # confidence 1 / 3 closes the fifth bin
    assert [k for k, item in enumerate(tie["bins"]) if item["count"]] == [4]


#: Few levels, so that ties are common; some rows right, some wrong.
judged = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({right for _, right in rows}) == 2
)


def split_judged(rows):
    return np.array([level for level, _ in rows]) / 6, np.array([right for _, right in rows])


@given(rows=judged)
def test_failure_auroc_is_the_share_of_pairs_in_order_ties_as_halves(rows):
    confidence, right = split_judged(rows)
    gaps = confidence[right][:, None] - confidence[~right]
    assert failure_auroc(confidence, right) == pytest.approx((gaps > 0).mean() + (gaps == 0).mean() / 2)
    assert failure_auroc(confidence, right) == pytest.approx(roc_auc_score(right, confidence))


@given(rows=judged)
def test_failure_auroc_sees_only_the_order_of_confidences(rows):
    confidence, right = split_judged(rows)
    for increasing in (np.exp, lambda c: c**3, lambda c: 0.5 + c / 100):
        assert failure_auroc(increasing(confidence), right) == failure_auroc(confidence, right)
    assert failure_auroc(-confidence, right) == pytest.approx(1 - failure_auroc(confidence, right))


@given(rows=judged)
def test_failure_auroc_is_half_for_constant_confidence_and_one_for_perfect_separation(rows):
    confidence, right = split_judged(rows)
    assert failure_auroc(np.full(len(right), 0.7), right) == 0.5
    assert failure_auroc(confidence + 2 * right, right) == 1


@pytest.mark.parametrize("label", [0, 1])
def test_failure_auroc_is_missing_where_no_answer_or_every_answer_fails(label):
    logits = np.array([[2.0, 0.0], [1.0, 0.0]])
    assert reliability(logits, np.array([label, label]))["failure_auroc"] is None


def test_an_exit_may_be_calibrated_and_still_not_know_where_it_fails():
    # Two classes at confidence 0.75 in every row, right on three of four: no calibration error, no knowledge.
    logits = np.array([[np.log(3.0), 0.0]] * 8)
    blind = reliability(logits, np.array([0, 0, 0, 1] * 2))
    assert blind["ece"] == pytest.approx(0)
    assert blind["failure_auroc"] == 0.5
    # Bold and wrong about its accuracy, but its doubts lie where it fails.
    bold = reliability(np.array([[9.0, 0.0], [9.0, 0.0], [5.0, 0.0], [5.0, 0.0]]), np.array([0, 0, 1, 1]))
    assert bold["ece"] > 0.4
    assert bold["failure_auroc"] == 1
