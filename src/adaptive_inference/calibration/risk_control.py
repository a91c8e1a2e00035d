"""Certify a threshold: with probability at least ``1 - epsilon``, its true risk is at most ``delta``.

Learn-then-Test: each threshold has the null hypothesis "its risk exceeds delta", tested by a Hoeffding-Bentkus p-value;
fixed-sequence testing walks from the slowest threshold towards faster ones and stops at the first that is not
rejected. Valid for any distribution, any model and any N, if the N rows are independent draws that nothing the
predictions depend on was fitted on (FREE note, section 1d; what that takes here: docs/risk_control.md).

Shapes: T thresholds, N rows.
"""

from __future__ import annotations

import logging
from math import ceil, log, log1p
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr, rel_entr

from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from adaptive_inference.settings.protocol import Risk

logger = logging.getLogger(__name__)


def hoeffding_bentkus(mean_loss: float | np.ndarray, n: int, delta: float) -> np.ndarray:
    """Return p-values of "the risk exceeds delta": the smaller of Hoeffding's and Bentkus' bound, at most 1.

    ``min(exp(-n KL(min(mean, delta) || delta)), e P[Bin(n, delta) <= ceil(n mean)])``, of any shape.

    Parameters
    ----------
    mean_loss
        Mean over ``n`` independent rows of a loss in [0, 1], ``(...)``.
    n
        Rows, at least 1.
    delta
        Risk, in (0, 1).
    """
    mean = np.asarray(mean_loss, dtype=np.float64)
    low = np.minimum(mean, delta)
    hoeffding = np.exp(-n * (rel_entr(low, delta) + rel_entr(1.0 - low, 1.0 - delta)))
    total = np.ceil(np.round(n * mean, 9))  # n (k / n) may round to just above the count k
    return np.minimum(1.0, np.minimum(hoeffding, np.e * bdtr(total, n, delta)))


def fixed_sequence(p_values: np.ndarray, epsilon: float) -> np.ndarray:
    """Count the hypotheses rejected in a row from the first on, ``(..., T) -> (...)``.

    All of them are true rejections with probability ``1 - epsilon``: the first true null hypothesis of the order is
    rejected with probability ``epsilon`` at most, and no later one is reached unless it was. The order must be set
    before the losses are seen.
    """
    return np.logical_and.accumulate(np.asarray(p_values) <= epsilon, axis=-1).sum(-1)


def certify(losses: np.ndarray, delta: float, epsilon: float, keys: str = "goal.risk") -> int | None:
    """Return the index of the fastest threshold whose risk is certified; None where not even the safest is.

    Parameters
    ----------
    losses
        ``(T, N)`` in [0, 1], thresholds from the safest (slowest) to the fastest: an order set before the losses are seen,
        never one of observed losses.
    delta, epsilon
        Greatest risk, and greatest probability to be wrong; both in (0, 1).
    keys
        The section of params that holds them, for messages.

    Raises
    ------
    UserError
        ``delta`` or ``epsilon`` is out of range, a loss is, or there is no row.
    """
    _check_fractions(delta, epsilon, keys)
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 2 or not losses.size or not ((losses >= 0) & (losses <= 1)).all():
        raise UserError(
            f"losses of shape {losses.shape}: risk control needs (thresholds, rows), one at least of each, every loss in "
            "[0, 1]; scale or clip the losses row by row"
        )
    count = int(fixed_sequence(hoeffding_bentkus(losses.mean(1), losses.shape[1], delta), epsilon))
    return count - 1 if count else None


def least_rows(delta: float, epsilon: float, keys: str = "goal.risk") -> int:
    """Return the fewest rows that can certify anything: those whose p-value without a single loss is ``epsilon``.

    Without a loss ``KL(0 || delta) = -ln(1 - delta)``, so ``p = (1 - delta)^n``. The round figure ``ln(1 / epsilon) /
    delta`` asks for slightly more, since ``-ln(1 - delta) > delta``.
    """
    _check_fractions(delta, epsilon, keys)
    return max(1, ceil(log(epsilon) / log1p(-delta)))


def fewest_rows(max_loss: float, confidence: float) -> int:
    """Return how many rows it takes that losing none of them shows a loss of at most ``max_loss`` points, so confidently."""
    loss = max_loss / 100
    return least_rows(loss, 1 - confidence) if 1e-9 < loss < 1 else 1


def halves(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut ``n`` rows at random into those that temperatures are fitted on and those that certify (the larger part)."""
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 :])


def set_apart(
    rows: int, kind: str, risk: Risk | None, seed: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the rows that fit and those that certify: nothing that decides a prediction may have seen the latter.

    None and None, all rows fit, where no risk is asked for. Rows too few to certify anything are told in the log; the
    points will say it again.

    Raises
    ------
    UserError
        The task's kind has no risk, see `check_kind`.
    """
    if risk is None:
        return None, None
    check_kind(kind)
    try:
        check_rows(rows, risk.delta, risk.epsilon)
    except UserError as error:
        logger.warning("no threshold will qualify: %s", error)
    return halves(rows, seed)


def check_kind(kind: str) -> None:
    """Refuse a kind of task without right and wrong answers."""
    if kind != "classification":
        raise UserError(
            f"goal.risk counts right and differing answers, which a {kind} task has none of; remove `goal.risk` or the task"
        )


def check_rows(calibration_rows: int, delta: float, epsilon: float) -> None:
    """Refuse a calibration split whose certifying half (see `halves`) is too small for any threshold."""
    rows, needed = calibration_rows - calibration_rows // 2, least_rows(delta, epsilon)
    if rows < needed:
        reachable = f"; {rows} rows reach delta {_up(1 - epsilon ** (1 / rows))}" if rows else ""
        raise UserError(
            f"goal.risk: delta {delta:g} with epsilon {epsilon:g} needs {needed} rows to certify anything, and "
            f"{calibration_rows} calibration rows give {rows} (the other half fits the temperatures){reachable}; give at "
            f"least {2 * needed - 1} (`calibration_rows`, at most a fifth of the rows to train on) or raise delta or epsilon"
        )


# ---- losses of one row, in [0, 1] ------------------------------------------------------------------------------------


def accuracy_loss(answers: np.ndarray, full: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return ``max(0, right by the full model - right at the exit)``, row by row: 1 where only the full model is right.

    Clipped before averaging: rows that an exit alone gets right buy nothing back.

    Parameters
    ----------
    answers
        Classes at the exits taken, ``(T, N)``.
    full, labels
        The full model's classes and the true ones, ``(N,)``.
    """
    return ((full == labels) & (answers != labels)).astype(np.float64)


def consistency_loss(answers: np.ndarray, full: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Return 1 where an answer differs from the full model's, ``(T, N)``; needs no labels. See `accuracy_loss`."""
    return (answers != full).astype(np.float64)


LOSSES = {"accuracy": accuracy_loss, "consistency": consistency_loss}  #: by the name in ``goal.risk.loss``


def _check_fractions(delta: float, epsilon: float, keys: str) -> None:
    for name, value in (("delta", delta), ("epsilon", epsilon)):
        if not 0.0 < value < 1.0:
            raise UserError(f"{keys}.{name} is {value:g}; it lies between 0 and 1, both excluded, e.g. 0.05")


def _up(value: float) -> float:
    """Round up to three decimals, so that the figure still suffices."""
    return ceil(value * 1000) / 1000
