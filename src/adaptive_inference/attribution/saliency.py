"""Gradient x input of the gold answer: what contribution predictors learn to imitate (adapler.md 1.1).

Shape suffixes: B rows, N tokens, H hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adaptive_inference.backbones.base import Batch
from adaptive_inference.exits.forward import EncoderForward
from adaptive_inference.exits.model import MultiExitModel


def saliencies(model: MultiExitModel, batch: Batch, labels_B: Tensor) -> Tensor:
    """Return ``|| d gold / d h0 * h0 ||_2`` of each token, (B, N): not negative, 0 on padding.

    ``h0`` is the output of the embeddings, ``gold`` the last exit's logit of the gold label, or its score. Rows do not
    touch each other, so that one backward pass of the sum over the rows gives each row its own gradient.

    Parameters
    ----------
    model
        Put into eval mode. Its weights get no gradient.
    batch
        See `Backbone.embed`.
    labels_B
        Gold labels, int64; of no meaning for a score.
    """
    forward = from_embeddings(model, batch)
    hidden_BNH, tokens_BN = forward.hidden_BNH, forward.context.tokens_BN
    scores_BN = (gradient(forward, labels_B) * hidden_BNH.detach()).norm(dim=-1)
    return scores_BN if tokens_BN is None else scores_BN * tokens_BN


def from_embeddings(model: MultiExitModel, batch: Batch) -> EncoderForward:
    """Start a batch in eval mode; the output of the embeddings is a leaf, with nothing before it to run back through."""
    model.eval()
    with torch.no_grad():
        forward = model.start(batch)
    forward.hidden_BNH = forward.hidden_BNH.detach().requires_grad_()
    return forward


def gradient(forward: EncoderForward, labels_B: Tensor) -> Tensor:
    """Return the gradient of each row's gold answer by the state that the forward holds, (B, N, H)."""
    leaf_BNH = forward.hidden_BNH
    with torch.enable_grad():
        return torch.autograd.grad(gold_answers(forward, labels_B).sum(), leaf_BNH)[0]


def gold_answers(forward: EncoderForward, labels_B: Tensor) -> Tensor:
    """Run on to the last exit; return its logit of each row's gold label, or its score, (B,)."""
    last = len(forward.exits) - 1
    forward.advance(last)
    logits_BC = forward.answer(last, certainty=False).logits
    if logits_BC.shape[1] == 1:
        return logits_BC[:, 0]
    return logits_BC.gather(1, labels_B[:, None])[:, 0]
