"""Whether two splits are alike, as far as an unlabelled look can tell: a classifier two-sample test.

A classifier learns to tell rows of one split from rows of the other, by their length and by how sure the exits are of
them; it is judged on rows that it did not learn from (Lopez-Paz and Oquab, 2017). Where it does better than chance, what
was calibrated on one split is promised for other texts than those of the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptive_inference.exit_rules._softmax import shifted_exponentials
from adaptive_inference.exits.outputs import ExitOutputs

FOLDS = 5


def two_sample_test(
    first: ExitOutputs, second: ExitOutputs, kind: str, seed: int = 0
) -> dict[str, Any] | None:
    """Return how well rows of one split are told from those of another of the same model.

    Returns
    -------
    dict
        ``auc``: chance that a row of the second looks more like the second than a row of the first does, 0.5 where they
        are alike; ``p_value`` of "they are alike", by the normal approximation of the rank sum; ``features``: what was
        looked at. None where a split has fewer than two rows.
    """
    from scipy.special import ndtr
    from scipy.stats import rankdata
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    columns = [_features(outputs, kind) for outputs in (first, second)]
    names, x = list(columns[0]), np.concatenate([np.column_stack(list(item.values())) for item in columns])
    m, n = len(first.labels), len(second.labels)
    if min(m, n) < 2:
        return None
    y = np.repeat([0, 1], [m, n])
    folds = StratifiedKFold(min(FOLDS, m, n), shuffle=True, random_state=seed)
    learner = HistGradientBoostingClassifier(max_iter=50, max_depth=3, random_state=seed)
    score = cross_val_predict(learner, x, y, cv=folds, method="predict_proba")[:, 1]
    ranks = rankdata(score)
    auc = (ranks[m:].sum() - n * (n + 1) / 2) / (m * n)
    spread = np.sqrt((m + n + 1) / (12.0 * m * n))
    return {"auc": float(auc), "p_value": float(ndtr((0.5 - auc) / spread)), "features": names}


def _features(outputs: ExitOutputs, kind: str) -> dict[str, np.ndarray]:
    """Return what is looked at of each row, by name, ``(N,)`` each."""
    found = {"length": outputs.lengths.astype(np.float64)}
    for k, layer in enumerate(outputs.exits):
        logits = outputs.logits[:, k]
        if kind == "regression":
            found[f"score at exit {layer}"] = logits[:, 0].astype(np.float64)
        else:
            found[f"confidence at exit {layer}"] = 1.0 / shifted_exponentials(logits)[1].sum(-1)
    return found
