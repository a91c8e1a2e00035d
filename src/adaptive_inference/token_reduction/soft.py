"""Removal as training sees it: every token stays, and fades from attention as its score falls below a threshold.

Shape suffixes: B rows, N tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Height of the shallow branches, times the sharpness (beta, adapler.md 1.4).
BETA = 0.1
#: No bias lies below: as good as removed.
LOWEST = -10_000.0
#: A survival weight at or below this is not multiplied any further.
GONE = 1e-6


def soft_removal(score: Tensor, threshold: Tensor, sharpness: float) -> Tensor:
    """Return what a token's attention bias changes by, never positive and never below `LOWEST` (adapler.md 1.4).

    Steep below the threshold, shallow above, continuous and non-decreasing in the score.

    Parameters
    ----------
    score
        Contributions, in [0, 1].
    threshold
        In (0, 1], of a shape that broadcasts with the scores.
    sharpness
        Lambda; as it grows, this becomes a step from `LOWEST` to 0.
    """
    low = BETA / sharpness
    steep = sharpness / (threshold + 1e-30) * (score - threshold) - low
    shallow = (score - 1) * low / (1 - threshold + 1e-7)
    return torch.minimum(steep, shallow).clamp(min=LOWEST, max=0.0)


def fade(survival_BN: Tensor, change_BN: Tensor) -> Tensor:
    """Return the survival weights after a layer's removal; `GONE` ones stay as they are."""
    return torch.where(survival_BN > GONE, survival_BN * change_BN.exp(), survival_BN)


def sharpness_at(epoch: int, epochs: int) -> float:
    """Return the sharpness of an epoch, from 0 (adapler.md 1.5)."""
    start, factor = {3: (50, 50), 10: (10, 3)}.get(epochs, (10, 10))
    return float(start * factor**epoch)
