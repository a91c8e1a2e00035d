"""Soft removal in a whole encoder: it becomes the hard one as it sharpens, and its gradients go where they should."""

import numpy as np
import pytest
import torch

from adaptive_inference.exits import build_model
from adaptive_inference.exits.forward import EncoderForward
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.token_reduction.hard import HardRemoval
from adaptive_inference.token_reduction.predictor import ContributionPredictor
from adaptive_inference.token_reduction.soft import SoftRemoval

SCHEMA = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)
LENGTHS = (9, 4, 6, 1)
KINDS = [(family, read) for family in ("bert", "albert", "mpnet") for read in ("first", "mean")]


def build(family, read):
    return build_model(Backbone(weights=f"random:{family}", exits=[4], read=read), SCHEMA, 0).eval()


MODELS = {kind: build(*kind) for kind in KINDS}


def batch():
    columns = max(LENGTHS)
    ids = torch.randint(5, 60, (len(LENGTHS), columns), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(columns) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def predictors(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = [ContributionPredictor(32) for _ in range(4)]
    for predictor in found:  # scores far from uniform
        predictor.outer.weight.data *= 20
    return found


def run(model, removal):
    forward = EncoderForward(model.backbone, model.exits, model.read, batch(), removal=removal)
    return forward.answers()[0].logits, forward


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_soft_removal_becomes_the_hard_one_as_it_sharpens(kind):
    model, eta = MODELS[kind], torch.full((4,), 0.8)
    hard, forward = run(model, HardRemoval(predictors(), eta))
    gaps = []
    for sharpness in (1e1, 1e3, 1e5, 1e20):
        removal = SoftRemoval(predictors(), eta, sharpness)
        gaps.append(float((run(model, removal)[0] - hard).abs().max()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[-1] < 1e-5
    lengths = torch.stack(removal.lengths, 1).numpy()
    np.testing.assert_allclose(lengths, np.stack(forward.survivors, 1), atol=1e-4)
    assert lengths[0, -1] < LENGTHS[0]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_with_low_thresholds_it_nears_the_model_without_removal_as_it_sharpens(kind):
    model, plain = MODELS[kind], MODELS[kind](**batch()).logits[:, 0]
    gaps = [
        float((run(model, SoftRemoval(predictors(), torch.full((4,), 1e-10), sharp))[0] - plain).abs().max())
        for sharp in (10, 1e3, 1e10)
    ]
    assert gaps[0] > gaps[1]
    assert gaps[2] < 1e-5


@pytest.mark.parametrize("seed", range(5))
def test_a_layer_keeps_no_more_tokens_as_its_own_threshold_rises(seed):
    eta = torch.full((4,), 0.5, requires_grad=True)
    removal = SoftRemoval(predictors(seed), eta, 100.0)
    run(MODELS["bert", "mean"], removal)
    for layer, length_B in enumerate(removal.lengths):
        slope = torch.autograd.grad(length_B.sum(), eta, retain_graph=True)[0]
        assert slope[layer] <= 0
        assert (slope[layer + 1 :] == 0).all()


def test_the_answer_reaches_thresholds_predictors_and_the_probe():
    eta, own = torch.full((4,), 0.5, requires_grad=True), predictors()
    probe = torch.ones(3, requires_grad=True)
    removal = SoftRemoval(own, eta, 10.0, probe)
    logits, _ = run(MODELS["bert", "first"], removal)
    logits[:, 0].sum().backward()
    assert (eta.grad != 0).all()
    assert (own[0].inner.weight.grad != 0).any()
    assert (probe.grad != 0).all()
