"""Paired differences: worked numbers, symmetry, and how often the interval holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.evaluation.statistics import CHUNK
from adaptive_inference.tasks.quality import quality
from adaptive_pipeline.reporting.statistics.paired import Scored, holm, paired_bootstrap, resample_quality

LABELS = np.array([0, 1, 1, 0, 1, 0, 0, 1])


def difference(first, second, labels=LABELS, resamples=500):
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    sets = resample_quality("accuracy", np.concatenate([first, second]), labels, 2, resamples)
    seeds = len(first)
    return paired_bootstrap(sets.of(range(seeds)), sets.of(range(seeds, 2 * seeds)))


def test_worked_difference_of_two_seeds():
    """Seed 0: 7/8 against 5/8; seed 1: 6/8 against 6/8. Mean 1/8, std (1/4) / sqrt 2."""

    def wrong(*rows):
        return np.where(np.isin(np.arange(8), rows), 1 - LABELS, LABELS)

    found = difference([wrong(0), wrong(0, 1)], [wrong(0, 1, 2), wrong(2, 3)])
    assert found.mean == pytest.approx(0.125)
    assert found.std == pytest.approx(0.25 / 2**0.5)
    assert found.seeds == 2
    assert found.low < 0.125 < found.high


def test_p_value_counts_the_resamples_on_the_other_side():
    """Of 9 resampled differences 2 are not above 0: p = 2 (1 + 2) / (1 + 9)."""
    values = np.array([[0.3, 0.2, -0.1, 0.1, 0.0, 0.2, 0.4, 0.1, 0.2]])
    found = paired_bootstrap(Scored(np.array([0.15]), values), Scored(np.zeros(1), np.zeros((1, 9))))
    assert found.p_value == pytest.approx(0.6)
    assert (found.mean, found.std) == (0.15, None)
    np.testing.assert_allclose([found.low, found.high], np.quantile(values, [0.025, 0.975]))


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 100))
def test_resamples_without_a_difference_count_on_both_sides_whatever_the_rounding(seeds, draw):
    """Numbers of right answers add up exactly; shares of 277 rows do not, and their zeros came out as 1e-17."""
    right = np.random.default_rng(draw).integers(170, 174, (2, seeds, 300)).astype(float)
    right[0] += 1  # p is far from 1
    counts, shares = (
        paired_bootstrap(*(Scored(side[:, 0], side) for side in scale)) for scale in (right, right / 277)
    )
    assert shares.p_value == pytest.approx(counts.p_value)


answers = st.lists(st.lists(st.integers(0, 1), min_size=8, max_size=8), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(answers, st.randoms(use_true_random=False))
def test_a_difference_turns_its_sign_with_the_order_of_the_methods(first, random):
    second = [[random.randint(0, 1) for _ in row] for row in first]
    there, back = difference(first, second), difference(second, first)
    np.testing.assert_allclose(
        [there.mean, there.low, there.high], [-back.mean, -back.high, -back.low], atol=1e-12
    )
    assert there.p_value == back.p_value
    assert there.std == pytest.approx(back.std)


@settings(max_examples=20, deadline=None)
@given(answers)
def test_equal_answers_do_not_differ(first):
    found = difference(first, first)
    assert (found.mean, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(8)), st.permutations(range(2)))
def test_the_order_of_rows_and_of_seeds_changes_no_estimate(rows, seeds):
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 2, (2, 2, 8))
    there = difference(first, second)
    moved = difference(first[seeds][:, rows], second[seeds][:, rows], LABELS[rows])
    assert (moved.mean, moved.std) == pytest.approx((there.mean, there.std))


def test_one_seeds_interval_is_as_wide_as_theory_says_and_far_narrower_than_unpaired():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 800)
    second = np.where(generator.random(800) < 0.8, labels, 1 - labels)
    first = np.where(generator.random(800) < 0.05, labels, second)  # agrees but for a few rows
    gains = (first == labels).astype(float) - (second == labels)
    found = difference(first, second, labels, resamples=4000)
    error = gains.std() / np.sqrt(800)
    np.testing.assert_allclose(
        [found.low, found.high], gains.mean() + 1.96 * error * np.array([-1, 1]), atol=0.15 * error
    )
    assert found.high - found.low < 0.5 * 2 * 1.96 * np.sqrt(2 * 0.8 * 0.2 / 800)


def coverage(seeds: int, training: float, trials: int = 200) -> tuple[float, float]:
    """Share of intervals that hold the true difference, 0, of two methods alike; with and without resampled seeds.

    A row is answered rightly when its ease + the seed's skill (std ``training``) + noise is above 0.
    """
    generator, held = np.random.default_rng(0), []
    for _ in range(trials):
        ease, labels = generator.normal(0.8, 1, 200), generator.integers(0, 2, 200)
        skill, noise = (
            generator.normal(0, training, (2 * seeds, 1)),
            generator.normal(0, 0.5, (2 * seeds, 200)),
        )
        sets = np.where(ease + skill + noise > 0, labels, 1 - labels)
        scored = resample_quality("accuracy", sets, labels, 2, 200, int(generator.integers(10**9)))
        first, second = scored.of(range(seeds)), scored.of(range(seeds, 2 * seeds))
        found = paired_bootstrap(first, second)
        low, high = np.quantile((first.resampled - second.resampled).mean(0), [0.025, 0.975])
        held.append((found.low <= 0 <= found.high, low <= 0 <= high))
    both, rows = np.mean(held, axis=0)
    return both, rows


def test_with_one_seed_the_interval_covers_what_the_rows_do():
    assert 0.9 <= coverage(1, training=0.0)[0] <= 0.99


def test_rows_alone_would_be_far_too_sure_where_training_varies():
    both, rows = coverage(5, training=0.3)
    assert both >= 0.85
    assert rows <= 0.6


@pytest.mark.parametrize(("seeds", "share"), [(2, 0.62), (3, 0.82), (4, 0.86), (5, 0.87)])
def test_where_training_alone_varies_the_interval_is_short_and_the_p_value_is_not(seeds, share):
    """The shares that docs/protocol.md tells; 1 of 20 p-values below 0.05 is what there should be."""
    generator, none = np.random.default_rng(0), Scored(np.zeros(seeds), np.zeros((seeds, 500)))
    drawn = generator.normal(size=(1500, seeds))
    found = [paired_bootstrap(Scored(d, np.tile(d[:, None], 500)), none, i) for i, d in enumerate(drawn)]
    assert np.mean([item.low <= 0 <= item.high for item in found]) == pytest.approx(share, abs=0.03)
    assert np.mean([item.p_value < 0.05 for item in found]) == pytest.approx(0.05, abs=0.02)


def test_where_training_does_not_matter_the_interval_errs_on_the_wide_side():
    assert coverage(3, training=0.0)[0] >= 0.95


def test_a_class_that_is_not_drawn_is_still_a_class():
    """F1 of three classes is a mean over classes; of two it would be that of class 1."""
    labels, row = np.array([0, 0, 1, 1]), np.array([[0, 0, 1, 0]])
    scored = resample_quality("f1", row, labels, 3, 10)
    assert scored.quality[0] == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_holm_worked_and_monotone():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, corrected in zip(p_values, adjusted, strict=True):
        assert p <= corrected <= min(1.0, len(p_values) * p) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_accuracy_on_resamples_is_to_the_last_bit_what_quality_says():
    generator = np.random.default_rng(3)
    labels, sets = generator.integers(0, 3, 997), generator.integers(0, 3, (4, 997))
    scored = resample_quality("accuracy", sets, labels, 3, 150, seed=7)
    draws = np.random.default_rng(7)
    drawn = np.concatenate([draws.integers(0, 997, (size, 997)) for size in (CHUNK, 150 - CHUNK)])
    expected = [quality("accuracy", answers[drawn], labels[drawn], 3) for answers in sets]
    np.testing.assert_array_equal(scored.resampled, expected)
