"""AdapLeR with exits, all trained together: a row may lose tokens before a layer and leave after it (adapler.md 7).

``gradient: shared`` lets every exit train all that is below it. ``blockwise`` (SWEET) hands each block its state, its
survival weights and its attention bias without their gradient: predictors and thresholds of a block learn from its own
exit's loss, its own imitation and its own tokens left, and from nothing above.
"""

from __future__ import annotations

from adaptive_inference.objectives.adapler import Adapler


class AdaplerJoint(Adapler):
    """Trains all exits."""

    one_exit = False


OBJECTIVE = AdaplerJoint
