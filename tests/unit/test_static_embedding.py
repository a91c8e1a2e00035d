"""The classifier without layers: what it computes, that it learns, and that it is the same each time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_inference.tasks.schema import Schema
from adaptive_inference.training.static_embedding import StaticEmbedding, fit_static_embedding

CLASSES = Schema("toy", "classification", ("no", "yes"), "accuracy", 16)
SCORES = Schema("toy", "regression", None, "pearson", 16)
#: Tokens that say yes, and no; 0 to 9 say nothing, and no training row holds 30 and above.
YES, NO = range(10, 20), range(20, 30)
TABLE = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)


def _rows(count, seed, scores=False):
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = int(generator.integers(2))
        told = generator.choice(YES if label else NO, 3)
        ids = [0, *generator.permutation([*told, *generator.integers(1, 10, generator.integers(0, 5))]), 1]
        rows.append(
            {"input_ids": [int(token) for token in ids], "label": float(2 * label - 1) if scores else label}
        )
    return rows


@given(st.lists(st.integers(0, 39), min_size=1, max_size=20))
def test_logits_are_linear_in_the_mean_of_the_embeddings(ids):
    model = StaticEmbedding(TABLE, TABLE[:3], np.array([1.0, 2.0, 3.0], np.float32))
    wanted = TABLE[:3] @ TABLE[ids].mean(0) + [1.0, 2.0, 3.0]
    assert np.allclose(model.logits(ids), wanted, atol=1e-5)
    assert np.array_equal(model.run({"input_ids": np.array([ids])}), model.logits(ids))
    assert np.allclose(model.logits(ids[::-1]), wanted, atol=1e-5)  # a bag of words has no order


@pytest.mark.parametrize("schema", [CLASSES, SCORES])
def test_words_that_tell_are_learned(schema, tmp_path):
    scores = schema is SCORES
    model = fit_static_embedding(TABLE, _rows(200, 1, scores), _rows(50, 2, scores), schema, 0)
    new = _rows(100, 3, scores)
    said = model.predictions(new, schema.kind)
    truth = np.array([row["label"] for row in new])
    found = np.corrcoef(said, truth)[0, 1] if scores else (said == truth).mean()
    assert found > 0.9
    assert np.array_equal(model.table_VD[30:], TABLE[30:])  # never seen
    assert not np.array_equal(model.table_VD[10:30], TABLE[10:30])
    again = fit_static_embedding(TABLE, _rows(200, 1, scores), _rows(50, 2, scores), schema, 0)
    again.save(tmp_path)
    kept = StaticEmbedding.load(tmp_path)
    for name in ("table_VD", "weight_CD", "bias_C"):
        assert np.array_equal(getattr(kept, name), getattr(model, name))
