"""A threshold that falls with the position: an early mistake disturbs more of what follows (FREE note, section 1d)."""

from __future__ import annotations

from math import exp


def decayed_threshold(threshold: float, position: int, longest: int, tau: float) -> float:
    """Return ``clip(0.9 threshold + 0.1 exp(-tau position / longest), 0, 1)``, CALM's formula.

    Parameters
    ----------
    threshold
        Threshold in [0, 1]. 1 stays 1: calibration falls back to it as to the full model, and a threshold that
        decays below 1 would not be that.
    position
        Tokens that were generated before this one.
    longest
        Tokens that may be generated, at least 1.
    tau
        Rate of the decay, at least 0; 0 gives ``0.9 threshold + 0.1`` at every position.
    """
    if threshold >= 1.0:
        return 1.0
    return min(1.0, max(0.0, 0.9 * threshold + 0.1 * exp(-tau * position / longest)))
