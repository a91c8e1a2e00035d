"""How sure a difference between two methods is, from their answers to the same rows: pure functions of arrays.

Two things were drawn at random: the evaluation rows and the seeds (the training). Every seed answers the same rows, so
rows and seeds are crossed: each is resampled by itself, and the methods always together. What the interval covers and
what it does not is told in docs/protocol.md, Statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptive_inference.evaluation.statistics import CHUNK, LEVEL
from adaptive_inference.tasks.quality import quality
from adaptive_pipeline.reporting.measures import std

DIGITS = 12  #: what differs less is rounding: a resample without a difference lies on both sides of 0


@dataclass(frozen=True)
class Scored:
    """Quality of K sets of answers: measured, and on R resamples of the rows, the same for all of them."""

    quality: np.ndarray  #: (K,)
    resampled: np.ndarray  #: (K, R)

    def of(self, sets: Sequence[int]) -> Scored:
        """Return some of the sets: those of one operating point, one per seed."""
        return Scored(self.quality[list(sets)], self.resampled[list(sets)])


@dataclass(frozen=True)
class Difference:
    """First minus second, mean over seeds."""

    mean: float
    std: float | None  #: over seeds, n - 1; None for one seed
    low: float  #: of the 95 % interval
    high: float
    p_value: float  #: two-sided
    seeds: int


def resample_quality(
    metric: str, predictions: np.ndarray, labels: np.ndarray, num_classes: int, resamples: int, seed: int = 0
) -> Scored:
    """Score answers on the rows and on resamples of them, all answers on the same draws.

    Parameters
    ----------
    metric
        See `quality`.
    predictions
        Class indices or scores, ``(K, N)``.
    labels
        ``(N,)``.
    num_classes
        Of the task; not read where the metric has none.
    resamples
        R, at least 1.
    seed
        Of the generator: the same seed, the same draws.
    """
    rows, generator, chunks = len(labels), np.random.default_rng(seed), []
    right = predictions == labels if metric == "accuracy" else None
    for start in range(0, resamples, CHUNK):
        drawn = generator.integers(0, rows, (min(CHUNK, resamples - start), rows))
        chunks.append(
            [quality(metric, answers[drawn], labels[drawn], num_classes) for answers in predictions]
            if right is None
            else _drawn_accuracy(right, drawn)
        )
    measured = np.asarray(quality(metric, predictions, labels, num_classes))
    return Scored(measured, np.concatenate(chunks, axis=1))


def _drawn_accuracy(right: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return the accuracy of K sets on R resamples, ``(K, N), (R, N) -> (K, R)``, to the last bit what `quality` returns.

    By how often each row was drawn: one product for all sets, whose sums are whole numbers.
    """
    resamples, rows = drawn.shape
    cells = drawn + rows * np.arange(resamples)[:, None]
    times = np.bincount(cells.ravel(), minlength=resamples * rows).reshape(resamples, rows)
    return (right.astype(float) @ times.T.astype(float)) / rows


def paired_bootstrap(first: Scored, second: Scored, seed: int = 0) -> Difference:
    """Return the difference of two methods over the same rows and the same seeds.

    In each resample the S seeds are drawn with replacement too, so that a difference on which the seeds disagree is not
    taken for sure; their deviations are widened by sqrt(S / (S - 1)), which makes their variance unbiased. With one
    seed only the rows vary.

    Parameters
    ----------
    first, second
        S sets of answers each, one per seed, in the same order and on the same draws; see `resample_quality`.
    seed
        Of the draws of seeds.

    Returns
    -------
    Difference
        ``p_value`` is twice the smaller share of resampled differences on either side of 0, the measured one counted
        with them, so that it is never 0; with several seeds it is at least that of a two-sided t-test of the seeds'
        differences, since a few resampled seeds that all lie on one side of 0 prove little.
    """
    difference, resampled = first.quality - second.quality, first.resampled - second.resampled
    seeds, resamples = resampled.shape
    drawn = np.random.default_rng([seed, seeds]).integers(0, seeds, (seeds, resamples))
    centre = resampled.mean(0)
    wider = np.sqrt(seeds / max(seeds - 1, 1))
    values = centre + wider * (np.take_along_axis(resampled, drawn, axis=0).mean(0) - centre)
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    sides = np.sign(values.round(DIGITS))
    fewer = min((sides <= 0).sum(), (sides >= 0).sum())
    spread = std(difference) if seeds > 1 else None
    return Difference(
        mean=float(difference.mean()),
        std=spread,
        low=float(low),
        high=float(high),
        p_value=max(
            float(min(1.0, 2 * (1 + fewer) / (1 + resamples))),
            _t_test(float(difference.mean()), spread, seeds),
        ),
        seeds=seeds,
    )


def _t_test(mean: float, spread: float | None, seeds: int) -> float:
    """Return the two-sided p-value of a mean over seeds; 0 where they do not spread, or there is one."""
    if not spread:
        return 0.0
    from scipy.special import stdtr

    return float(2 * stdtr(seeds - 1, -abs(mean) / (spread / np.sqrt(seeds))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: held against a level, all tests together err with at most that probability."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
