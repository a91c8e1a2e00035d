"""The speed-up that AdapLeR's paper would report of a model, its error included: to read papers' numbers by, no result.

Defined where the published polynomials are (`cost.published`): 12 layers, 768 wide, one exit, behind the last.

Shape suffixes: B rows, N tokens, H hidden width; N rows and L layers of arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.cost.published import published_speedup, published_survivors
from adaptive_inference.exits.outputs import batches_of_like_length
from adaptive_inference.token_reduction.predictor import contributions

if TYPE_CHECKING:
    from torch import Tensor

    from adaptive_inference.exits import MultiExitModel
    from adaptive_inference.exits.forward import EncoderForward
    from adaptive_inference.token_reduction.reduction import TokenReduction

#: Of BERT-base: layers, width, inner width.
SHAPE = (12, 768, 3072)


def speedup_as_published(
    model: MultiExitModel, features: Sequence[Mapping[str, Any]], batch_size: int
) -> float | None:
    """Return the ratio of totals over all rows by the published accounting; None where that is not defined.

    Parameters
    ----------
    model
        Anything; only one that removes tokens, of BERT-base's shape and with one exit, has such a figure.
    features
        As `tasks.encode.encode` returns them.
    batch_size
        Rows per forward.
    """
    if getattr(model, "reduction", None) is None or model.exits != (SHAPE[0],):
        return None
    config = model.backbone.config
    if (model.backbone.hidden_size, getattr(config, "intermediate_size", None)) != SHAPE[1:]:
        return None
    lengths = np.array([feature["length"] for feature in features])
    classes = model.outputs
    return published_speedup(lengths, count_as_published(model, features, batch_size), classes)


def count_as_published(
    model: MultiExitModel, features: Sequence[Mapping[str, Any]], batch_size: int
) -> np.ndarray:
    """Return the tokens that the published code counts after each layer, (N, L) int64, from the scores of a real removal."""
    import torch

    assert model.reduction is not None
    model.eval()
    order, counts = [], []
    with torch.inference_mode():
        for places, batch in batches_of_like_length(model, list(map(dict, features)), batch_size):
            scores = _Scores(model.reduction)
            model.start(batch, removal=scores).advance(len(model.exits) - 1)
            order.append(places)
            counts.append(published_survivors(scores.array(), float(model.reduction.eta[-1])))
    return np.concatenate(counts)[np.argsort(np.concatenate(order))]


class _Scores:
    """The removal of a reduction, with the scores on entry to each layer kept."""

    def __init__(self, reduction: TokenReduction) -> None:
        self._predictors, self._hard = reduction.predictors, reduction.hard()
        self._scores: list[np.ndarray] = []

    def before_layer(self, index: int, forward: EncoderForward) -> None:
        """See `exits.forward.Removal`."""
        hidden_BNH, tokens_BN = forward.hidden_BNH, forward.context.tokens_BN
        there_BN: Tensor = hidden_BNH.new_ones(hidden_BNH.shape[:2]) if tokens_BN is None else tokens_BN
        score_BN = contributions(self._predictors[index](hidden_BNH), there_BN)
        self._scores.append(score_BN.cpu().numpy())
        self._hard.before_layer(index, forward)

    def detach(self) -> None:
        """See `exits.forward.Removal`."""

    def array(self) -> np.ndarray:
        """Return the scores, (B, L, N), 0 where no token is: what was removed is missing at the end, not in its place."""
        longest = self._scores[0].shape[1]
        padded = [np.pad(scores, ((0, 0), (0, longest - scores.shape[1]))) for scores in self._scores]
        return np.stack(padded, axis=1)
