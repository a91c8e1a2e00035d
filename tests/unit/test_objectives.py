"""Losses of single exits, and how their files are found."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.errors import UserError
from adaptive_inference.exits.forward import ExitAnswer
from adaptive_inference.objectives import load_objective
from adaptive_inference.settings.training import MethodTraining

JOINT = load_objective("joint", MethodTraining())
LTE = load_objective("learning_to_exit", MethodTraining(objective="learning_to_exit"))
LOGITS = st.lists(st.tuples(*[st.floats(-5, 5, width=32)] * 3), min_size=1, max_size=6)


def answer(logits, certainty=None):
    return ExitAnswer(1, torch.tensor(logits), certainty)


@given(LOGITS, st.data())
@settings(max_examples=30, deadline=None)
def test_joint_is_the_mean_negative_log_likelihood(logits, data):
    labels = [data.draw(st.integers(0, 2)) for _ in logits]
    found = JOINT.exit_loss(answer(logits), torch.tensor(labels)).item()
    by_hand = [
        math.log(sum(math.exp(z) for z in row)) - row[label]
        for row, label in zip(logits, labels, strict=True)
    ]
    assert found == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-5)


def test_joint_is_the_mean_squared_error_of_scores():
    found = JOINT.exit_loss(answer([[1.0], [3.0]]), torch.tensor([0.0, 1.0]))
    assert found.item() == pytest.approx((1 + 4) / 2)


def test_learning_to_exit_adds_the_squared_error_of_being_right():
    certainty = torch.tensor([0.25, 0.5])  # the first row is right, the second wrong
    both = answer([[2.0, 0.0], [2.0, 0.0]], certainty)
    labels = torch.tensor([0, 1])
    added = LTE.exit_loss(both, labels) - JOINT.exit_loss(both, labels)
    assert added.item() == pytest.approx((0.75**2 + 0.5**2) / 2, abs=1e-6)


def test_the_certainty_error_trains_the_certainty_and_not_the_logits():
    certainty = torch.tensor([0.25, 0.5], requires_grad=True)
    logits = torch.zeros(2, 2, requires_grad=True)
    labels = torch.tensor([0, 1])
    both = ExitAnswer(1, logits, certainty)
    (added,) = torch.autograd.grad(LTE.exit_loss(both, labels) - JOINT.exit_loss(both, labels), [logits])
    assert torch.allclose(added, torch.zeros(2, 2), atol=1e-7)
    assert torch.autograd.grad(LTE.exit_loss(both, labels), [certainty])[0].all()


def test_an_unknown_objective_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'joint'"):
        load_objective("joit", MethodTraining())


def test_learning_to_exit_refuses_a_regression_task():
    with pytest.raises(UserError, match=r"learning_to_exit.*classification"):
        LTE.check_kind("regression")
    JOINT.check_kind("regression")
