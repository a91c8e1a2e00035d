"""One row from exit to exit, in plain numbers.

Between two exits a model's weights run through the processor's caches, so that whatever Python and numpy touch next comes
from memory: what takes 30 microseconds again and again takes 250 between layers, a third of a small encoder's time in
int8. So a row by itself is no batch of one: no arrays are made for it, and the rule sees a few numbers
(`OnlineRule.leave_one`).

Shape suffixes: C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.engine.runner import Runner, Single
from adaptive_inference.engine.underway import Decisions, Left, survivors_of
from adaptive_inference.exit_rules import ExitRule, OnlineRule, OnlineStreak

#: The place of the only row.
_PLACE = np.zeros(1, np.int64)


class Alone:
    """Answers batches of one row.

    Parameters
    ----------
    runner
        Does not wait for a device.
    rule, threshold
        When the row leaves.
    calibrator
        What the rule sees answers through.
    exits
        Layers before each exit of the model.
    last
        Index of the exit at which every row leaves.
    lazy
        Ask no exit that decides nothing.
    """

    def __init__(
        self,
        runner: Runner,
        rule: ExitRule,
        threshold: float | None,
        calibrator: Calibrator,
        exits: Sequence[int],
        last: int,
        lazy: bool,
    ) -> None:
        self._runner, self._rule, self._threshold, self._calibrator = runner, rule, threshold, calibrator
        self._temperatures, self._last, self._exits = calibrator.temperatures, last, exits
        online = rule.online(threshold)
        self._streak = lazy and runner.looks_back and isinstance(online, OnlineStreak)
        self._walk = Alone._looked_back if self._streak else Alone._asked_in_turn
        # one for all rows, where it keeps nothing of them
        self._online = None if online.remembers else online
        # what is remembered is of every exit, whether or not a row can leave there
        everywhere = not lazy or online.remembers
        self._asked = tuple(k for k in range(last) if everywhere or k in rule.decides(threshold, len(exits)))
        self._said = [(_constant(k), _constant(layers)) for k, layers in enumerate(exits)]

    def run(self, features: Mapping[str, Any]) -> Decisions:
        """Answer one row; see `Engine.run`."""
        run = self._runner.single(features, not self._streak)
        try:
            online = self._online or self._rule.online(self._threshold)
            k, logits_C = self._walk(self, run, online)
            logits_1C = np.array([logits_C], np.float32)
            survivors = run.survivors
            if survivors is not None:
                survivors = survivors_of([Left(_PLACE, k, logits_1C, survivors)], self._exits)
            return Decisions(logits_1C, *self._said[k], survivors)
        finally:
            run.close()

    def _asked_in_turn(self, run: Single, rule: OnlineRule) -> tuple[int, list[float]]:
        """Return the exit at which the row leaves, and its logits."""
        for k in self._asked:
            logits, certainty = run.answer(k)
            temperature = self._temperatures[k]
            seen = logits if temperature == 1.0 else [value / temperature for value in logits]
            if certainty is not None:
                certainty = float(self._calibrator.certainty(np.array([certainty]), k)[0])
            if rule.leave_one(k, seen, certainty):
                return k, logits
        return self._last, run.answer(self._last)[0]

    def _looked_back(self, run: Single, rule: OnlineStreak) -> tuple[int, list[float]]:
        """Return what `_asked_in_turn` does, asking from the newest exit backwards; see `looks.LookBack`."""
        broken = 0 if rule.compares else -1  # the newest exit known not to hold
        seen: dict[int, list[float]] = {}

        def calibrated(k: int) -> list[float]:
            if k not in seen:
                seen[k] = [value / self._temperatures[k] for value in run.answer(k)[0]]
            return seen[k]

        while (due := broken + rule.needed) < self._last:
            due = int(due)
            run.forget(broken)
            run.advance(due)
            for j in range(due, broken, -1):
                newer = calibrated(j)
                if not rule.holds_one(calibrated(j - 1) if rule.compares else None, newer):
                    broken = j
                    break
            else:
                return due, run.answer(due)[0]
        return self._last, run.answer(self._last)[0]


def _constant(value: int) -> np.ndarray:
    """Return a vector of one number that nobody can change: it serves all rows."""
    found = np.array([value])
    found.flags.writeable = False
    return found
