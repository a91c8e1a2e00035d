"""The speed-up that AdapLeR's paper would report of a model, its error included: to read papers' numbers by, no result.

Defined where the published polynomials are (`cost.published`): 12 layers, 768 wide, one exit, behind the last.

Shape suffixes: N rows, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.cost.published import published_speedup, published_survivors
from adaptive_inference.exits.outputs import batches_of_like_length

if TYPE_CHECKING:
    from adaptive_inference.exits import MultiExitModel

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
            removal = model.reduction.recorded()
            model.start(batch, removal=removal).advance(len(model.exits) - 1)
            order.append(places)
            scores = torch.stack(removal.scores, 1).cpu().numpy()
            counts.append(published_survivors(scores, float(model.reduction.eta[-1])))
    return np.concatenate(counts)[np.argsort(np.concatenate(order))]
