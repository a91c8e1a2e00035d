"""How sure the shallow model is (FREE note, section 1d; CALM's three measures).

Shapes: R rows, V tokens of the vocabulary, D width; leading axes may be more.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

ClassifierKind = Literal["linear", "mlp"]


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


class AgreementClassifier(nn.Module):
    """Says how probable it is that a state already gives the token of all blocks; one for all blocks.

    It reads the residual stream of any block, brought to a root mean square of 1.

    The streams of deeper blocks are larger; at one scale they share weights. So no final norm is needed to read it.

    Parameters
    ----------
    width
        D, of the residual stream.
    kind
        ``linear``: D + 1 parameters, as in the paper; ``mlp``: D -> D -> 1, as in FREE's code.
    """

    def __init__(self, width: int, kind: ClassifierKind = "linear") -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width) if kind == "mlp" else None
        self.output = nn.Linear(width, 1)

    def forward(self, state_ND: Tensor) -> Tensor:
        """Return logits of agreement, (..., D) -> (...)."""
        state_ND = nn.functional.rms_norm(state_ND.float(), state_ND.shape[-1:])
        if self.hidden is not None:
            state_ND = self.hidden(state_ND).relu()
        return self.output(state_ND).squeeze(-1)

    def confidence(self, state_ND: Tensor) -> Tensor:
        """Return the probability of agreement, (..., D) -> (...), in [0, 1]."""
        return self(state_ND).sigmoid()
