"""How far the exits of a model pull the layers that they share in different directions: SWEET's reason to cut gradients.

Each exit's task loss has a gradient with respect to a layer's weights; the cosine of two exits' gradients says whether a
step for one also helps the other (1), has nothing to do with it (0), or undoes it (below 0).

Shape suffixes: B rows, N tokens, H hidden width, E exits, P parameters of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.objectives.base import task_loss
from adaptive_inference.tasks.encode import Feature, collate

#: Training rows that the gradients are taken on: the first ones, the same for all methods of a seed.
ROWS = 64


def gradient_conflict(model: MultiExitModel, features: Sequence[Feature]) -> list[dict[str, Any]]:
    """Return the cosines of the exits' gradients in every layer that at least two exits reach.

    Every exit's plain task loss is sent through all layers below it, whatever the method's own routing (SWEET lets it
    reach its own block only) and its own loss, and whatever the method freezes: what the conflict would be if the exits
    were trained together from here. Without dropout, hence without random numbers; weights stay as they are, and the
    model is left in eval mode.

    One layer at a time is run again and differentiated, from the last one down, so that memory holds one layer's graph,
    one hidden state per layer and one layer's gradients per exit. In all that is two forward passes, and for each exit
    one backward pass from where it is. Where layers share weights (ALBERT), a gradient is that of one use of them.

    Parameters
    ----------
    model
        Trained; on any device.
    features
        Rows of `tasks.encode.encode` with labels, one batch; see `ROWS`.

    Returns
    -------
    list of dict
        By layer, from 1: ``layer``; ``pairs``, ``"K-J"`` -> cosine of the gradients of the exits after layers K and J,
        null where one of them is 0; ``mean_cosine``, the mean of those that there are.
    """
    model.eval()
    batch = collate(features, getattr(model.tokenizer, "pad_token_id", None))
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    backbone, top = model.backbone, model.exits[-1]
    with torch.no_grad():
        hidden_BNH, context = backbone.embed(batch)
        entering = [hidden_BNH]
        for layer in range(top):
            entering.append(backbone.run_layer(layer, entering[-1], context))

    rows, arriving = [], {}
    with _all_trainable(model), torch.enable_grad():
        for layer in range(top, 0, -1):
            left_BNH = entering.pop().requires_grad_()
            if layer in model.exits:
                head = model.heads[model.exits.index(layer)]
                features_BF = head.features(left_BNH, context.tokens_BN, model.pooler)
                loss = task_loss(head.classifier(features_BF), batch["labels"])
                (arriving[layer],) = torch.autograd.grad(loss, left_BNH)
            entered_BNH = entering[-1].requires_grad_()
            run_BNH = backbone.run_layer(layer - 1, entered_BNH, context)
            weights = backbone.layer_parameters(layer - 1, layer)
            gradients = {}
            for exit_, gradient_BNH in arriving.items():
                *own, arriving[exit_] = torch.autograd.grad(
                    run_BNH, [*weights, entered_BNH], gradient_BNH, retain_graph=True, materialize_grads=True
                )
                gradients[exit_] = torch.cat([item.flatten() for item in own])
            if len(gradients) > 1:
                rows.append(_row(layer, gradients))
    return rows[::-1]


def _row(layer: int, gradients_P: dict[int, Tensor]) -> dict[str, Any]:
    exits = sorted(gradients_P)
    table = cosines(torch.stack([gradients_P[exit_] for exit_ in exits])).tolist()
    places = combinations(range(len(exits)), 2)
    pairs = {f"{exits[i]}-{exits[j]}": None if math.isnan(table[i][j]) else table[i][j] for i, j in places}
    known = [value for value in pairs.values() if value is not None]
    return {"layer": layer, "mean_cosine": sum(known) / len(known) if known else None, "pairs": pairs}


def cosines(vectors_EP: Tensor) -> Tensor:
    """Return the cosine of every pair of vectors, (E, E); NaN for one that is 0 and has no direction."""
    lengths_E1 = torch.linalg.vector_norm(vectors_EP, dim=1, keepdim=True, dtype=torch.float64)
    units_EP = (vectors_EP / lengths_E1).float()
    return units_EP @ units_EP.T


@contextmanager
def _all_trainable(model: nn.Module) -> Iterator[None]:
    """Let gradients reach every weight for a while, those too that a method has frozen."""
    frozen = [item for item in model.parameters() if not item.requires_grad]
    model.requires_grad_(True)
    try:
        yield
    finally:
        for item in frozen:
            item.requires_grad_(False)
