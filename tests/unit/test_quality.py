"""Quality equals scikit-learn's and SciPy's, for one vector and for many at once."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk

from adaptive_inference.errors import UserError
from adaptive_inference.tasks.quality import METRICS, predict, quality


def references(metric: str, predictions: np.ndarray, labels: np.ndarray, classes: int) -> float:
    if metric == "accuracy":
        return sk.accuracy_score(labels, predictions)
    if metric == "f1":
        return sk.f1_score(
            labels, predictions, average="binary" if classes == 2 else "macro", zero_division=0
        )
    if metric == "matthews":
        return sk.matthews_corrcoef(labels, predictions)
    pearson = scipy.stats.pearsonr(predictions, labels)[0]
    spearman = scipy.stats.spearmanr(predictions, labels)[0]
    return {"pearson": pearson, "spearman": spearman, "pearson_spearman": (pearson + spearman) / 2}[metric]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_quality_equals_the_reference_library(metric, classes, seed):
    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, classes, 50), generator.integers(0, classes, (4, 50))
    if "pears" in metric or metric == "spearman":
        labels, predictions = generator.normal(size=50), generator.normal(size=(4, 50)).round(1)  # with ties
    got = quality(metric, predictions, labels, classes)
    np.testing.assert_allclose(
        got, [references(metric, row, labels, classes) for row in predictions], atol=1e-12
    )
    assert quality(metric, predictions[0], labels, classes) == got[0]
    assert isinstance(quality(metric, predictions[0], labels), float)


def test_labels_may_be_resampled_with_the_predictions():
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(0, 2, 30), generator.integers(0, 2, 30)
    rows = generator.integers(0, 30, (7, 30))
    got = quality("f1", predictions[rows], labels[rows], 2)
    np.testing.assert_allclose(got, [quality("f1", predictions[r], labels[r], 2) for r in rows])


@pytest.mark.parametrize("metric", ["f1", "matthews", "pearson", "spearman", "pearson_spearman"])
def test_constant_predictions_score_zero_and_not_nan(metric):
    assert quality(metric, np.zeros(6), np.array([0, 1, 1, 0, 1, 0])) == 0.0


def test_prediction_is_the_first_largest_logit_or_the_score():
    logits = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    assert predict(logits, "classification").tolist() == [0, 1]
    assert predict(np.array([[0.3], [4.5]]), "regression").tolist() == [0.3, 4.5]


def test_unknown_metric_and_empty_split_are_refused():
    with pytest.raises(UserError, match="accuracy"):
        quality("acuracy", np.zeros(1), np.zeros(1))
    with pytest.raises(UserError, match="empty"):
        quality("accuracy", np.zeros((3, 0)), np.zeros(0))
