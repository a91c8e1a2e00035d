"""Rows that the last exit loses and gains."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adaptive_inference.evaluation.overthinking import overthinking

#: Right or wrong at three exits: always right, right then wrong (twice), right at the last alone, never right.
PREDICTIONS = np.array([[1, 1, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 1]])
LABELS = np.array([1, 0, 1, 1, 0])


def test_worked_numbers():
    found = overthinking(PREDICTIONS, LABELS, (2, 4, 6))
    assert found == {
        "right_then_wrong": pytest.approx(2 / 5),
        "last_only": pytest.approx(1 / 5),
        "exits": [
            {"layer": 2, "right_then_wrong": pytest.approx(2 / 5), "wrong_then_right": pytest.approx(1 / 5)},
            {"layer": 4, "right_then_wrong": pytest.approx(1 / 5), "wrong_then_right": pytest.approx(1 / 5)},
        ],
    }


def test_a_single_exit_cannot_overthink():
    assert overthinking(PREDICTIONS[:, :1], LABELS, (6,)) is None


@given(
    arrays(np.int64, st.tuples(st.integers(1, 30), st.integers(2, 6)), elements=st.integers(0, 2)), st.data()
)
def test_losses_and_gains_explain_the_difference_between_exits(predictions, data):
    rows, count = predictions.shape
    labels = data.draw(arrays(np.int64, rows, elements=st.integers(0, 2)))
    found = overthinking(predictions, labels, range(1, count + 1))
    accuracy = (predictions == labels[:, None]).mean(0)
    for k, item in enumerate(found["exits"]):
        gained = item["wrong_then_right"] - item["right_then_wrong"]
        assert accuracy[-1] == pytest.approx(accuracy[k] + gained)
        assert item["right_then_wrong"] <= found["right_then_wrong"] + 1e-12
        assert item["wrong_then_right"] >= found["last_only"] - 1e-12
    # the best that any choice of exits could do: the oracle's accuracy
    best = (predictions == labels[:, None]).any(1).mean()
    assert best == pytest.approx(accuracy[-1] + found["right_then_wrong"])
