"""One temperature per exit, by a convex fit of its inverse (SWEET note, section 1.6).

The mean negative log-likelihood of ``softmax(beta z)`` is convex in ``beta = 1 / T``: its slope is
``mean(E_p[z] - z_y)`` and its curvature ``mean(Var_p[z])``. Newton steps inside a bracket that shrinks around the
slope's zero reach the optimum in a few passes over the logits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adaptive_inference.exit_rules._softmax import shifted_exponentials

LOWEST, HIGHEST = 0.01, 100.0  #: of the temperature and of its inverse alike
FLAT = 1e-6  #: nats of mean NLL that nobody can tell apart


def nll(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood in nats of ``logits / temperature``, ``(N, C)`` and ``(N,)``."""
    z, e = shifted_exponentials(np.asarray(logits, dtype=np.float64) / temperature)
    return float((np.log(e.sum(-1)) - z[np.arange(len(z)), labels]).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature of least mean NLL between 0.01 and 100.

    Logits that separate the labels perfectly have no optimum (``beta`` grows without end): then the temperature
    nearest to 1 whose NLL is within 1e-6 of the bound's, so that confidences stay apart. Never worse than T = 1.

    Parameters
    ----------
    logits
        Of one exit, ``(N, C)``, collected in eval mode.
    labels
        ``(N,)``.
    """
    z = np.asarray(logits, dtype=np.float64)
    rows = np.arange(len(z))
    z = z - z[rows, labels][:, None]  # the label's logit at 0: the slope is then the mean of E_p[z]

    def slope(beta: float) -> tuple[float, float]:
        e = shifted_exponentials(beta * z)[1]
        p = e / e.sum(-1, keepdims=True)
        mean = (p * z).sum(-1)
        return float(mean.mean()), float(((p * z * z).sum(-1) - mean * mean).mean())

    def loss(beta: float) -> float:
        return nll(z, labels, 1.0 / beta)

    low, high = LOWEST, HIGHEST
    if slope(low)[0] >= 0.0:
        best = low
    elif slope(high)[0] <= 0.0:
        target = loss(high) + FLAT
        best = _smallest(lambda beta: loss(beta) <= target, 1.0, high)
    else:
        best = 1.0
        for _ in range(100):
            first, second = slope(best)
            low, high = (best, high) if first < 0.0 else (low, best)
            step = best - first / second if second > 0.0 else low
            step = step if low < step < high else (low + high) / 2
            if abs(step - best) <= 1e-12 * best:
                break
            best = step
    return 1.0 if loss(1.0) <= loss(best) else 1.0 / best


def _smallest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return the smallest value of an interval at which a condition, true above some point, holds."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
