"""How far confidence and accuracy lie apart: reliability bins and the expected calibration error."""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptive_inference.exit_rules.base import shifted_exponentials


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
        ``confidence``, ``accuracy`` (null where empty) and ``count``.
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
    return {"ece": float((gap * count).sum() / len(labels)), "bins": table}
