"""Counted exits, looked at from the newest backwards: the same exit, with fewer heads and fewer waits for the device.

A rule that leaves after a run of n exits that hold cannot leave before n exits lie behind the last one that did not. So the
layers run on to there, and only then the run is looked at, newest exit first: one that does not hold ends the look, and
whatever lies before it is never asked for (PABEE/LeeBERT note, section 6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from adaptive_inference.exit_rules import OnlineStreak
from adaptive_inference.exits.model import LateStep

#: From steps to their calibrated logits, each (1, C).
Read = Callable[[Sequence[LateStep]], list[np.ndarray]]


def find_exit(
    steps: Iterable[LateStep], last: int, rule: OnlineStreak, read: Read, together: bool
) -> LateStep:
    """Return the step that answers; its head, like those before it, has run only if it was looked at.

    Parameters
    ----------
    steps
        Of one row, from `ExitModule.steps` with ``late``.
    last
        Index of the model's last exit.
    rule
        Fresh, at one threshold; only whether an exit holds is asked of it.
    read
        Runs the heads of some steps and fetches their logits.
    together
        Fetch all that a look may need at once: more heads, but one wait for the device. Else one by one.
    """
    broken = (
        0 if rule.compares else -1
    )  # the newest exit known not to hold; the first has none to compare with
    states: dict[int, LateStep] = {}  # of at most n + 1 exits
    seen: dict[int, np.ndarray] = {}

    def logits(k: int) -> np.ndarray:
        if k not in seen:
            wanted = [j for j in sorted(states) if j not in seen] if together else [k]
            seen.update(zip(wanted, read([states[j] for j in wanted]), strict=True))
        return seen[k]

    for step in steps:
        if step.index == last:
            return step
        if broken + rule.needed >= last:  # no inner exit can complete a run any more
            continue
        states[step.index] = step
        if step.index < broken + rule.needed:
            continue
        for k in range(step.index, broken, -1):
            newer = logits(k)
            if not rule.holds(logits(k - 1) if rule.compares else None, newer)[0]:
                broken = k
                break
        else:
            return step
        states = {k: kept for k, kept in states.items() if k >= broken}
    raise RuntimeError("a model without exits")
