"""Removal for real: which tokens stay.

Shape suffixes: B rows, N tokens, H hidden width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from adaptive_inference.backbones.base import Context
from adaptive_inference.token_reduction.predictor import ContributionPredictor, contributions


class Reducible(Protocol):
    """A batch on its way, as far as a removal needs it; see `exits.forward.EncoderForward`."""

    hidden_BNH: Tensor
    context: Context

    def keep_tokens(self, keep_BN: Tensor) -> None:
        """Keep some tokens of each row."""


class HardRemoval:
    """Takes tokens out before each layer: what is not kept is computed no more.

    Parameters
    ----------
    predictors
        One for each layer.
    eta_L
        Thresholds, see `kept_tokens`.
    """

    def __init__(self, predictors: Sequence[ContributionPredictor], eta_L: Tensor) -> None:
        self._predictors, self._eta = predictors, eta_L.tolist()

    def before_layer(self, index: int, forward: Reducible) -> None:
        """See `exits.forward.Removal`."""
        segments, tokens_BN = forward.context.segments, forward.context.tokens_BN
        logits_BN = self._predictors[index](forward.hidden_BNH)
        if segments is not None:  # one rule for both forms
            logits_BN, tokens_BN = segments.pad(logits_BN), segments.tokens_BN
        score_BN = contributions(logits_BN, tokens_BN)
        kept_BN = kept_tokens(score_BN, tokens_BN, self._eta[index])
        self.decided(score_BN, tokens_BN, kept_BN)
        forward.keep_tokens(kept_BN)

    def decided(self, score_BN: Tensor, tokens_BN: Tensor | None, kept_BN: Tensor) -> None:
        """Take note of what a layer's removal decided, of the tokens that are still there; see `kept_tokens`."""

    def detach(self) -> None:
        """See `exits.forward.Removal`: nothing is carried from layer to layer but the state itself."""


def kept_tokens(score_BN: Tensor, tokens_BN: Tensor | None, eta: Tensor | float) -> Tensor:
    """Return which tokens stay, (B, N) bool: the first of each row, and those of at least eta / n (adapler.md 1.3, 1.10).

    Parameters
    ----------
    score_BN
        Contributions.
    tokens_BN
        Nonzero where a token is, 0 for padding; the first of a row is a token. Padding never stays. None: no padding.
    eta
        Share of the uniform contribution, 1 / n with n tokens in the row, that a token needs.
    """
    if tokens_BN is None:
        kept_BN = score_BN >= eta / score_BN.shape[1]
    else:
        there_BN = tokens_BN.bool()
        kept_BN = there_BN & (score_BN >= eta / there_BN.sum(1, keepdim=True))
    kept_BN[:, 0] = True
    return kept_BN
