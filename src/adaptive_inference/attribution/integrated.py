"""Integrated gradients of the gold answer (Sundararajan et al. 2017), from a row without its words.

Shape suffixes: B rows, N tokens, H hidden width, S points of the path.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_inference.attribution.saliency import from_embeddings, gold_answers
from adaptive_inference.backbones.base import Batch
from adaptive_inference.errors import UserError
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.tasks.encode import special_ids


@dataclass(frozen=True)
class Integrated:
    """Attributions of a batch.

    Attributes
    ----------
    signed_BN
        What each token adds to the gold answer; 0 on special tokens and padding.
    difference_B
        The gold answer of the row less that of its baseline, which the tokens' sum comes near to as steps grow.
    """

    signed_BN: Tensor
    difference_B: Tensor

    @property
    def scores_BN(self) -> Tensor:
        """How much a token matters, in either direction."""
        return self.signed_BN.abs()

    @property
    def gap_B(self) -> Tensor:
        """What the sum over the tokens misses of the difference (completeness), signed."""
        return self.signed_BN.sum(1) - self.difference_B


def integrated_gradients(
    model: MultiExitModel, batch: Batch, labels_B: Tensor, steps: int = 32
) -> Integrated:
    """Integrate the gradient along the straight path from the baseline's embeddings to the row's.

    The baseline is the row with the padding token in place of each token that is not special. Positions and types stay,
    also in families that count positions over tokens that are no padding. All points of the path are one batch.

    Parameters
    ----------
    model
        With its tokenizer; put into eval mode. Its weights get no gradient.
    batch
        See `Backbone.embed`; S = ``steps`` + 2 times its rows are run at once.
    labels_B
        Gold labels, int64; of no meaning for a score.
    steps
        Midpoints of the Riemann sum, at least 1.

    Raises
    ------
    UserError
        Fewer steps than 1, or the model has no tokenizer to tell words from special tokens.
    """
    if steps < 1:
        raise UserError(
            f"integrated gradients of {steps} steps; take at least 1, and 32 or more to be accurate"
        )
    base_BNH = _baseline(model, batch)
    forward = from_embeddings(model, batch)
    way_BNH = forward.hidden_BNH.detach() - base_BNH
    # The two ends ride along: they give the difference, and take no part in the sum.
    ends = way_BNH.new_tensor([0.0, 1.0])
    points_S = torch.cat([(torch.arange(steps, device=ends.device) + 0.5) / steps, ends])
    path_BSNH = base_BNH[:, None] + points_S[:, None, None] * way_BNH[:, None]
    rows = torch.arange(len(way_BNH), device=ends.device)
    forward.select(rows.repeat_interleave(len(points_S)))
    forward.hidden_BNH = leaf = path_BSNH.flatten(0, 1).requires_grad_()
    with torch.enable_grad():
        answers = gold_answers(forward, labels_B.repeat_interleave(len(points_S)))
        answers_BS = answers.unflatten(0, (len(rows), -1))
        found = torch.autograd.grad(answers_BS[:, :steps].sum(), leaf)[0]
    mean_BNH = found.unflatten(0, (len(rows), -1))[:, :steps].mean(1)
    ends_B2 = answers_BS[:, steps:].detach()
    return Integrated((mean_BNH * way_BNH).sum(-1), ends_B2[:, 1] - ends_B2[:, 0])


@torch.no_grad()
def _baseline(model: MultiExitModel, batch: Batch) -> Tensor:
    """Return the embeddings' output for the rows without their words, (B, N, H)."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise UserError(
            "integrated gradients need the model's tokenizer, to tell words from special tokens, and it was saved "
            "without one; build the model with its tokenizer"
        )
    ids_BN = batch["input_ids"]
    word_BN = ~torch.isin(ids_BN, ids_BN.new_tensor(special_ids(tokenizer)))
    emptied_BN = ids_BN.masked_fill(word_BN, tokenizer.pad_token_id or 0)
    # At the words' embedding, not in the batch: RoBERTa and MPNet would give other tokens other positions.
    words = model.backbone.model.get_input_embeddings()
    hook = words.register_forward_pre_hook(lambda module, given: (emptied_BN,))
    try:
        model.eval()
        return model.backbone.embed(batch)[0]
    finally:
        hook.remove()
