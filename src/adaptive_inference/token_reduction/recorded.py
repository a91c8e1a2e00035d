"""Removal for real that remembers which tokens went, and what each contributed.

Shape suffixes: B rows, N tokens of the batch at its start, K columns that are left.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adaptive_inference.token_reduction.hard import HardRemoval
from adaptive_inference.token_reduction.predictor import ContributionPredictor


class RecordedRemoval(HardRemoval):
    """A `HardRemoval` whose decisions are kept, at the places that the tokens had at the start; for full-depth batches.

    Attributes
    ----------
    scores
        Of each layer run, the contributions on entry, (B, N) float32: 0 for padding and for what went before.
    kept
        Of each layer run, the tokens that it runs on, (B, N) bool; none comes back.
    """

    def __init__(self, predictors: Sequence[ContributionPredictor], eta_L: Tensor) -> None:
        super().__init__(predictors, eta_L)
        self.scores: list[Tensor] = []
        self.kept: list[Tensor] = []

    def decided(self, score_BN: Tensor, tokens_BN: Tensor | None, kept_BN: Tensor) -> None:
        """See `HardRemoval.decided`."""
        there_BK = torch.ones_like(kept_BN) if tokens_BN is None else tokens_BN.bool()
        before_BN = self.kept[-1] if self.kept else there_BK
        # Tokens stay in their order: the k-th that is there is the k-th that was kept.
        scores_BN = torch.zeros(before_BN.shape, device=score_BN.device)
        scores_BN[before_BN] = score_BN[there_BK].float()
        after_BN = torch.zeros_like(before_BN)
        after_BN[before_BN] = kept_BN[there_BK]
        self.scores.append(scores_BN)
        self.kept.append(after_BN)
