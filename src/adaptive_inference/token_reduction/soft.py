"""Removal as training sees it: every token stays, and fades from attention as its score falls below a threshold.

Shape suffixes: B rows, N tokens, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adaptive_inference.token_reduction.hard import Reducible
from adaptive_inference.token_reduction.predictor import ContributionPredictor, contributions

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


class SoftRemoval:
    """Fades tokens before each layer; a head that reads the mean weighs them by their survival (adapler.md 1.2 to 1.4).

    Parameters
    ----------
    predictors
        One for each layer.
    eta_L
        Thresholds, as a share of the uniform contribution.
    sharpness
        See `soft_removal`.
    probe
        (L - 1,) ones by which the first token's contribution is multiplied from the second layer on: their gradient says
        how much of the saliency the first token should take (theta, 1.6d). None: nothing asks for it.

    Attributes
    ----------
    scores
        Of each layer run, the contributions (B, N) on entry.
    entry
        The survival weights (B, N) that they were made with: 1 for the first token, 0 for padding.
    lengths
        The tokens left after each layer's removal, as a sum of survival weights, (B,).
    """

    def __init__(
        self,
        predictors: Sequence[ContributionPredictor],
        eta_L: Tensor,
        sharpness: float,
        probe: Tensor | None = None,
    ) -> None:
        self._predictors, self._eta_L, self._sharpness, self._probe = predictors, eta_L, sharpness, probe
        self.scores: list[Tensor] = []
        self.entry: list[Tensor] = []
        self.lengths: list[Tensor] = []
        self._bias_BN: Tensor | None = None

    def before_layer(self, index: int, forward: Reducible) -> None:
        """See `exits.forward.Removal`."""
        weight_BN, bias_BN = self._state(forward)
        score_BN = contributions(self._predictors[index](forward.hidden_BNH), weight_BN)
        self.scores.append(score_BN)
        self.entry.append(weight_BN)
        if self._probe is not None and index > 0:
            first_B1 = score_BN[:, :1] * self._probe[index - 1].clamp(min=0.001)
            score_BN = torch.cat([first_B1, score_BN[:, 1:]], dim=1)
            score_BN = score_BN / score_BN.sum(1, keepdim=True)
        threshold_B1 = self._eta_L[index] / weight_BN.sum(1, keepdim=True)
        others_BN = weight_BN[:, 1:]  # the first token is never removed
        change_BN = soft_removal(score_BN[:, 1:], threshold_B1, self._sharpness) * others_BN
        weight_BN = torch.cat([weight_BN[:, :1], fade(others_BN, change_BN)], dim=1)
        bias_BN = torch.cat([bias_BN[:, :1], (bias_BN[:, 1:] + change_BN).clamp(min=LOWEST)], dim=1)
        self.lengths.append(weight_BN.sum(1))
        self._bias_BN = bias_BN
        attention = bias_BN[:, None, None].to(forward.hidden_BNH.dtype)
        forward.context = replace(forward.context, tokens_BN=weight_BN, rows={"attention": attention})

    def detach(self) -> None:
        """See `exits.forward.Removal`."""
        if self._bias_BN is not None:
            self._bias_BN = self._bias_BN.detach()

    def _state(self, forward: Reducible) -> tuple[Tensor, Tensor]:
        tokens_BN = forward.context.tokens_BN
        if self._bias_BN is not None and tokens_BN is not None:
            return tokens_BN, self._bias_BN
        if tokens_BN is None:
            tokens_BN = forward.hidden_BNH.new_ones(forward.hidden_BNH.shape[:2])
        weight_BN = tokens_BN.float()
        return weight_BN, (1 - weight_BN) * LOWEST
