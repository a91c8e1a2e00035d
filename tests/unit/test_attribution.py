"""Scores of tokens: they are what their definitions say, whatever shares the batch (adapler.md section 8, property 11)."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.attribution.attention import (
    attention_probabilities,
    attention_rollout,
    last_layer_attention,
    rolled_out,
)
from adaptive_inference.attribution.integrated import integrated_gradients
from adaptive_inference.attribution.saliency import saliencies
from adaptive_inference.errors import UserError
from adaptive_inference.exits import build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)
SCORE = Schema("tiny", "regression", None, "pearson", 32)
FAMILIES = ("bert", "albert", "distilbert", "deberta", "deberta-v2", "roberta", "mpnet")
LENGTHS = (9, 4, 6, 2)
LABELS = torch.tensor([0, 2, 1, 2])


def build(family="bert", read="first", schema=SCHEMA):
    return build_model(Backbone(weights=f"random:{family}", exits=[1, 2, 4], read=read), schema, 0).eval()


MODELS = {family: build(family) for family in FAMILIES} | {
    "mean": build(read="mean"),
    "mpnet mean": build("mpnet", "mean"),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def batch(lengths=LENGTHS, seed=1):
    """[CLS] words [SEP]; the tiny tokenizer's ids of the special tokens are 0 to 4."""
    columns = max(lengths)
    ids = torch.randint(5, 60, (len(lengths), columns), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(columns) < torch.tensor(lengths)[:, None]).long()
    ids[:, 0] = 2
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 3
    return {"input_ids": ids * mask, "attention_mask": mask}


def row(rows, index):
    length = int(rows["attention_mask"][index].sum())
    return {name: item[[index], :length] for name, item in rows.items()}


def jacobian(model, rows):
    """Return d logits / d embeddings by one backward pass for each class, with another way to the logits: (C, B, N, H)."""
    hidden, context = model.backbone.embed(rows)
    hidden = hidden.detach().requires_grad_()
    state = hidden
    for layer in range(4):
        state = model.backbone.run_layer(layer, state, context)
    logits = model.read(2, state, context.tokens_BN).logits
    each = [
        torch.autograd.grad(logits[:, c].sum(), hidden, retain_graph=True)[0] for c in range(logits.shape[1])
    ]
    return torch.stack(each), hidden.detach(), logits.detach()


# ---------------------------------------------------------------- saliency


@every_model
def test_a_saliency_is_the_norm_of_gradient_times_input_of_the_gold_class_of_the_jacobian(model):
    by_class, hidden, _ = jacobian(model, batch())
    gold = by_class[LABELS, torch.arange(len(LABELS))]
    wanted = (gold * hidden).square().sum(-1).sqrt()
    torch.testing.assert_close(saliencies(model, batch(), LABELS), wanted, rtol=1e-5, atol=1e-7)


@every_model
def test_saliencies_are_positive_on_tokens_the_special_ones_included_and_zero_on_padding(model):
    found, mask = saliencies(model, batch(), LABELS), batch()["attention_mask"].bool()
    assert (found[mask] > 0).all()
    assert (found[~mask] == 0).all()


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 12), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    name=st.sampled_from(["bert", "mean", "mpnet mean"]),
)
def test_a_row_of_a_batch_has_the_saliencies_of_that_row_alone(lengths, seed, name):
    rows, labels = batch(lengths, seed), torch.arange(len(lengths)) % 3
    found = saliencies(MODELS[name], rows, labels)
    for index, length in enumerate(lengths):
        alone = saliencies(MODELS[name], row(rows, index), labels[[index]])
        torch.testing.assert_close(found[[index], :length], alone, rtol=1e-5, atol=1e-6)


def test_a_constant_added_to_all_logits_changes_no_saliency():
    shifted = copy.deepcopy(MODELS["bert"])
    shifted.heads[-1].classifier.bias.data += 7.0
    wanted = saliencies(MODELS["bert"], batch(), LABELS)
    torch.testing.assert_close(saliencies(shifted, batch(), LABELS), wanted)


def test_saliencies_scale_with_the_classifier():
    scaled = copy.deepcopy(MODELS["bert"])
    scaled.heads[-1].classifier.weight.data *= 3.0
    wanted = 3.0 * saliencies(MODELS["bert"], batch(), LABELS)
    torch.testing.assert_close(saliencies(scaled, batch(), LABELS), wanted)


def test_the_gold_class_counts_and_not_the_predicted_one():
    model = MODELS["bert"]
    predicted = model(**batch()).logits[:, -1].argmax(-1)
    found = saliencies(model, batch(), predicted)
    other = saliencies(model, batch(), (predicted + 1) % 3)
    assert ((found - other).abs().amax(1) > 1e-3 * found.amax(1)).all()


def test_the_saliency_of_a_score_is_that_of_the_score_whatever_its_label():
    model = build(schema=SCORE)
    by_class, hidden, _ = jacobian(model, batch())
    found = saliencies(model, batch(), torch.tensor([0.5, 4.0, 2.5, 1.0]))
    torch.testing.assert_close(found, (by_class[0] * hidden).norm(dim=-1), rtol=1e-5, atol=1e-7)


def test_dropout_is_off_and_no_weight_gets_a_gradient():
    model = copy.deepcopy(MODELS["bert"]).train()
    found = [saliencies(model, batch(), LABELS) for _ in range(2)]
    assert torch.equal(*found)
    integrated_gradients(model, batch(), LABELS, steps=2)
    assert all(item.grad is None and item.requires_grad for item in model.parameters())


