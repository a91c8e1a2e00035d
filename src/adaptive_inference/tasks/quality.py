"""Quality as GLUE scores a task, for any number of prediction vectors at once.

Every metric is a fraction (never percent), vectorised over leading axes: ``predictions`` is ``(..., N)`` and
``labels`` is ``(N,)`` or ``(..., N)``, so that one call scores all thresholds, or all resamples. The values equal
scikit-learn's and SciPy's (tested); where those are undefined (a constant vector), the quality is 0. Correlations lie
in -1 to 1; ``pearson_spearman`` is the mean of the two, as GLUE reports STS-B.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adaptive_inference.errors import UserError, nearest


def predict(logits: np.ndarray, kind: str) -> np.ndarray:
    """Return class indices (the first of equal maxima) or scores, ``(..., C) -> (...)``."""
    return logits[..., 0] if kind == "regression" else logits.argmax(-1)


def quality(
    metric: str, predictions: np.ndarray, labels: np.ndarray, num_classes: int | None = None
) -> float | np.ndarray:
    """Score predictions.

    Parameters
    ----------
    metric
        One of `METRICS`.
    predictions
        Class indices or scores, ``(..., N)``.
    labels
        The truth, ``(N,)`` or of the shape of ``predictions``.
    num_classes
        Classes of the task; absent: one more than the largest index seen.

    Returns
    -------
    float or array ``(...)``
        A float when ``predictions`` is a vector.

    Raises
    ------
    UserError
        The metric is unknown, there are no rows, or a score is not finite.
    """
    if metric not in METRICS:
        raise UserError(
            f"no metric {metric!r}; allowed: {', '.join(METRICS)}{nearest(metric, list(METRICS))}"
        )
    predictions = np.asarray(predictions)
    if predictions.shape[-1] == 0:
        raise UserError(f"cannot score {metric} of an empty split; give it at least one row")
    if predictions.dtype.kind == "f" and not np.isfinite(predictions).all():
        raise UserError(
            f"cannot score {metric} of answers that are not finite; train again with a lower `training.learning_rate`"
        )
    labels = np.broadcast_to(np.asarray(labels), predictions.shape)
    rows = predictions.reshape(-1, predictions.shape[-1]), labels.reshape(-1, labels.shape[-1])
    counted = metric in ("f1", "matthews")
    values = METRICS[metric](_confusion(*rows, num_classes)) if counted else METRICS[metric](*rows)
    return float(values[0]) if predictions.ndim == 1 else values.reshape(predictions.shape[:-1])


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (predictions == labels).mean(-1)


def _f1(confusion: np.ndarray) -> np.ndarray:
    """F1 of class 1 for two classes; for more, the mean over the classes that occur."""
    right = np.einsum("tcc->tc", confusion)
    marked = confusion.sum(1) + confusion.sum(2)
    per_class = np.divide(2 * right, marked, out=np.zeros(marked.shape), where=marked > 0)
    if confusion.shape[-1] == 2:
        return per_class[:, 1]
    return per_class.sum(-1) / np.maximum((marked > 0).sum(-1), 1)


def _matthews(confusion: np.ndarray) -> np.ndarray:
    true, chosen = confusion.sum(2).astype(float), confusion.sum(1).astype(float)
    right, rows = np.einsum("tcc->t", confusion).astype(float), true.sum(-1)
    covariance = right * rows - (true * chosen).sum(-1)
    spread = (rows**2 - (chosen**2).sum(-1)) * (rows**2 - (true**2).sum(-1))
    return np.divide(covariance, np.sqrt(spread), out=np.zeros_like(rows), where=spread > 0)


def _pearson(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    x = predictions - predictions.mean(-1, keepdims=True, dtype=float)
    y = labels - labels.mean(-1, keepdims=True, dtype=float)
    spread = np.sqrt((x * x).sum(-1)) * np.sqrt((y * y).sum(-1))
    # the mean of equal numbers may be off by rounding, so that a constant vector is told by its extremes
    defined = (np.ptp(predictions, axis=-1) > 0) & (np.ptp(labels, axis=-1) > 0) & (spread > 0)
    return np.divide((x * y).sum(-1), spread, out=np.zeros_like(spread), where=defined)


def _spearman(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return _pearson(rankdata(predictions, axis=-1), rankdata(labels, axis=-1))


def _pearson_spearman(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (_pearson(predictions, labels) + _spearman(predictions, labels)) / 2


def _confusion(predictions: np.ndarray, labels: np.ndarray, num_classes: int | None) -> np.ndarray:
    """Count ``(T, true class, predicted class)``."""
    predictions, labels = predictions.astype(np.int64), labels.astype(np.int64)
    classes = num_classes or max(2, int(max(predictions.max(), labels.max())) + 1)
    cells = labels * classes + predictions
    cells += np.arange(len(cells))[:, None] * classes**2
    return np.bincount(cells.ravel(), minlength=len(cells) * classes**2).reshape(-1, classes, classes)


METRICS: dict[str, Callable[..., np.ndarray]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "pearson_spearman": _pearson_spearman,
}
