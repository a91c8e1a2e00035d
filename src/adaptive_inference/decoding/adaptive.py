"""The threshold that a run learns from its own tokens: a mixture of two Beta densities (FREE note, section 1c).

Where the blocks above catch up, each waiting token gives a pair: the confidence of the shallow model, and whether all
blocks would have written the same token. The threshold is the confidence from which agreement is likely enough.

Shapes: N pairs, 2 classes (0: disagree, 1: agree).
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaln, expit

from adaptive_inference.errors import UserError

GRID = np.linspace(0.3, 0.9, 10)  #: thresholds to choose from
EDGE = 1e-4  #: confidences are kept this far from 0 and 1, where a Beta density may be infinite
BLEND = 0.2  #: weight of the label in the reference's responsibilities, which nothing is blended with
NARROWEST = 1e-8  #: variance below which confidences are called constant


def beta_moments(confidence_N: np.ndarray, weight_N: np.ndarray) -> tuple[float, float]:
    """Return the parameters of the Beta density that has the weighted mean and variance of confidences.

    Not finite where the variance is 0.
    """
    total = weight_N.sum()
    mean = (weight_N * confidence_N).sum() / total
    variance = (weight_N * (confidence_N - mean) ** 2).sum() / total
    with np.errstate(divide="ignore", invalid="ignore"):
        a = mean * (mean * (1.0 - mean) / variance - 1.0)
        return float(a), float(a * (1.0 - mean) / mean)


def log_density(confidence: np.ndarray, a: float, b: float) -> np.ndarray:
    """Return the logarithm of a Beta density, of the shape of ``confidence``."""
    return (a - 1.0) * np.log(confidence) + (b - 1.0) * np.log1p(-confidence) - betaln(a, b)


def share_agreeing(grid: np.ndarray, disagree: tuple[float, float], agree: tuple[float, float]) -> np.ndarray:
    """Return ``f_agree / (f_agree + f_disagree)`` at each point of a grid; NaN where a density is not finite."""
    with np.errstate(invalid="ignore"):
        return expit(log_density(grid, *agree) - log_density(grid, *disagree))


class AdaptiveThreshold:
    """Estimates the threshold of ``keep`` while texts are written.

    Two ways. The *reference*'s: classes are labelled almost surely by their pairs, the class with the larger mean is
    taken for the agreeing one, and the threshold is read off the number of grid points that pass; it is the most
    permissive of all where no token ever agreed. The *corrected* one, the default: classes are those of the labels;
    the threshold is the least grid point from which on all pass; where a class has fewer than ``minimum`` pairs or its
    confidences do not vary, the initial threshold stands.

    Parameters
    ----------
    initial
        Threshold until there is a fit, in [0, 1].
    reference
        Estimate as the reference does, faults included.
    level
        Share of agreement above which a grid point passes.
    minimum
        Pairs of each class that the corrected way asks for.
    most_fits
        Fits after which the threshold stays as it is; the reference has 300 for T5 and 100 for LongT5.
    grid
        Ascending thresholds to choose from.

    Attributes
    ----------
    threshold
        What holds now.
    trajectory
        The threshold of each text so far, in order.
    disagree, agree
        Parameters of the two densities of the last fit; None before it. In the reference's way these are the classes
        of the labels, and the larger mean decides which of them is read as agreement.
    confidences, agreed
        All pairs so far.

    Raises
    ------
    UserError
        ``initial``, ``level``, ``minimum``, ``most_fits`` or ``grid`` is out of range.
    """

    def __init__(
        self,
        initial: float = 0.9,
        *,
        reference: bool = False,
        level: float = 0.4,
        minimum: int = 10,
        most_fits: int = 300,
        grid: np.ndarray = GRID,
    ) -> None:
        self.grid = np.asarray(grid, dtype=np.float64)
        if not 0.0 <= initial <= 1.0:
            raise UserError(f"initial threshold {initial!r} of the estimate: give a number from 0 to 1")
        if not 0.0 < level < 1.0:
            raise UserError(f"level {level!r} of the estimate: give a share of agreement between 0 and 1")
        if minimum < 2 or most_fits < 0:
            raise UserError(
                f"minimum {minimum!r} and most_fits {most_fits!r} of the estimate: give 2 or more pairs of a class, and "
                "0 or more fits"
            )
        if self.grid.ndim != 1 or not self.grid.size or not _ascends_inside(self.grid):
            raise UserError("grid of the estimate: give ascending thresholds between 0 and 1")
        self.initial, self.reference, self.level = float(initial), reference, level
        self.minimum, self.most_fits = minimum, most_fits
        self.restart()

    def restart(self) -> None:
        """Forget all texts and pairs, as if no text had been written yet."""
        self.threshold = self.initial
        self.trajectory: list[float] = []
        self.confidences: list[float] = []
        self.agreed: list[bool] = []
        self.disagree: tuple[float, float] | None = None
        self.agree: tuple[float, float] | None = None
        self._fits = 0

    def observe(self, confidences: list[float], agreed: list[bool]) -> None:
        """Add the pairs of one catch-up: N confidences, and whether all blocks wrote the same N tokens."""
        self.confidences += confidences
        self.agreed += agreed

    def begin(self) -> float:
        """Fit anew where there are pairs, and return the threshold of the text that begins."""
        if self.confidences and self._fits < self.most_fits:
            self._fits += 1
            self.threshold = self._fit()
        self.trajectory.append(self.threshold)
        return self.threshold

    def _fit(self) -> float:
        confidence_N = np.clip(np.asarray(self.confidences), EDGE, 1.0 - EDGE)
        agreed_N = np.asarray(self.agreed, dtype=bool)
        if self.reference:
            floored = np.where(agreed_N, BLEND, EDGE), np.where(agreed_N, EDGE, BLEND)
            weight_N = floored[0] / (floored[0] + floored[1])
        else:
            weight_N = agreed_N.astype(np.float64)
            if not (
                _varies(confidence_N[agreed_N], self.minimum)
                and _varies(confidence_N[~agreed_N], self.minimum)
            ):
                return self.initial
        self.disagree = beta_moments(confidence_N, 1.0 - weight_N)
        self.agree = beta_moments(confidence_N, weight_N)
        if self.reference:
            return reference_threshold(self.grid, self.disagree, self.agree, self.level)
        passes = share_agreeing(self.grid, self.disagree, self.agree) > self.level
        from_here_on = np.logical_and.accumulate(passes[::-1])[::-1]
        # Where no point passes, confidence says little: the most careful of what is known.
        return float(self.grid[from_here_on][0]) if from_here_on.any() else max(self.initial, self.grid[-1])


def reference_threshold(
    grid: np.ndarray, first: tuple[float, float], second: tuple[float, float], level: float
) -> float:
    """Return the grid point that the reference reads off the number of points whose share exceeds ``level``."""
    means = [a / (a + b) for a, b in (first, second)]
    low, high = (first, second) if means[1] >= means[0] else (second, first)
    passed = int((share_agreeing(grid, low, high) > level).sum())
    return float(grid[min(max(0, len(grid) - passed), len(grid) - 1)])


def _varies(confidence_N: np.ndarray, minimum: int) -> bool:
    return len(confidence_N) >= minimum and float(confidence_N.var()) > NARROWEST


def _ascends_inside(grid: np.ndarray) -> bool:
    return bool((np.diff(grid) > 0).all() and grid[0] > 0.0 and grid[-1] < 1.0)