# ---------------------------------------------------------------- integrated gradients


@every_model
def test_attributions_add_up_to_the_difference_from_the_row_without_words_as_steps_grow(model):
    gaps = []
    for steps in (1, 8, 64):
        found = integrated_gradients(model, batch(), LABELS, steps)
        gaps.append(float(found.gap_B.abs().max()))
    assert found.difference_B.abs().max() > 5e-4
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.01 * float(found.difference_B.abs().max())


@every_model
def test_the_difference_is_that_of_the_gold_logits_and_special_tokens_and_padding_have_no_part(model):
    rows = batch()
    found = integrated_gradients(model, rows, LABELS, steps=2)
    gold = model(**rows).logits[torch.arange(4), -1, LABELS]
    if model.backbone.family() in ("bert", "albert", "distilbert"):  # positions do not depend on the ids
        emptied = rows | {"input_ids": torch.where(rows["input_ids"] > 4, 0, rows["input_ids"])}
        base = model(**emptied).logits[torch.arange(4), -1, LABELS]
        torch.testing.assert_close(found.difference_B, (gold - base).detach(), rtol=1e-5, atol=1e-5)
    words = rows["input_ids"] > 4
    assert (found.scores_BN[~words] == 0).all()
    assert (found.scores_BN[words] > 0).all()
    assert found.difference_B[3].abs() < 1e-6  # a row of special tokens is its own baseline


@pytest.mark.parametrize("name", ["bert", "mpnet mean"])
def test_a_row_of_a_batch_has_the_attributions_of_that_row_alone(name):
    found = integrated_gradients(MODELS[name], batch(), LABELS, steps=3)
    for index, length in enumerate(LENGTHS):
        alone = integrated_gradients(MODELS[name], row(batch(), index), LABELS[[index]], steps=3)
        torch.testing.assert_close(found.signed_BN[[index], :length], alone.signed_BN, rtol=1e-4, atol=1e-6)


def test_no_steps_and_no_tokenizer_are_refused():
    with pytest.raises(UserError, match=r"0 steps; take at least 1"):
        integrated_gradients(MODELS["bert"], batch(), LABELS, steps=0)
    bare = copy.deepcopy(MODELS["bert"])
    bare.tokenizer = None
    with pytest.raises(UserError, match="without one; build the model with its tokenizer"):
        integrated_gradients(bare, batch(), LABELS)


# ---------------------------------------------------------------- attention


@every_model
def test_attention_is_captured_of_every_layer_and_the_model_runs_on_as_before(model):
    before = model(**batch()).logits
    found, mask = attention_probabilities(model, batch()), batch()["attention_mask"].bool()
    assert [layer.shape for layer in found] == [(4, 4, 9, 9)] * 4
    for layer in found:
        torch.testing.assert_close(layer.sum(-1), torch.ones(4, 4, 9))
        to_padding = mask[:, None, :, None] & ~mask[:, None, None]  # from tokens
        assert (layer * to_padding == 0).all()
    assert torch.equal(model(**batch()).logits, before)


def test_captured_attention_is_that_of_the_weights():
    """By hand, of BERT's first layer."""
    model = MODELS["bert"]
    rows = batch((7, 7))
    hidden, _ = model.backbone.embed(rows)
    part = model.backbone.layers[0].attention.self
    query, key = (linear(hidden).unflatten(-1, (4, 8)).transpose(1, 2) for linear in (part.query, part.key))
    wanted = (query @ key.transpose(-1, -2) / 8**0.5).softmax(-1)
    torch.testing.assert_close(attention_probabilities(model, rows)[0], wanted.detach())


@pytest.mark.parametrize("read", [None, "first", "mean"])
@pytest.mark.parametrize("score", [last_layer_attention, attention_rollout])
@every_model
def test_attention_scores_of_tokens_sum_to_one_and_are_those_of_the_row_alone(model, score, read):
    rows = batch()
    found = score(model, rows, read)
    torch.testing.assert_close((found * rows["attention_mask"]).sum(1), torch.ones(4))
    assert (found[rows["attention_mask"] == 0] == 0).all()
    for index, length in enumerate(LENGTHS):
        torch.testing.assert_close(found[[index], :length], score(model, row(rows, index), read))


def test_the_head_says_which_queries_are_read():
    rows = row(batch(), 0)
    for name, read in (("bert", "first"), ("mean", "mean")):
        heads = attention_probabilities(MODELS[name], rows)[-1][0].mean(0)
        wanted = heads[0] if read == "first" else heads.mean(0)
        torch.testing.assert_close(last_layer_attention(MODELS[name], rows)[0], wanted)
        torch.testing.assert_close(last_layer_attention(MODELS[name], rows, read)[0], wanted)


def test_rollout_of_two_layers_by_hand():
    first = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])
    second = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    # with residual [[.5 .5] [.25 .75]] and [[1 0] [.5 .5]]; the second acts on what the first made
    assert rolled_out([first, second]).tolist() == [[[0.5, 0.5], [0.375, 0.625]]]


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 8), layers=st.integers(1, 5), seed=st.integers(0, 999))
def test_rows_of_a_rollout_sum_to_one(length, layers, seed):
    generator = torch.Generator().manual_seed(seed)
    each = [torch.randn(2, length, length, generator=generator).softmax(-1) for _ in range(layers)]
    torch.testing.assert_close(rolled_out(each).sum(-1), torch.ones(2, length))
