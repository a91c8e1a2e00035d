"""Which exits are asked, and which rows leave there: every exit in turn, or only where a decision can fall.

Shapes: B rows still there, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.engine.runner import Answer, Run
from adaptive_inference.exit_rules import OnlineRule, OnlineStreak


class Look(Protocol):
    """One batch and its rule, asked exit after exit; the last exit is asked for its logits alone."""

    def leaving(self, k: int) -> np.ndarray:
        """Say which rows leave at exit ``k``, (B,)."""

    def logits(self, k: int) -> np.ndarray:
        """Return the logits (B, C) of exit ``k``, before temperature."""

    def select(self, rows: np.ndarray) -> None:
        """Keep some rows."""


class EveryExit:
    """Asks the rule at every exit."""

    def __init__(self, run: Run, cuts: Sequence[int], rule: OnlineRule, calibrator: Calibrator) -> None:
        self.run, self._cuts, self._rule, self._calibrator = run, tuple(cuts), rule, calibrator
        self._at, self._cut = 0, -1  # the next cut's number, and the cut last run to
        self._answers: dict[int, Answer] = {}  # up to the cut

    def leaving(self, k: int) -> np.ndarray:
        """See `Look.leaving`."""
        logits, certainty = self._answer(k)
        calibrator = self._calibrator
        return self._rule.leave(k, calibrator.logits(logits, k), calibrator.certainty(certainty, k))

    def logits(self, k: int) -> np.ndarray:
        """See `Look.logits`."""
        return self._answer(k).logits

    def select(self, rows: np.ndarray) -> None:
        """See `Look.select`."""
        self.run.select(rows)
        self._rule.select(rows)
        self._answers = {
            k: Answer(logits[rows], None if certainty is None else certainty[rows])
            for k, (logits, certainty) in self._answers.items()
        }

    def take(self, rows: np.ndarray) -> EveryExit:
        """Return a look at some rows, as `select` would keep them; this one is left as it was. At a cut, all asked."""
        taken = copy.copy(self)
        taken.run, taken._rule, taken._answers = self.run.take(rows), copy.copy(self._rule), {}
        taken._rule.select(rows)
        return taken

    def merge(self, others: Sequence[EveryExit]) -> None:
        """Take in the rows of other looks at the same cut, behind one's own; all asked."""
        self.run.merge([item.run for item in others])
        self._rule.merge([item._rule for item in others])
        self._answers = {}

    def _answer(self, k: int) -> Answer:
        if k > self._cut:
            before, self._cut = self._cut, self._cuts[self._at]
            self._at += 1
            self._answers = self.run.advance(self._cut, range(before + 1, self._cut + 1))
        return self._answers[k]


class LookBack:
    """Looks at counted exits from the newest backwards: the same exits, with fewer heads and fewer waits for the device.

    A rule that leaves after a run of n exits that hold cannot leave before n exits lie behind the last one that did not.
    So the layers run on to there, and only then the run is looked at, newest exit first: one that does not hold ends the
    look, and whatever lies before it is never asked for (PABEE/LeeBERT note, section 6). In a batch, a head that one row
    asks for is run for all.

    Parameters
    ----------
    run, cuts, calibrator
        As of `EveryExit`; the run can look back.
    rule
        Fresh, at one threshold; only whether an exit holds is asked of it.
    rows
        B.
    last
        Index of the model's last exit.
    together
        Fetch all that a look may need at once: more heads, but one wait for the device. Else one by one.
    """

    def __init__(
        self,
        run: Run,
        cuts: Sequence[int],
        rule: OnlineStreak,
        calibrator: Calibrator,
        rows: int,
        last: int,
        together: bool,
    ) -> None:
        self._run, self._cuts, self._rule, self._calibrator = run, iter(cuts), rule, calibrator
        self._last, self._together, self._cut, self._newest = last, together, -1, -1
        # of each row, the newest exit known not to hold; the first one has none to compare with
        self._broken_B = np.full(rows, 0 if rule.compares else -1)
        self._held: list[int] = []  # exits that were passed and can still be asked
        self._seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # their logits, raw and calibrated
        self._settle()

    def leaving(self, k: int) -> np.ndarray:
        """See `Look.leaving`."""
        self._advance(k)
        self._newest = k  # its logits are the answer of those who leave
        leaves_B = np.zeros(len(self._broken_B), bool)
        if k >= self._due:
            open_B = self._broken_B + self._rule.needed <= k  # rows of which a run may be complete
            for j in range(k, -1, -1):
                newer = self._answer(j)[1]
                holds_B = self._rule.holds(self._answer(j - 1)[1] if self._rule.compares else None, newer)
                self._broken_B[open_B & ~holds_B] = j
                open_B &= holds_B
                leaves_B |= open_B & (self._broken_B == j - 1)
                open_B &= ~leaves_B
                if not open_B.any():
                    break
            self._broken_B[leaves_B] = self._last  # whoever has left is looked at no more
            self._settle()
        if self._held and self._held[0] < self._oldest:
            self._run.release([j for j in self._held if j < self._oldest])
            self._held = [j for j in self._held if j >= self._oldest]
        return leaves_B

    def logits(self, k: int) -> np.ndarray:
        """See `Look.logits`."""
        self._advance(k)
        return self._answer(k)[0]

    def select(self, rows: np.ndarray) -> None:
        """See `Look.select`."""
        self._run.select(rows)
        self._broken_B = self._broken_B[rows]
        self._settle()
        self._seen = {k: (raw[rows], calibrated[rows]) for k, (raw, calibrated) in self._seen.items()}

    def _settle(self) -> None:
        """Find the next exit at which a run can be complete, and the oldest that will then be asked."""
        hopeful_B = self._broken_B[self._broken_B + self._rule.needed < self._last]
        self._oldest = hopeful_B.min() if hopeful_B.size else self._last
        self._due = self._oldest + self._rule.needed
        still_asked = min(self._oldest, self._newest)
        self._seen = {j: item for j, item in self._seen.items() if j >= still_asked}

    def _advance(self, k: int) -> None:
        if k > self._cut:
            before, self._cut = self._cut, next(self._cuts)
            self._run.advance(self._cut)
            self._held += range(before + 1, self._cut + 1)

    def _answer(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        if k not in self._seen:
            wanted = self._held if self._together else [k]
            for j, answer in self._run.answer(wanted).items():
                self._seen[j] = answer.logits, self._calibrator.logits(answer.logits, j)
            self._held = [j for j in self._held if j not in self._seen]
        return self._seen[k]
