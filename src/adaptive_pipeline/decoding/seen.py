"""A way to answer in which all blocks see what the shallow model is sure of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptive_inference.generation.answers import Answering
    from adaptive_pipeline.decoding.at_hand import MethodAtHand

#: Its name.
SEEN = "seen"


def seen_tokens(at_hand: MethodAtHand) -> Answering | None:
    """Return a way in which all blocks see every token that the shallow model is tested on; None for other policies.

    No token leaves early in it: one that did would be seen only where the blocks above catch up later.
    """
    from adaptive_inference.decoding.generate import EarlyExitDecoding
    from adaptive_inference.decoding.policy import SHALLOW_DEEP
    from adaptive_inference.generation.answers import Answering

    if at_hand.method.policy not in SHALLOW_DEEP:
        return None
    return Answering(SEEN, at_hand.model, EarlyExitDecoding(at_hand.policy, observe=True))
