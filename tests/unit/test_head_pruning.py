"""Attention heads: how important they are, and that those taken out are really gone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import SCHEMA, SCORES, make_batch, make_model, objective_of, run_fit, same_bits, weights_of

from adaptive_inference.backbones._heads import head_counts, keep_heads
from adaptive_inference.cost.flops import flops_by_exit
from adaptive_inference.errors import UserError
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.files import read_json
from adaptive_inference.objectives.head_pruning import first_rows, gated, head_importance, heads_kept
from adaptive_inference.serving.predictor import Predictor
from adaptive_inference.settings.training import HeadPruning, MethodTraining

PRUNED = MethodTraining(objective="head_pruning", exits=[4], pruning=HeadPruning(share=0.5, rows=16))
HEADS, WIDTH = 4, 32  # of the tiny encoders


# ---------------------------------------------------------------------------------------- importance


def loss_of(logits, label):
    """One row's squared error or cross-entropy, in the precision of the logits."""
    return ((logits[0] - label) ** 2 if logits.numel() == 1 else logits.logsumexp(0) - logits[label]).item()


@pytest.mark.parametrize("schema", [SCHEMA, SCORES], ids=["classes", "scores"])
def test_importance_is_the_mean_over_rows_of_the_slope_of_each_rows_own_loss(schema):
    """Held against central differences of losses in float64, one row, layer and head at a time."""
    model = make_model(exits=(4,), schema=schema).double().eval()
    batch = make_batch(model, 5, kind=schema.kind)
    importance = head_importance(model, [batch])
    slopes = torch.zeros(4, HEADS, dtype=torch.float64)
    for row in range(5):
        one = {name: item[row : row + 1] for name, item in batch.items()}
        for layer in range(4):
            for head in range(HEADS):
                losses = []
                for change in (1e-3, -1e-3):
                    given_gates = torch.ones(4, 1, HEADS, dtype=torch.float64)
                    given_gates[layer, 0, head] += change
                    with torch.no_grad(), gated(model.backbone.layers, given_gates):
                        (answer,) = model.start(one).answers()
                        losses.append(loss_of(answer.logits[0], one["labels"][0]))
                slopes[layer, head] += abs(losses[0] - losses[1]) / 2e-3 / 5
    slopes /= slopes.norm(dim=1, keepdim=True)
    assert torch.allclose(importance.double(), slopes, rtol=1e-2, atol=1e-3)


def test_measuring_changes_neither_weights_nor_answers():
    model = make_model(exits=(4,), dropout=0.1).eval()
    batch, before = make_batch(model), weights_of(model)
    logits = model(**batch).logits
    head_importance(model, [batch])
    assert same_bits(weights_of(model), before)
    assert torch.equal(model(**batch).logits, logits)
    assert all(item.grad is None for item in model.parameters())


@given(st.integers(1, 5), st.integers(1, 6), st.floats(0.01, 0.99), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_least_important_go_and_every_layer_keeps_its_best(layers, heads, share, seed):
    importance = torch.rand(layers, heads, generator=torch.Generator().manual_seed(seed))
    kept = heads_kept(importance, share)
    removed = [(layer, head) for layer in range(layers) for head in range(heads) if head not in kept[layer]]
    assert len(removed) == min(round(share * layers * heads), layers * (heads - 1))
    assert all(list(found) == sorted(set(found)) and found for found in kept)
    assert all(importance[layer].argmax().item() in found for layer, found in enumerate(kept))
    spared = [
        importance[layer, head]
        for layer, found in enumerate(kept)
        for head in found
        if head != importance[layer].argmax()
    ]
    if removed and spared:
        assert max(importance[place] for place in removed) <= min(spared)


def test_whole_batches_are_read_until_there_are_enough_rows():
    batches = [{"labels": torch.zeros(4)} for _ in range(5)]
    assert [len(list(first_rows(iter(batches), rows))) for rows in (1, 4, 5, 16, 100)] == [1, 1, 2, 4, 5]


# ---------------------------------------------------------------------------------------- removal


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_head_that_is_gone_answers_like_one_that_is_gated_off(family):
    model = make_model(family, exits=(4,)).eval()
    batch = make_batch(model)
    kept = [[0, 2], [1], [0, 1, 2, 3], [3]]
    off = torch.zeros(4, 6, HEADS)
    for layer, heads in enumerate(kept):
        off[layer, :, heads] = 1.0
    with torch.no_grad():
        with gated(model.backbone.layers, off):
            expected = model.start(batch).answers()[-1].logits
        for layer, heads in zip(model.backbone.layers, kept, strict=True):
            keep_heads(layer, heads)
        found = model.start(batch).answers()[-1].logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert head_counts(model.backbone) == [2, 1, 4, 1]


def test_weights_and_flops_of_a_head_are_gone():
    whole, model = make_model(exits=(4,)), make_model(exits=(4,))
    keep_heads(model.backbone.layers[1], [0, 3])
    half = WIDTH // 2
    assert whole.parameter_count - model.parameter_count == 3 * half * (WIDTH + 1) + WIDTH * half
    lengths = np.array([5, 9])
    saved = (flops_by_exit(whole, lengths) - flops_by_exit(model, lengths))[:, -1]
    # projections (4 of them) and both products of the attention, two operations per multiply-add
    assert saved.tolist() == [2 * n * WIDTH * half * 4 + 2 * 2 * n * n * half for n in (5, 9)]


@pytest.mark.parametrize("family", ["albert", "distilbert", "deberta", "deberta-v2", "mpnet"])
def test_other_families_are_refused_by_name(family, tmp_path):
    with pytest.raises(UserError, match=f"heads of {family} cannot"):
        run_fit(make_model(family, exits=(4,)), PRUNED, tmp_path)


# ---------------------------------------------------------------------------------------- the method


def test_the_pruned_model_is_trained_saved_and_loaded(tmp_path):
    full = make_model(exits=(4,))
    model = make_model(exits=(4,))
    result = run_fit(model, PRUNED, tmp_path / "fit", full=full, epochs=2)
    counts = head_counts(model.backbone)
    assert sum(counts) == 8
    assert min(counts) >= 1
    assert set(result.development_quality) == {4}
    model.save_pretrained(tmp_path / "saved")
    again = MultiExitModel.from_pretrained(tmp_path / "saved")
    assert head_counts(again.backbone) == counts
    assert same_bits(weights_of(again), weights_of(model))
    batch = make_batch(model)
    assert torch.equal(again(**batch).logits, model.eval()(**batch).logits)
    assert set(Predictor(again).predict(["a good film"]).labels) <= set(SCHEMA.labels)


def test_a_model_with_all_heads_is_saved_as_ever(tmp_path):
    model = make_model(exits=(4,))
    model.save_pretrained(tmp_path)
    assert "attention_heads" not in read_json(tmp_path / "config.json")


def test_a_resumed_run_takes_out_the_same_heads(tmp_path):
    found = []
    for _ in range(2):
        model = make_model(exits=(4,))
        run_fit(model, PRUNED, tmp_path, full=make_model(exits=(4,)), epochs=1)
        found.append(weights_of(model))
    assert same_bits(*found)


def test_pruning_trains_the_joint_loss(tmp_path):
    assert objective_of(PRUNED).needs_full == "fine_tuned"
    depth = PRUNED.model_copy(update={"weights": "depth", "exits": [2, 4]})
    objective = objective_of(depth)
    objective.attach(make_model(exits=(2, 4)), 0)
    assert objective.weights == {2: pytest.approx(1 / 3), 4: pytest.approx(2 / 3)}
