"""What the predictors learn to imitate: saliencies, restricted to the tokens that are still there (adapler.md 1.6).

Shape suffixes: B rows, N tokens.
"""

from __future__ import annotations

from torch import Tensor

#: Both distributions are clipped to [FLOOR, 1] before their logarithms are taken.
FLOOR = 1e-7


def imitation_target(saliency_BN: Tensor, weights_BN: Tensor, first_factor: Tensor | float = 1.0) -> Tensor:
    """Return the target (B, N) of a layer; each row sums to 1.

    Parameters
    ----------
    saliency_BN
        Not negative.
    weights_BN
        Survival on entry to the layer, 1 for the first token, 0 for padding.
    first_factor
        Theta: multiplies the first token's odds; 1 changes nothing.
    """
    target_BN = _normalised(saliency_BN * weights_BN)
    factor_B = target_BN.new_ones(len(target_BN)) * first_factor
    first_B1 = (target_BN[:, 0] * factor_B).unsqueeze(1)
    rest_BN = target_BN.clone()
    rest_BN[:, :1] = first_B1
    return _normalised(rest_BN)


def imitation_loss(target_BN: Tensor, score_BN: Tensor, weights_BN: Tensor) -> Tensor:
    """Return the mean over rows of KL(target || scores); a row of which only the first token is left counts nothing."""
    target_BN, score_BN = (item.clamp(FLOOR, 1.0) for item in (target_BN, score_BN))
    divergence_B = (target_BN * (target_BN.log() - score_BN.log())).sum(1)
    others_BN = weights_BN[:, 1:]
    left_B = others_BN.amax(1).detach() if others_BN.shape[1] else divergence_B.new_zeros(len(divergence_B))
    return (divergence_B * left_B).mean()


def layer_weights(layers: int) -> list[int]:
    """Return the weights of the layers' losses: L for the first, 1 for the last."""
    return list(range(layers, 0, -1))


def _normalised(values_BN: Tensor) -> Tensor:
    return values_BN / values_BN.sum(1, keepdim=True).clamp(min=1e-15)
