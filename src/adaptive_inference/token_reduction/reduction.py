"""What a model with token reduction owns: a contribution predictor and a threshold for each layer.

Shape suffixes: L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_inference.token_reduction.hard import HardRemoval
from adaptive_inference.token_reduction.predictor import ContributionPredictor
from adaptive_inference.token_reduction.recorded import RecordedRemoval
from adaptive_inference.token_reduction.soft import SoftRemoval

#: Thresholds at the start, as a share of the uniform contribution (adapler.md 1.3).
INITIAL_ETA = 0.25
#: Thresholds are kept within these.
LEAST_ETA, MOST_ETA = 0.01, 1.0


class TokenReduction(nn.Module):
    """Predictors and thresholds of an encoder (adapler.md 1.2, 1.3, 1.6d).

    Parameters
    ----------
    layers
        L; each has its own predictor, where layers share their weights too (ALBERT).
    hidden_size
        H.

    Attributes
    ----------
    eta
        (L,) thresholds.
    theta
        (L - 1,) factors by which training multiplies the first token's share of the saliency, from the second layer on;
        removal does not read them.
    """

    def __init__(self, layers: int, hidden_size: int) -> None:
        super().__init__()
        self.predictors = nn.ModuleList(ContributionPredictor(hidden_size) for _ in range(layers))
        self.eta = nn.Parameter(torch.full((layers,), INITIAL_ETA))
        self.theta = nn.Parameter(torch.ones(layers - 1))
        # A plain list beside the registered modules: a ModuleList costs a string conversion per look-up.
        self._predictors: Sequence[ContributionPredictor] = list(self.predictors)

    def hard(self) -> HardRemoval:
        """Return what takes tokens out of one batch."""
        return HardRemoval(self._predictors, self.eta)

    def recorded(self) -> RecordedRemoval:
        """Return what takes tokens out of one batch and remembers which."""
        return RecordedRemoval(self._predictors, self.eta)

    def soft(self, sharpness: float) -> SoftRemoval:
        """Return what fades the tokens of one training batch; the gradient of its probe arrives at `theta`."""
        probe = _Probe.apply(self.theta) if self.theta.requires_grad else torch.ones_like(self.theta)
        return SoftRemoval(self._predictors, self.eta, sharpness, probe)

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring thresholds that an optimiser has moved back into their range."""
        self.eta.clamp_(LEAST_ETA, MOST_ETA)


class _Probe(torch.autograd.Function):
    """Ones in the place of theta: what they would gain is theta's gradient, relative to its size (adapler.md 1.6d)."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor) -> Tensor:
        ctx.save_for_backward(theta)
        return torch.ones_like(theta)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (theta,) = ctx.saved_tensors
        return gradient / (theta + 1e-7)
