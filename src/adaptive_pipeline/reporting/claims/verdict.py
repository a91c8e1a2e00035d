"""From an interval to a word: the one rule by which every claim is judged, and what several tests say together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

#: Where the paper puts the first method: above the second, below it, or level with it.
Side = Literal["above", "below", "level"]
#: Half a point: an interval that stays within it, on both sides of 0, holds no difference that matters.
BAND = 0.005
#: How much slower a method may run, as a share, and still count as equally fast.
SLACK = 0.1
#: By this factor two points may differ in speed on the rows that they were chosen on, if no closer ones are there.
FAR = 1.25
#: Evaluation rows from which a task's tests are asked first.
MANY_ROWS = 2000


class Verdict(StrEnum):
    """What a test, or all tests of a claim, say."""

    HOLDS = "holds"
    DOES_NOT = "does not"
    NO_DIFFERENCE = "no difference seen"
    UNTOLD = "cannot be told"


@dataclass(frozen=True)
class Effect:
    """First minus second method, with the interval of 95 %; or one mean figure.

    Attributes
    ----------
    mean, low, high
        A fraction (0.01 is a point), or a cosine. NaN ends: there is no interval.
    std
        Over seeds, n - 1; NaN for one seed.
    seeds, rows
        How many, rows of the evaluation split; 0 where it was not asked.
    of
        What was compared, in words.
    paired
        Both methods' answers to the same rows are known; else the interval is a bound, and wider.
    speedups
        Times fewer layers of the two on the evaluation rows, where layers were saved.
    speed_matters
        The two were to be equally fast.
    """

    mean: float
    low: float
    high: float
    std: float
    seeds: int
    rows: int
    of: str
    paired: bool = True
    speedups: tuple[float, float] | None = None
    speed_matters: bool = True


def judge(effect: Effect, side: Side) -> Verdict:
    """Return what an effect says about a claim.

    A difference counts only where speed does not explain it: the better one must not be more than `SLACK` slower.
    """
    if math.isnan(effect.low):
        return Verdict.UNTOLD
    first, second = (effect.speedups if effect.speed_matters else None) or (1.0, 1.0)
    first_fair, second_fair = first >= (1 - SLACK) * second, second >= (1 - SLACK) * first
    small = effect.low >= -BAND and effect.high <= BAND and first_fair and second_fair
    if side == "level":
        apart = (effect.low > BAND and first_fair) or (effect.high < -BAND and second_fair)
        return Verdict.HOLDS if small else Verdict.DOES_NOT if apart else Verdict.UNTOLD
    better, worse = effect.low > 0 and first_fair, effect.high < 0 and second_fair
    if better or worse:
        return Verdict.HOLDS if better == (side == "above") else Verdict.DOES_NOT
    return Verdict.NO_DIFFERENCE if small else Verdict.UNTOLD


@dataclass(frozen=True)
class Finding:
    """One test of a claim: where, what came out, and what it says.

    Attributes
    ----------
    invented
        The task's texts are generated.
    """

    preset: str
    task: str
    backbone: str
    invented: bool
    effect: Effect
    verdict: Verdict


def decide(tests: Iterable[Finding]) -> tuple[Verdict, list[Finding]]:
    """Return what all tests of a claim say together, and those that decide.

    Real tasks of at least `MANY_ROWS` rows are asked first, then other real ones, then generated ones: the first kind of
    which there is a test decides, so that generated texts never outvote real ones. Its tests that can tell must agree.
    """
    kinds: dict[int, list[Finding]] = {0: [], 1: [], 2: []}
    for test in tests:
        kinds[2 if test.invented else int(test.effect.rows < MANY_ROWS)].append(test)
    asked = next(filter(None, kinds.values()), [])
    telling = [test for test in asked if test.verdict != Verdict.UNTOLD]
    words = {test.verdict for test in telling}
    return words.pop() if len(words) == 1 else Verdict.UNTOLD, telling or asked
