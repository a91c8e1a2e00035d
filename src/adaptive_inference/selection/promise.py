"""The fastest candidate that keeps a promise: on rows not seen it loses no more than the goal allows, as often as asked.

The fastest of many candidates that lose at most a point *on the calibration rows* is a lucky one: elsewhere it loses more.
How much luck there is, is measured by making the whole choice again on resampled rows and looking at what was chosen on
rows that the resample left out. An inner margin is then taken off the goal, the smallest with which the choice, made
anew, holds the goal in the share of resamples that is asked for.

Within a family (one model, one rule) loss may only grow with speed, so neighbouring thresholds share their strength
(isotonic regression). What was chosen is judged on the rows that chose it and on those left out, the latter weighing a
little more: on the former alone it looks too good, on the latter alone too bad, since a resample chooses from fewer
different rows than there are (compare the .632 estimator of Efron, 1983; docs/recommendation.md tells why 0.6).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from adaptive_inference.calibration.operating_point import ROUNDING
from adaptive_inference.calibration.risk_control import fewest_rows
from adaptive_inference.selection.pool import POINTS, Pool

RESAMPLES = 200
STEP = 0.05  #: points between two margins
TIE = 1.01  #: speeds of a ratio below this count as equal, and the better quality decides
LEFT_OUT = 0.6  #: weight of the rows that a resample left out
NONE = -1  #: instead of a candidate's index: the full model answers


@dataclass(frozen=True)
class Promise:
    """What is recommended under a goal, and what can be said of it.

    Attributes
    ----------
    max_loss
        The goal, in points.
    chosen
        Index into the pool, or `NONE`.
    margin
        Points taken off the goal inside.
    probability
        Share of resamples in which the goal was held, those that kept the full model included.
    kept_full
        Share of resamples that kept the full model.
    loss, low, high
        Points lost on new rows by what the other resamples chose: mean, and 10 and 90 % quantiles; 0 for the full model.
    shares
        Method and rule -> share of resamples that chose it, the largest first; the full model under ``("full", "")``.
    """

    max_loss: float
    chosen: int
    margin: float
    probability: float
    kept_full: float
    loss: float
    low: float
    high: float
    shares: dict[tuple[str, str], float]


class Resampled:
    """A pool, its rows drawn again B times, and what each candidate loses in each draw.

    Parameters
    ----------
    pool
        The candidates.
    resamples
        B.
    seed
        Of the draws: the same seed, the same promise.
    """

    def __init__(self, pool: Pool, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.pool = pool
        rows = len(pool.labels)
        drawn = np.random.default_rng(seed).integers(0, rows, (resamples, rows))
        self.counts = np.stack([np.bincount(one, minlength=rows) for one in drawn])
        self.fastest_first = np.argsort(-pool.speedup, kind="stable")
        self.lost = _loss_by_row(pool)
        self.inside = self._losses(self.counts)
        self.smooth = self._smoothed(self.inside)
        self.all_rows = self._losses(np.ones((1, rows), dtype=np.int64))
        self.smooth_all = self._smoothed(self.all_rows)

    def promise(self, max_loss: float, confidence: float) -> Promise:
        """Choose for a goal: the smallest margin that holds it in a share ``confidence`` of the resamples.

        With fewer rows than `fewest_rows` nothing is promised: a loss that is too rare to occur among them is not seen.
        """
        margins = STEP * np.arange(np.ceil((max_loss + self._reach()) / STEP) + 1)
        limits = max_loss - margins
        chosen = self._choose(self.smooth, limits)  # (B, M)
        found = self._judge(chosen)
        held = (found <= max_loss + ROUNDING).mean(0)
        lasting = np.minimum.accumulate(held[::-1])[::-1]  # of this margin and every larger one: no lucky dip
        good = np.flatnonzero(lasting >= confidence)
        m = int(good[0]) if len(good) else len(margins) - 1
        enough = len(self.pool.labels) >= fewest_rows(max_loss, confidence)
        mine = self.fastest(limits[m]) if enough and len(good) else NONE
        faster = chosen[:, m] != NONE
        lost = found[faster, m] if mine != NONE else np.zeros(1)
        low, high = np.quantile(lost, [0.1, 0.9]) if len(lost) else (0.0, 0.0)
        return Promise(
            max_loss,
            mine,
            float(margins[m]),
            float(held[m]),
            float(1 - faster.mean()),
            float(lost.mean()) if len(lost) else 0.0,
            float(low),
            float(high),
            self._shares(chosen[:, m]),
        )

    def fastest(self, limit: float) -> int:
        """Return the fastest candidate that loses at most ``limit`` points on all rows, or `NONE`."""
        return int(self._choose(self.smooth_all, np.array([limit]))[0, 0])

    def _reach(self) -> float:
        """Return the most that a candidate gains on the rows: no larger margin leaves one."""
        return float(-self.smooth.min(initial=0.0)) + STEP

    def _losses(self, counts: np.ndarray) -> np.ndarray:
        """Return the losses of all candidates, each row taken ``counts`` times, ``(B, C)``."""
        if self.lost is not None:
            return counts.astype(np.float32) @ self.lost.T / counts.sum(1, keepdims=True)
        return np.stack([self.pool.losses(_rows(one)) for one in counts])

    def _smoothed(self, losses: np.ndarray) -> np.ndarray:
        """Return losses ``(B, C)`` that only grow with speed within a family."""
        found = np.array(losses, dtype=np.float64)
        for start, end in self.pool.families:
            if end - start > 1:
                for row in found:
                    row[start:end] = isotonic_regression(row[start:end]).x
        return found

    def _choose(self, losses: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """Return the fastest candidate within each limit, ``(B, C)`` and ``(M,) -> (B, M)``; ties go to the lower loss."""
        order, speed = self.fastest_first, self.pool.speedup[self.fastest_first]
        chosen = np.full((len(losses), len(limits)), NONE)
        if not len(order):
            return chosen
        ends = np.searchsorted(-speed, -speed / TIE, side="right")
        for b, row in enumerate(losses[:, order]):
            best = np.minimum.accumulate(row)
            first = np.searchsorted(-best, -(limits + ROUNDING))
            for place in np.unique(first[first < len(order)]):
                tied = place + int(row[place : ends[place]].argmin())
                chosen[b, first == place] = order[tied]
        return chosen

    def _judge(self, chosen: np.ndarray) -> np.ndarray:
        """Return what the chosen lose, by the rows that chose them and by those left out, ``(B, M)``."""
        found = np.zeros(chosen.shape)
        for b, row in enumerate(chosen):
            which, back = np.unique(row, return_inverse=True)
            real = which != NONE
            loss = np.zeros(len(which))
            inside = self.inside[b, which[real]]
            outside = self._outside(b, which[real]) if (self.counts[b] == 0).any() else inside
            loss[real] = LEFT_OUT * outside + (1 - LEFT_OUT) * inside
            found[b] = loss[back]
        return found

    def _outside(self, b: int, which: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(self.counts[b] == 0)
        if self.lost is not None:
            return self.lost[np.ix_(which, rows)].mean(1)
        return self.pool.losses(rows, which)

    def _shares(self, chosen: np.ndarray) -> dict[tuple[str, str], float]:
        names: Sequence[tuple[str, str]] = [
            ("full", "") if c == NONE else self.pool.name(int(c)) for c in chosen
        ]
        return {name: count / len(names) for name, count in Counter(names).most_common()}


def _loss_by_row(pool: Pool) -> np.ndarray | None:
    """Return each row's part of the losses, ``(C, N)``, where quality is a mean over rows; else None."""
    if pool.metric != "accuracy":
        return None
    right = (pool.answers == pool.labels).astype(np.float32)
    return POINTS * ((pool.full == pool.labels).astype(np.float32) - right)


def _rows(counts: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)
