"""Scores of all tokens of all rows, of any kind."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
from torch import Tensor

from adaptive_inference.attribution.attention import attention_rollout, last_layer_attention
from adaptive_inference.attribution.integrated import integrated_gradients
from adaptive_inference.attribution.saliency import saliencies
from adaptive_inference.attribution.store import Origin, Scores, tokenizer_digest
from adaptive_inference.backbones.base import Batch
from adaptive_inference.errors import UserError, nearest
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.exits.outputs import batches_of_like_length
from adaptive_inference.settings.protocol import ScoreKind
from adaptive_inference.tasks.encode import Feature

KINDS: tuple[str, ...] = get_args(ScoreKind)
logger = logging.getLogger("adaptive_inference")


def extract_scores(
    model: MultiExitModel,
    features: Sequence[Feature],
    kind: str,
    batch_size: int,
    max_length: int,
    made_from: Mapping[str, str],
    steps: int = 32,
) -> Scores:
    """Score every token of every row, in eval mode, on the model's device.

    Parameters
    ----------
    model
        With its tokenizer. Its last exit's answer is explained.
    features
        Rows of `tasks.encode.encode`, with gold labels.
    kind
        Of `KINDS`.
    batch_size
        Rows per forward; of integrated gradients, where a row is `steps` of them, as many rows as fit, at least one.
    max_length
        That the rows were encoded with.
    made_from
        Digests that are kept with the scores.
    steps
        Of integrated gradients.

    Raises
    ------
    UserError
        No such kind.
    """
    if kind not in KINDS:
        raise UserError(f"token scores of kind {kind!r}; there are {', '.join(KINDS)}{nearest(kind, KINDS)}")
    origin = Origin(tokenizer_digest(model.tokenizer), max_length, made_from)
    rows_at_once = batch_size if kind != "integrated_gradients" else max(1, batch_size // steps)
    rows: list[np.ndarray] = [np.zeros(0, np.float32)] * len(features)
    gaps: list[float] = []
    for places, batch in batches_of_like_length(model, features, rows_at_once):
        scores = _scores(model, batch, kind, steps, gaps).float().cpu().numpy()
        for place, row in zip(places, scores, strict=True):
            rows[place] = row[: features[place]["length"]]
    if gaps:
        logger.info(
            "%d steps: a row's attributions miss its difference by %.2g on average", steps, np.mean(gaps)
        )
    return Scores.join(kind, [feature["id"] for feature in features], rows, origin)


def _scores(model: MultiExitModel, batch: Batch, kind: str, steps: int, gaps: list[float]) -> Tensor:
    """Return the scores of one batch, (B, N); integrated gradients add what they miss to the gaps."""
    if kind == "saliency":
        return saliencies(model, batch, batch["labels"])
    if kind == "integrated_gradients":
        found = integrated_gradients(model, batch, batch["labels"], steps)
        gaps += found.gap_B.abs().tolist()
        return found.scores_BN
    return (last_layer_attention if kind == "attention" else attention_rollout)(model, batch)
