"""How sure the shallow model is (FREE note, section 1d; CALM's three measures).

Shapes: R rows, V tokens of the vocabulary, D width; leading axes may be more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def softmax_gap(logits_RV: Tensor) -> Tensor:
    """Return the largest minus the second largest softmax probability, ``(..., V) -> (...)``, in [0, 1].

    No softmax is formed: two logits and one logarithm of a sum, in float32 at least.
    """
    logits_RV = logits_RV.float() if logits_RV.dtype in (torch.float16, torch.bfloat16) else logits_RV
    top_R2 = logits_RV.topk(2, dim=-1).values
    largest_R, second_R = (top_R2 - logits_RV.logsumexp(-1, keepdim=True)).exp().unbind(-1)
    return largest_R - second_R


def saturation(hidden_RD: Tensor, below_RD: Tensor) -> Tensor:
    """Return the cosine of the states after a block and after the block below it, ``(..., D) -> (...)``."""
    # Rounding may give a little more than 1, which would leave early at a threshold of 1.
    return nn.functional.cosine_similarity(hidden_RD.float(), below_RD.float(), dim=-1).clamp_max(1.0)


class ExitClassifier(nn.Module):
    """Says how probable it is that a state already gives the token that all blocks would: D -> D -> 2, shared by blocks.

    Parameters
    ----------
    width
        D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, 2)

    def forward(self, hidden_RD: Tensor) -> Tensor:
        """Return logits of "disagrees, agrees", ``(..., D) -> (..., 2)``."""
        return self.output(self.hidden(hidden_RD).relu())

    def confidence(self, hidden_RD: Tensor) -> Tensor:
        """Return the probability of agreement, ``(..., D) -> (...)``."""
        return self(hidden_RD).float().softmax(-1)[..., 1]
