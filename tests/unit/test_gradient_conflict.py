"""Cosines of the exits' gradients: against plain autograd, and without a trace on the model."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from tiny_training import SCORES, make_features, make_model, make_rows, same_bits, weights_of

from adaptive_inference.files import plain, read_jsonl
from adaptive_inference.objectives.base import task_loss
from adaptive_inference.tasks.encode import collate
from adaptive_inference.tasks.schema import save_split
from adaptive_inference.training.gradient_conflict import cosines, gradient_conflict
from adaptive_pipeline import training_stage
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import parse_params
from adaptive_pipeline.stage import Stage


def by_plain_autograd(model, features):
    """Cosine of every pair of exits in every layer that both reach, each gradient taken through the whole model."""
    batch = collate(features, model.tokenizer.pad_token_id)
    answers = model.eval().start(batch).answers()
    losses = {answer.layer: task_loss(answer.logits, batch["labels"]) for answer in answers}
    found = {}
    for layer in range(1, model.exits[-1] + 1):
        weights = model.backbone.layer_parameters(layer - 1, layer)
        gradients = {
            exit_: torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
                ]
            )
            for exit_, loss in losses.items()
            if exit_ >= layer
        }
        for low, high in combinations(gradients, 2):
            cosine = F.cosine_similarity(gradients[low], gradients[high], dim=0)
            found[layer, f"{low}-{high}"] = float(cosine)
    return found


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "deberta-v2"])
@pytest.mark.parametrize("pooler", ["per_exit", "shared"])
def test_equals_plain_autograd(family, pooler):
    model = make_model(family, pooler=pooler)
    features = make_features(model, 12)
    rows = gradient_conflict(model, features)
    cosines = {(row["layer"], pair): value for row in rows for pair, value in row["pairs"].items()}
    assert list(cosines) == [(1, "1-2"), (1, "1-4"), (1, "2-4"), (2, "2-4")]
    assert cosines == pytest.approx(by_plain_autograd(model, features), abs=1e-4)
    assert rows[0]["mean_cosine"] == pytest.approx(sum(rows[0]["pairs"].values()) / 3)
    assert len({round(value, 3) for value in cosines.values()}) > 1


def test_scores_have_gradients_too():
    model = make_model(schema=SCORES)
    features = make_features(model, 12, kind="regression")
    (first, *_) = gradient_conflict(model, features)
    expected = by_plain_autograd(model, features)
    assert first["pairs"]["1-4"] == pytest.approx(expected[1, "1-4"], abs=1e-4)


def test_shared_layers_are_told_apart_by_their_use():
    model = make_model("albert")
    rows = gradient_conflict(model, make_features(model, 12))
    assert [(row["layer"], len(row["pairs"])) for row in rows] == [(1, 3), (2, 1)]
    assert all(-1.0 <= value <= 1.0 for row in rows for value in row["pairs"].values())


def test_the_model_and_the_random_numbers_stay_as_they_were():
    model = make_model(dropout=0.5)
    features = make_features(model, 12)
    for head in model.heads[1:]:
        head.requires_grad_(False)
    before, state = weights_of(model), torch.get_rng_state()
    first = gradient_conflict(model.train(), features)
    assert torch.equal(torch.get_rng_state(), state)
    assert same_bits(weights_of(model), before)
    assert all(item.grad is None for item in model.parameters())
    frozen = {id(item) for head in model.heads[1:] for item in head.parameters()}
    assert all(item.requires_grad == (id(item) not in frozen) for item in model.parameters())
    assert gradient_conflict(model, features) == first  # the same again, without dropout


def test_what_a_method_freezes_has_gradients_all_the_same():
    model = make_model()
    features = make_features(model, 12)
    free = gradient_conflict(model, features)
    model.requires_grad_(False)
    assert gradient_conflict(model, features) == free
    assert not any(item.requires_grad for item in model.parameters())


def test_one_exit_conflicts_with_nothing():
    model = make_model(exits=(4,))
    assert gradient_conflict(model, make_features(model, 4)) == []


def test_cosine_of_known_gradients():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-2.0, -2.0], [1e-25, 0.0], [0.0, 0.0]])
    found = cosines(vectors)
    half = 0.5**0.5
    torch.testing.assert_close(found[0], torch.tensor([1.0, half, -half, 1.0, torch.nan]), equal_nan=True)
    torch.testing.assert_close(found[1], torch.tensor([half, 1.0, -1.0, half, torch.nan]), equal_nan=True)


def test_an_exit_without_gradient_has_no_cosine():
    model = make_model()
    torch.nn.init.zeros_(model.heads[0].classifier.weight)  # nothing flows back through it
    first, second = gradient_conflict(model, make_features(model, 8))
    assert (first["pairs"]["1-2"], first["pairs"]["1-4"]) == (None, None)
    assert first["mean_cosine"] == first["pairs"]["2-4"] is not None
    assert second["mean_cosine"] is not None


# ---- in the stage ----------------------------------------------------------------------------------------------------

METHODS = {
    "full": {"train": {}, "rules": ["fixed"]},
    "sweet": {"train": {"gradient": "blockwise"}, "rules": ["confidence"]},
    "deebert": {"train": {"objective": "frozen"}, "rules": ["entropy"]},
    "leebert": {"train": {"objective": "weight_learning"}, "rules": ["patience"]},
}


@pytest.fixture(scope="module")
def params():
    return parse_params(
        {
            "tasks": {"words": {"source": "local", "train": "x.csv", "text": ["text"], "metric": "accuracy"}},
            "backbones": {"tiny": {"weights": "random:bert", "exits": [1, 2, 4]}},
            "seeds": [0],
            "training": {"epochs": 1, "batch_size": 8},
            "trained_by": {
                "train_sweet": ["sweet"],
                "train_leebert": ["deebert", "leebert"],
                "train_multi_model": [],
            },
            "methods": METHODS,
            "runtime": {"device": "cpu"},
        }
    )


@pytest.mark.parametrize("method", ["sweet", "deebert", "leebert"])
def test_a_training_records_the_conflict_of_the_model_that_it_saves(params, tmp_path, monkeypatch, method):
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    model = make_model(exits=(4,))
    model.save_pretrained(tmp_path / "full")
    model.schema.save(tmp_path / "data")
    for name, seed in (("train", 0), ("development", 1)):
        save_split(tmp_path / "data", name, make_rows(70 if name == "train" else 10, seed))
    inputs = {"data": tmp_path / "data", "full": tmp_path / "full"}
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    cell = Cell("words", "tiny", 0, method)
    stage = Stage("train_leebert", cell, params, inputs, out, scratch, {}, training_stage.__file__)
    training_stage.train_exits(stage)

    record = stage.record
    assert record.builds_on_full == (method == "deebert")
    saved = type(model).from_pretrained(out / "model")
    rows = make_features(saved, 70)[:64]
    assert [row.model_dump() for row in record.gradient_conflict] == plain(gradient_conflict(saved, rows))
    assert [row.layer for row in record.gradient_conflict] == [1, 2]
    assert (out / "weights.jsonl").is_file() == (method == "leebert")
    if method == "leebert":
        assert {len(row["teachers"]) for row in read_jsonl(out / "weights.jsonl")} == {3}
