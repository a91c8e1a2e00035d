"""Tokens that are really removed: every row of a batch is that row alone, and nothing dropped is the stock model."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.backbones.load import adapter
from adaptive_inference.exits import build_model
from adaptive_inference.exits.forward import EncoderForward
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.token_reduction.hard import HardRemoval
from adaptive_inference.token_reduction.predictor import ContributionPredictor

SCHEMA = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)
EXITS = (1, 2, 4)
FAMILIES = ("bert", "albert", "distilbert", "roberta", "mpnet")
LENGTHS = (9, 4, 6, 1)


def build(family, read):
    return build_model(Backbone(weights=f"random:{family}", exits=list(EXITS), read=read), SCHEMA, 0).eval()


MODELS = {(family, read): build(family, read) for family in FAMILIES for read in ("first", "mean")}


def batch(lengths=LENGTHS):
    columns = max(lengths)
    ids = torch.randint(5, 60, (len(lengths), columns), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(columns) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def start(model, rows, eta, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        predictors = [ContributionPredictor(32) for _ in range(4)]
    for predictor in predictors:  # scores far from uniform
        predictor.outer.weight.data *= 20
    return EncoderForward(
        model.backbone, EXITS, model.read, rows, removal=HardRemoval(predictors, torch.full((4,), eta))
    )


@torch.inference_mode()
def run(model, rows, eta, seed=0):
    forward = start(model, rows, eta, seed)
    logits = torch.stack([answer.logits for answer in forward.answers()], 1)
    return logits, np.stack(forward.survivors, 1)


@pytest.mark.parametrize("kind", MODELS)
def test_nothing_dropped_is_the_model_without_removal(kind):
    logits, survivors = run(MODELS[kind], batch(), eta=0.0)
    torch.testing.assert_close(logits, MODELS[kind](**batch()).logits, rtol=0, atol=1e-5)
    assert survivors.tolist() == [[length] * 4 for length in LENGTHS]


@pytest.mark.parametrize("kind", MODELS)
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 99), eta=st.floats(0.3, 1.0))
def test_each_row_of_a_batch_is_that_row_alone(kind, seed, eta):
    rows = batch()
    logits, survivors = run(MODELS[kind], rows, eta, seed)
    for row, length in enumerate(LENGTHS):
        alone = {"input_ids": rows["input_ids"][[row], :length]}
        by_itself, kept = run(MODELS[kind], alone, eta, seed)
        torch.testing.assert_close(by_itself[0], logits[row], rtol=0, atol=1e-5)
        assert kept[0].tolist() == survivors[row].tolist()
    assert (np.diff(survivors, axis=1) <= 0).all()
    assert survivors.min() >= 1


def test_tokens_do_go():
    _, survivors = run(MODELS["bert", "first"], batch(), eta=0.9)
    assert survivors[0, -1] < LENGTHS[0]


@pytest.mark.parametrize("kind", [("bert", "mean"), ("mpnet", "mean"), ("mpnet", "first")])
@torch.inference_mode()
def test_late_answers_and_rows_that_stay_do_not_notice_the_removal(kind):
    model = MODELS[kind]
    logits, survivors = run(model, batch(), eta=0.9)
    forward = start(model, batch(), eta=0.9)
    forward.advance(1)
    stay = torch.tensor([1, 2])
    forward.select(stay, 6)
    forward.advance(2)
    late = torch.stack([forward.answer(index).logits for index in range(3)], 1)
    torch.testing.assert_close(late, logits[stay], rtol=0, atol=1e-5)
    assert np.stack(forward.survivors, 1).tolist() == survivors[stay.numpy()].tolist()


def test_families_whose_attention_takes_no_bias_do_not_reduce_tokens():
    assert all(adapter(family).reduces_tokens for family in FAMILIES)
    assert not any(adapter(family).reduces_tokens for family in ("deberta", "deberta-v2"))


def test_tokens_that_stay_keep_their_order_and_what_they_are_by_columns():
    """States are gathered in order, and of a bias of pairs the rows and columns that go with them."""
    model, rows = MODELS["mpnet", "mean"], batch((5, 3))
    forward = EncoderForward(model.backbone, EXITS, model.read, rows, removal=HardRemoval([], torch.ones(4)))
    state, bias = forward.hidden_BNH, forward.context.pairs["bias"]
    keep = torch.tensor([[1, 0, 1, 0, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)
    forward.keep_tokens(keep)
    for row, columns in enumerate(([0, 2, 4], [0, 1])):
        count = len(columns)
        assert torch.equal(forward.hidden_BNH[row, :count], state[row, columns])
        kept = forward.context.pairs["bias"][row, :, :count, :count]
        assert torch.equal(kept, bias[0][:, columns][:, :, columns])
    assert forward.context.tokens_BN.tolist() == [[True] * 3, [True, True, False]]


@pytest.mark.parametrize("kind", MODELS)
@torch.inference_mode()
def test_a_batch_in_which_every_row_collapses_reads_the_first_token_alone(kind):
    model = MODELS[kind]

    class First(HardRemoval):
        def before_layer(self, index, forward):
            keep = torch.zeros(forward.hidden_BNH.shape[:2], dtype=torch.bool)
            keep[:, 0] = True
            forward.keep_tokens(keep)

    forward = EncoderForward(model.backbone, EXITS, model.read, batch(), removal=First([], torch.ones(4)))
    logits = torch.stack([answer.logits for answer in forward.answers()], 1)
    assert np.stack(forward.survivors, 1).tolist() == [[1] * 4] * len(LENGTHS)
    alone = model(input_ids=batch()["input_ids"][:, :1]).logits
    torch.testing.assert_close(logits, alone, rtol=0, atol=1e-5)
