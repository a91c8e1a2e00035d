"""The estimated threshold: the reference's fixture, its faults behind the switch, and a default without them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_inference.decoding.adaptive import (
    GRID,
    AdaptiveThreshold,
    beta_moments,
    reference_threshold,
    share_agreeing,
)
from adaptive_inference.errors import UserError

CONFIDENCES = [0.95, 0.9, 0.85, 0.8, 0.99, 0.4, 0.3, 0.5, 0.2, 0.6]
AGREED = [True] * 5 + [False] * 5
pairs = st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=60)


def fitted(confidences, agreed, **options):
    estimate = AdaptiveThreshold(**options)
    estimate.observe(list(confidences), list(agreed))
    estimate.begin()
    return estimate


def test_the_reference_is_reproduced():
    """Property 12, the note's fixture: both parameters of both densities to 1e-3, and the threshold."""
    estimate = fitted(CONFIDENCES, AGREED, reference=True)
    first, second = zip(estimate.disagree, estimate.agree, strict=True)
    assert first == pytest.approx((4.376, 16.4602), abs=1e-3)
    assert second == pytest.approx((6.5572, 1.8747), abs=1e-3)
    assert estimate.threshold == pytest.approx(0.7)


def test_the_reference_takes_its_most_permissive_threshold_where_no_token_agreed():
    assert fitted(CONFIDENCES, [False] * 10, reference=True).threshold == pytest.approx(0.3)
    assert fitted(CONFIDENCES, [True] * 10, reference=True).threshold == pytest.approx(0.3)
    assert fitted([0.5] * 10, AGREED, reference=True).threshold == pytest.approx(0.9)


def test_the_reference_reads_its_prior_as_0_4333():
    assert reference_threshold(GRID, (1.0, 2.0), (2.0, 1.0), 0.4) == pytest.approx(0.4333, abs=1e-4)
    assert reference_threshold(GRID, (2.0, 1.0), (1.0, 2.0), 0.4) == pytest.approx(0.4333, abs=1e-4)


def test_shares_are_those_of_the_densities():
    from scipy.stats import beta

    expected = beta.pdf(GRID, 5, 2) / (beta.pdf(GRID, 5, 2) + beta.pdf(GRID, 2, 3))
    assert share_agreeing(GRID, (2.0, 3.0), (5.0, 2.0)) == pytest.approx(expected)


def test_moments_are_those_of_the_density():
    draws = np.random.default_rng(0).beta(3.0, 5.0, 400_000)
    assert beta_moments(draws, np.ones_like(draws)) == pytest.approx((3.0, 5.0), rel=0.02)


def test_the_corrected_threshold_is_where_agreement_becomes_likely():
    generator = np.random.default_rng(1)
    right, wrong = generator.beta(12, 2, 500), generator.beta(4, 4, 500)
    estimate = fitted([*right, *wrong], [True] * 500 + [False] * 500)
    share = share_agreeing(GRID, estimate.disagree, estimate.agree)
    assert GRID[0] < estimate.threshold < GRID[-1]
    assert (share[estimate.threshold <= GRID] > 0.4).all()
    assert share[estimate.threshold > GRID][-1] <= 0.4


def test_confidence_that_means_the_contrary_gives_the_most_careful_threshold():
    generator = np.random.default_rng(2)
    right, wrong = generator.beta(2, 20, 200), generator.beta(20, 2, 200)
    pairs_of = ([*right, *wrong], [True] * 200 + [False] * 200)
    assert fitted(*pairs_of, initial=0.5).threshold == pytest.approx(0.9)
    assert fitted(*pairs_of, initial=0.97).threshold == 0.97
    assert fitted(*pairs_of, reference=True).threshold < 0.6  # takes the surer class for the right one


@given(pairs, st.floats(0.0, 1.0), st.booleans())
def test_thresholds_are_of_the_grid_or_the_initial_one(data, initial, reference):
    confidences, agreed = zip(*data, strict=True)
    threshold = fitted(confidences, agreed, initial=initial, reference=reference).threshold
    assert np.isfinite(threshold)
    assert min(abs(GRID - threshold)) == 0.0 or threshold == initial


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60), st.floats(0.0, 1.0))
def test_a_shallow_model_that_is_always_wrong_is_never_trusted_more(confidences, initial):
    assert fitted(confidences, [False] * len(confidences), initial=initial).threshold >= initial


@pytest.mark.parametrize(
    ("confidences", "agreed"),
    [
        ([0.7], [True]),
        ([0.7] * 40, [True, False] * 20),
        ([1.0] * 40, [True, False] * 20),
        ([0.0, 1.0] * 20, [True] * 40),
        (CONFIDENCES, AGREED),  # five of a class are too few
    ],
)
def test_where_nothing_can_be_estimated_the_initial_threshold_stands(confidences, agreed):
    estimate = fitted(confidences, agreed, initial=0.75)
    assert estimate.threshold == 0.75
    assert estimate.agree is None


def test_confidences_of_0_and_1_are_estimated_from():
    estimate = fitted([0.0, 1.0, 1.0, 1.0] * 10 + [0.0, 0.0, 1.0, 0.0] * 10, [True] * 40 + [False] * 40)
    assert np.isfinite([*estimate.agree, *estimate.disagree]).all()


def test_nothing_changes_before_there_are_pairs_and_after_the_last_fit():
    estimate = AdaptiveThreshold(0.8, most_fits=1, minimum=2)
    assert [estimate.begin(), estimate.begin()] == [0.8, 0.8]
    estimate.observe(CONFIDENCES, AGREED)
    after = estimate.begin()
    assert after != 0.8
    estimate.observe([0.1] * 99 + [0.2], [True] * 100)
    assert estimate.begin() == after
    assert estimate.trajectory == [0.8, 0.8, after, after]


@pytest.mark.parametrize(
    "options",
    [
        {"initial": 1.5},
        {"initial": float("nan")},
        {"level": 0.0},
        {"minimum": 1},
        {"most_fits": -1},
        {"grid": [0.5, 0.4]},
        {"grid": []},
        {"grid": [0.5, 1.0]},
    ],
)
def test_bad_settings_are_refused(options):
    with pytest.raises(UserError):
        AdaptiveThreshold(**options)
