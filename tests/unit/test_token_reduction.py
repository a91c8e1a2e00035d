"""The arithmetic of AdapLeR (adapler.md section 8), each with its worked values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaptive_inference.token_reduction.hard import kept_tokens
from adaptive_inference.token_reduction.predictor import ContributionPredictor, contributions
from adaptive_inference.token_reduction.soft import LOWEST, fade, sharpness_at, soft_removal
from adaptive_inference.token_reduction.targets import imitation_loss, imitation_target, layer_weights

seeds = st.integers(0, 10_000)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_predictor_has_24641_weights_at_base_size() -> None:
    assert sum(item.numel() for item in ContributionPredictor(768).parameters()) == 24_641


def test_predictors_compute_in_fp32_under_autocast() -> None:
    predictor, hidden = ContributionPredictor(16), drawn(0, 2, 5, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = predictor(hidden)
    assert torch.equal(inside, predictor(hidden))


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_contributions_sum_to_one_and_padding_has_no_influence(seed: int) -> None:
    logits, weights = 5 * drawn(seed, 3, 6), torch.ones(3, 6)
    weights[:, 4:] = 0
    scores = contributions(logits, weights)
    torch.testing.assert_close(scores.sum(1), torch.ones(3))
    assert (scores[:, 4:] == 0).all()
    torch.testing.assert_close(scores[:, :4], logits[:, :4].softmax(1))
    disturbed = logits.clone()
    disturbed[:, 4:] = torch.tensor([1e30, -1e30])
    assert torch.equal(contributions(disturbed, weights), scores)


def test_padding_sends_no_gradient() -> None:
    logits, weights = drawn(1, 1, 4).requires_grad_(), torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    contributions(logits, weights)[0, 1].backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 2:] == 0).all()
    assert logits.grad[0, 1] > 0


@pytest.mark.parametrize("sharpness", [10.0, 1e3, 1e5])
@pytest.mark.parametrize("delta", [0.001, 0.05, 0.5])
def test_soft_removal_has_its_worked_values(sharpness: float, delta: float) -> None:
    scores = torch.tensor([delta, 0.0, 1.0], dtype=torch.float64)
    found = soft_removal(scores, torch.tensor(delta, dtype=torch.float64), sharpness)
    wanted = torch.tensor([-0.1 / sharpness, max(LOWEST, -sharpness - 0.1 / sharpness), 0.0])
    torch.testing.assert_close(found, wanted.double(), rtol=1e-5, atol=1e-7)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.001, 1.0), st.sampled_from([10.0, 1e3, 1e20]))
def test_soft_removal_never_falls_with_the_score(delta: float, sharpness: float) -> None:
    scores = torch.linspace(0, 1, 201)
    found = soft_removal(scores, torch.tensor(delta), sharpness)
    assert (found.diff() >= 0).all()
    assert (found >= LOWEST).all()
    assert (found <= 0).all()


def test_what_is_gone_fades_no_further() -> None:
    weights = torch.tensor([[1.0, 0.5, 1e-6]])
    assert fade(weights, torch.full((1, 3), -1.0)).tolist()[0] == pytest.approx(
        [0.367879, 0.18394, 1e-6], rel=1e-4
    )


def test_sharpness_follows_the_schedule() -> None:
    assert [sharpness_at(e, 5) for e in range(5)] == [10, 1e2, 1e3, 1e4, 1e5]
    assert [sharpness_at(e, 3) for e in range(3)] == [50, 2500, 125_000]
    assert [sharpness_at(e, 10) for e in range(10)] == [10 * 3**e for e in range(10)]
    assert layer_weights(12) == list(range(12, 0, -1))
    assert sum(layer_weights(12)) == 78


def test_a_score_at_the_threshold_survives_and_one_below_does_not() -> None:
    scores = torch.tensor([[0.0, 0.125, 0.125 - 1e-6, 0.75]])
    assert kept_tokens(scores, torch.ones(1, 4), 0.5).tolist() == [[True, True, False, True]]


@settings(deadline=None, max_examples=30)
@given(seeds, st.floats(0.0, 1.0))
def test_the_first_token_stays_and_padding_goes(seed: int, eta: float) -> None:
    tokens = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    kept = kept_tokens(contributions(9 * drawn(seed, 3, 5), tokens), tokens, eta)
    assert kept[:, 0].all()
    assert not kept[tokens == 0].any()
    assert torch.equal(kept_tokens(contributions(drawn(seed, 3, 5), tokens), tokens, 0.0), tokens.bool())


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_the_step_of_the_sharpest_soft_removal_is_the_hard_rule(seed: int) -> None:
    scores, tokens = contributions(drawn(seed, 4, 7), torch.ones(4, 7)), torch.ones(4, 7)
    kept = kept_tokens(scores, tokens, 0.9)
    soft = fade(tokens, soft_removal(scores, torch.tensor(0.9 / 7), 1e20))
    assert torch.equal(soft[:, 1:] > 0.5, kept[:, 1:])


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_the_target_is_the_normalised_saliency_and_theta_multiplies_the_first_odds(seed: int) -> None:
    saliency, weights = drawn(seed, 3, 5).abs() + 1e-3, torch.ones(3, 5)
    weights[:, 3:] = 0
    plain = imitation_target(saliency, weights)
    masked = saliency * weights
    torch.testing.assert_close(plain, masked / masked.sum(1, keepdim=True))
    doubled = imitation_target(saliency, weights, 2.0)
    torch.testing.assert_close(doubled.sum(1), torch.ones(3))
    odds, twice = (item[:, 0] / (1 - item[:, 0]) for item in (plain, doubled))
    torch.testing.assert_close(twice, 2 * odds, rtol=1e-4, atol=1e-6)


def test_imitating_the_target_costs_nothing_and_a_collapsed_row_counts_nothing() -> None:
    weights = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    target = imitation_target(torch.tensor([[1.0, 2.0, 3.0], [1.0, 5.0, 5.0]]), weights)
    assert imitation_loss(target, target, weights).item() == 0
    other = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.25, 0.25]])
    assert imitation_loss(target, other, weights).item() == pytest.approx(0.0436, abs=1e-4)
