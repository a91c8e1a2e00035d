"""How much each token contributes, said before a layer runs (adapler.md 1.2).

Shape suffixes: B rows, N tokens, H hidden width.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

#: Units of the inner layer.
WIDTH = 32


class ContributionPredictor(nn.Module):
    """Dense H -> 32, GELU, dense 32 -> 1: a logit for each token of the state that enters a layer.

    Parameters
    ----------
    hidden_size
        H.
    width
        Units of the inner layer.
    """

    def __init__(self, hidden_size: int, width: int = WIDTH) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(hidden_size, width), nn.Linear(width, 1)

    def forward(self, hidden_BNH: Tensor) -> Tensor:
        """Return logits (B, N) in fp32, under autocast too: thresholds lie close to the scores."""
        kind = hidden_BNH.device.type
        # Left where it is entered alone: that takes as long as a predictor does for a few tokens.
        on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=False) if on else nullcontext():
            return self.outer(nn.functional.gelu(self.inner(hidden_BNH.float()))).squeeze(-1)


def contributions(logits_BN: Tensor, weights_BN: Tensor | None = None) -> Tensor:
    """Return the scores (B, N): a softmax over the tokens, each weighted by its survival; they sum to 1.

    With weights of 0 and 1 it is the softmax over those of 1. What stands at a weight of 0, padding say, has no influence.

    Parameters
    ----------
    logits_BN
        Of a `ContributionPredictor`.
    weights_BN
        In [0, 1]; a row has at least one above 0. None: all are 1.
    """
    if weights_BN is None:
        return logits_BN.softmax(1)
    there_BN = weights_BN > 0
    logits_BN = logits_BN.masked_fill(~there_BN, -torch.inf)
    shifted_BN = (logits_BN - logits_BN.amax(1, keepdim=True).detach()).masked_fill(~there_BN, 0.0)
    shares_BN = shifted_BN.exp() * weights_BN
    total_B1 = shares_BN.sum(1, keepdim=True) + 1e-15  # what fades may be all that is near the largest logit
    return shares_BN / total_B1
