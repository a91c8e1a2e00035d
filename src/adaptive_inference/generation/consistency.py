"""Certify a threshold of early-exit decoding: with probability ``1 - epsilon``, outputs lose at most ``delta``.

CALM's two consistencies (FREE note, section 1d), both losses of one prompt in [0, 1]:

* *textual*: how much the early output differs from the full model's; needs no references;
* *risk*: how much less a reference is met than by the full model's output, never below 0. Clipped prompt by prompt, before
  averaging: prompts that the early output serves better buy nothing back.

The test is the classifiers' (`calibration.risk_control`). A threshold changes later states, so every threshold of the grid
is run by itself. The test holds if the grid was fixed beforehand, and if the prompts are independent draws on which nothing
was fitted.

Shapes: T thresholds, N prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adaptive_inference.calibration.risk_control import certify, hoeffding_bentkus, least_rows
from adaptive_inference.errors import UserError

#: How well a text meets its references, in [0, 1]: ``score(text, references)``.
Score = Callable[[str, Sequence[str]], float]

#: The section of params that holds delta and epsilon.
KEYS = "generation.calibration"


@dataclass(frozen=True)
class Certified:
    """A threshold with the evidence of its test."""

    threshold: float  #: 1.0, which never exits, where no threshold of the grid passed
    passed: int  #: thresholds that passed in a row, from the highest on
    rows: int  #: prompts
    risk: float  #: mean loss at the threshold returned; 0 of the full model itself
    p_value: float | None  #: of the threshold returned; None where none passed
    stopped_at: float | None  #: the first threshold that did not pass; None where all did


def textual_losses(early_TN: Sequence[Sequence[str]], full_N: Sequence[str], score: Score) -> np.ndarray:
    """Return ``1 - score(early output, [full output])``, ``(T, N)``.

    Parameters
    ----------
    early_TN
        Outputs at each threshold.
    full_N
        Outputs of the full model for the same prompts.
    score
        1 for equal texts.

    Raises
    ------
    UserError
        The outputs are not of the same prompts, or a score is outside [0, 1].
    """
    return 1.0 - _scores(early_TN, [[text] for text in full_N], score)


def risk_losses(
    early_TN: Sequence[Sequence[str]],
    full_N: Sequence[str],
    references_N: Sequence[Sequence[str]],
    score: Score,
) -> np.ndarray:
    """Return ``max(0, score(full output) - score(early output))`` prompt by prompt, ``(T, N)``.

    Parameters
    ----------
    early_TN, full_N, score
        See `textual_losses`.
    references_N
        One text or more for each prompt.

    Raises
    ------
    UserError
        See `textual_losses`.
    """
    full_1N = _scores([full_N], references_N, score)
    return np.maximum(0.0, full_1N - _scores(early_TN, references_N, score))


def certified_threshold(
    thresholds: Sequence[float], losses_TN: np.ndarray, delta: float, epsilon: float
) -> Certified:
    """Return the lowest threshold of a descending walk whose risk is certified to be at most ``delta``.

    The walk goes from the highest threshold down and stops at the first that fails, whatever comes after it.

    Parameters
    ----------
    thresholds
        The grid, ``(T,)``, in any order: the walk sorts it.
    losses_TN
        Each prompt's loss at each threshold, in the order of ``thresholds``; every threshold was run by itself.
    delta, epsilon
        Greatest risk, and greatest probability to be wrong; both in (0, 1).

    Raises
    ------
    UserError
        A threshold is outside [0, 1] or named twice, the losses do not fit the grid or leave [0, 1], delta or epsilon is out
        of range, or the prompts are too few to certify anything even without a loss.
    """
    grid, losses_TN = check_grid(thresholds), np.asarray(losses_TN, dtype=np.float64)
    if losses_TN.ndim != 2 or len(losses_TN) != len(grid):
        raise UserError(
            f"losses of shape {losses_TN.shape} do not fit {len(grid)} thresholds; "
            "give one row of losses for each threshold"
        )
    rows = losses_TN.shape[1]
    check_prompts(rows, delta, epsilon)
    order = np.argsort(-grid)
    grid, losses_TN = grid[order], losses_TN[order]
    found = certify(losses_TN, delta, epsilon, KEYS)
    if found is None:
        return Certified(1.0, 0, rows, 0.0, None, float(grid[0]))
    risk, passed = float(losses_TN[found].mean()), found + 1
    p_value = float(hoeffding_bentkus(risk, rows, delta))
    stopped_at = float(grid[passed]) if passed < len(grid) else None
    return Certified(float(grid[found]), passed, rows, risk, p_value, stopped_at)


def check_prompts(prompts: int, delta: float, epsilon: float) -> None:
    """Refuse prompts too few to certify any threshold, even if none of them lost anything."""
    needed = least_rows(delta, epsilon, KEYS)
    if prompts < needed:
        raise UserError(
            f"{KEYS}.prompts: {prompts} prompts cannot certify delta {delta:g} with epsilon {epsilon:g}; "
            f"give at least {needed}, or raise delta or epsilon"
        )


def check_grid(thresholds: Sequence[float]) -> np.ndarray:
    """Return a grid of thresholds as an array, ``(T,)``; refuse one that is empty, repeats or leaves [0, 1]."""
    grid = np.asarray(thresholds, dtype=np.float64)
    if grid.ndim != 1 or not grid.size or not ((grid >= 0) & (grid <= 1)).all():
        raise UserError(
            f"{KEYS}.thresholds {list(thresholds)!r}: give one threshold or more, all in [0, 1]; 1 never exits"
        )
    if len(np.unique(grid)) < len(grid):
        raise UserError(
            f"{KEYS}.thresholds {list(thresholds)!r} names a threshold twice; remove one of the two"
        )
    return grid


def _scores(
    texts_TN: Sequence[Sequence[str]], references_N: Sequence[Sequence[str]], score: Score
) -> np.ndarray:
    rows = len(references_N)
    for texts in texts_TN:
        if len(texts) != rows:
            raise UserError(f"{len(texts)} outputs and {rows} references; give one for each prompt")
    found = np.array(
        [
            [score(text, references) for text, references in zip(texts, references_N, strict=True)]
            for texts in texts_TN
        ],
        dtype=np.float64,
    ).reshape(len(texts_TN), rows)
    if not ((found >= 0) & (found <= 1)).all():
        raise UserError(
            "a score lies outside [0, 1], where no bound holds; scale it, for example divide BLEU by 100"
        )
    return found
