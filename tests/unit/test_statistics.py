"""The bootstrap covers what it should, and pairs what belongs together."""

from __future__ import annotations

import numpy as np

from adaptive_inference.evaluation.statistics import bootstrap


def test_interval_covers_the_true_mean_about_ninety_five_times_in_a_hundred():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        sample = generator.binomial(1, 0.8, 150).astype(float)
        low, high = bootstrap(lambda rows, sample=sample: sample[rows].mean(-1), 150, 300, seed)
        covered += low <= 0.8 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_of_a_mean_is_as_wide_as_theory_says():
    sample = np.random.default_rng(3).normal(0, 1, 400)
    low, high = bootstrap(lambda rows: sample[rows].mean(-1), 400, 4000, 0)
    error = sample.std() / np.sqrt(400)
    np.testing.assert_allclose(
        [low, high], sample.mean() + 1.96 * error * np.array([-1, 1]), atol=0.1 * error
    )


def test_interval_is_deterministic_and_holds_the_estimate():
    sample = np.random.default_rng(1).normal(3, 1, 100)
    first = bootstrap(lambda rows: sample[rows].mean(-1), 100, 250, 5)
    assert first == bootstrap(lambda rows: sample[rows].mean(-1), 100, 250, 5)
    assert first != bootstrap(lambda rows: sample[rows].mean(-1), 100, 250, 6)
    assert first[0] < sample.mean() < first[1]


def test_paired_resampling_of_proportional_values_leaves_their_ratio_alone():
    slow = np.random.default_rng(2).lognormal(0, 2, 80)
    low, high = bootstrap(lambda rows: (2 * slow)[rows].sum(-1) / slow[rows].sum(-1), 80, 200, 0)
    np.testing.assert_allclose([low, high], 2.0)


def test_no_resamples_no_interval():
    assert bootstrap(lambda rows: rows.mean(-1), 10, 0, 0) == (None, None)
