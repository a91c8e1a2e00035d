"""What confidence is worth: reliability bins, the expected calibration error, and how well it foretells failures.

The two say different things: an exit that answers every row with its mean accuracy as confidence has no calibration
error, and cannot tell which rows should leave there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptive_inference.exit_rules._softmax import shifted_exponentials


def reliability(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> dict[str, Any]:
    """Return reliability of one exit.

    Parameters
    ----------
    logits
        ``(N, C)``, calibrated or not.
    labels
        ``(N,)``.
    bins
        Equal bins of confidence over (0, 1], each closed above.

    Returns
    -------
    dict
        ``ece``: mean over the rows of their bin's ``|confidence - accuracy|``; ``bins``: for each bin the mean
        ``confidence``, ``accuracy`` (null where empty) and ``count``; ``failure_auroc``: see `failure_auroc`.
    """
    confidence = 1.0 / shifted_exponentials(logits)[1].sum(-1)
    right = np.asarray(logits).argmax(-1) == labels
    where = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(where, minlength=bins)
    sums = (np.bincount(where, weights=values, minlength=bins) for values in (confidence, right))
    mean_confidence, accuracy = (
        np.divide(s, count, out=np.full(bins, np.nan), where=count > 0) for s in sums
    )
    gap = np.where(count > 0, np.abs(mean_confidence - accuracy), 0.0)
    table = [
        {"confidence": float(c) if n else None, "accuracy": float(a) if n else None, "count": int(n)}
        for c, a, n in zip(mean_confidence, accuracy, count, strict=True)
    ]
    ece = float((gap * count).sum() / len(labels))
    return {"ece": ece, "bins": table, "failure_auroc": failure_auroc(confidence, right)}


def failure_auroc(confidence: np.ndarray, right: np.ndarray) -> float | None:
    """Return the chance that a right answer is more confident than a wrong one, a tie counting half.

    This is the area under the ROC curve of confidence as a predictor of right answers: 1 where confidence separates
    them from the wrong ones, 0.5 where it says nothing. It depends on the order of the confidences alone.

    Parameters
    ----------
    confidence
        ``(N,)``.
    right
        ``(N,)`` bool: whether the row's answer is right.

    Returns
    -------
    float or None
        None where there is no pair: all answers are right, or all wrong.
    """
    from scipy.stats import rankdata

    hits = int(right.sum())
    misses = len(right) - hits
    if not hits or not misses:
        return None
    below = (
        rankdata(confidence)[right].sum() - hits * (hits + 1) / 2
    )  # pairs that are in order, ties as halves
    return float(below / (hits * misses))
