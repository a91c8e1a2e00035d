"""The training stage hands each static baseline the model of all layers that it needs, and saves what it makes."""

import pytest
from tiny_training import SCHEMA, make_model, make_rows, same_bits, weights_of

import train_leebert
from adaptive_inference.backbones._heads import head_counts
from adaptive_inference.errors import UserError
from adaptive_inference.exits import load_model
from adaptive_inference.files import read_json
from adaptive_inference.tasks.schema import save_split
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import parse_params
from adaptive_pipeline.runs.digests import digest_path
from adaptive_pipeline.stage import Stage

METHODS = {
    "pkd": {"objective": "patient_distillation", "exits": [2]},
    "theseus": {"objective": "module_replacing", "exits": [2]},
    "layer_drop": {"objective": "layer_drop", "exits": [2]},
    "head_pruning": {"objective": "head_pruning", "exits": [4]},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("static")
    SCHEMA.save(root / "splits")
    for name, count, seed in (("train", 32, 0), ("development", 12, 1)):
        save_split(root / "splits", name, make_rows(count, seed))
    full = make_model(exits=(4,))
    for item in full.parameters():
        item.data += 0.01
    full.save_pretrained(root / "full")
    return {"data": root / "splits", "full": root / "full"}


def stage_of(method, inputs, out):
    task = {"source": "local", "train": "x.csv", "metric": "accuracy"}
    body = {
        "tasks": {"words": task},
        "backbones": {"tiny": {"weights": "random:bert", "exits": [1, 2, 4]}},
        "seeds": [0],
        "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
        "trained_by": {"train_sweet": [], "train_leebert": [method], "train_multi_model": []},
        "methods": {name: {"train": train, "rules": ["fixed"]} for name, train in
                    {"full": {}, method: METHODS[method]}.items()},
        "runtime": {"device": "cpu"},
    }  # fmt: skip
    cell = Cell("words", "tiny", 0, method)
    return Stage(
        "train_leebert", cell, parse_params(body), inputs, out, out / "scratch", {}, train_leebert.__file__
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_stage_trains_and_saves_a_model_that_loads(method, inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    stage, before = stage_of(method, inputs, tmp_path), digest_path(inputs["full"])
    train_leebert.main(stage)
    model, full = load_model(tmp_path / "model"), load_model(inputs["full"])
    layers = METHODS[method]["exits"]
    assert list(model.exits) == stage.record.exits == layers
    assert digest_path(inputs["full"]) == before
    sizes = [sum(item.numel() for item in found.parameters()) for found in (model, full)]
    assert stage.record.metrics["parameters"] == sizes[0] < sizes[1]
    assert "added_parameters" not in stage.record.metrics  # evaluation counts them, against the full model
    assert f"development{layers[0]}_quality" in stage.record.metrics
    config = read_json(tmp_path / "model/config.json")
    if method == "head_pruning":
        assert sum(config["attention_heads"]) == sum(head_counts(model.backbone)) == 8
    else:
        assert (config["num_layers"], config["backbone"]["num_hidden_layers"]) == (2, 2)
        assert "attention_heads" not in config
    kept = [name for name in weights_of(full) if "embeddings" in name or name.startswith("heads")]
    frozen = same_bits(*({name: weights_of(found)[name] for name in kept} for found in (model, full)))
    assert frozen == (method == "theseus")


@pytest.mark.parametrize("method", ["pkd", "theseus", "head_pruning"])
def test_a_stage_without_the_full_model_says_where_the_method_belongs(method, inputs, tmp_path):
    with pytest.raises(UserError, match=r"under trained_by\.train_leebert"):
        train_leebert.main(stage_of(method, {"data": inputs["data"]}, tmp_path))
