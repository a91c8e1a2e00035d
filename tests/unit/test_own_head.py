"""A fine-tuned checkpoint whose own head is kept as the last exit, against the stock classifier that it is."""

import hashlib
import logging

import numpy as np
import pytest
import torch
from tiny_training import make_rows
from transformers import AutoModelForSequenceClassification

from adaptive_inference.backbones._tiny import tiny_config, tiny_tokenizer
from adaptive_inference.backbones.load import adapter, families
from adaptive_inference.engine import Engine
from adaptive_inference.exits import load_model
from adaptive_inference.exits.build import build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.encode import collate, encode
from adaptive_inference.tasks.schema import Schema

CLASSES = ("bad", "fair", "good")
SCHEMA = Schema("words", "classification", CLASSES, "accuracy", 32)
SCORES = Schema("words", "regression", None, "pearson", 32)
LAYERS, TOLERANCE = 4, 1e-6


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def fine_tuned(family, folder, names=CLASSES, **changes):
    """Save a stock classifier of random weights with its tokenizer, and return it with the section that names it."""
    torch.manual_seed(7)
    config = tiny_config(family, id2label=dict(enumerate(names)), **changes)
    stock = AutoModelForSequenceClassification.from_config(config).eval()
    stock.get_submodule(adapter(family).stock_head[1]).bias.data.normal_()  # made as zeros
    stock.save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return stock, {"weights": str(folder), "sha256": digest, "head": "checkpoint", "exits": [LAYERS]}


def difference(stock, model, order=slice(None), rows=6):
    """The largest distance between the stock logits and those of the last exit, on a padded batch of texts."""
    batch = collate(encode(make_rows(rows), model.tokenizer, 32), model.tokenizer.pad_token_id)
    given = {name: item for name, item in batch.items() if name in model.tokenizer.model_input_names}
    with torch.no_grad():
        theirs, ours = stock(**given).logits[:, order], model.eval()(**given).logits[:, -1]
    assert (theirs[0] - theirs[1]).abs().max() > 1e-3, "rows must differ for the comparison to mean anything"
    assert theirs.shape == ours.shape
    return (theirs - ours).abs().max().item()


@pytest.mark.parametrize("pooler", ["per_exit", "shared"])
@pytest.mark.parametrize("family", families())
def test_the_last_exit_gives_the_stock_logits_also_after_saving(family, pooler, tmp_path):
    stock, section = fine_tuned(family, tmp_path / "checkpoint")
    model = build_model(Backbone(**section | {"exits": [1, LAYERS], "pooler": pooler}), SCHEMA, 0)
    assert difference(stock, model) <= TOLERANCE
    model.save_pretrained(tmp_path / "saved")
    assert difference(stock, load_model(tmp_path / "saved")) <= TOLERANCE


@pytest.mark.parametrize("family", families())
def test_the_engine_that_never_exits_gives_the_stock_logits(family, tmp_path):
    stock, section = fine_tuned(family, tmp_path)
    model = build_model(Backbone(**section | {"exits": [2, LAYERS]}), SCHEMA, 0).eval()
    given = dict(model.tokenizer(["a good film"], return_tensors="pt"))
    with torch.no_grad():
        theirs = stock(**given).logits
    assert np.abs(Engine(model, "confidence", 1.01).run(given).logits - theirs.numpy()).max() <= TOLERANCE


@pytest.mark.parametrize("family", families())
def test_a_score_is_that_of_the_stock_model(family, tmp_path):
    stock, section = fine_tuned(family, tmp_path, names=("LABEL_0",))
    assert difference(stock, build_model(Backbone(**section), SCORES, 0)) <= TOLERANCE


def test_classes_in_another_order_are_matched_by_name_and_it_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, "adaptive_inference")
    stock, section = fine_tuned("bert", tmp_path, names=("GOOD", "Bad", "fair"))
    model = build_model(Backbone(**section), SCHEMA, 0)
    assert difference(stock, model, order=[1, 2, 0]) <= TOLERANCE
    assert "put into the task's by name: Bad = bad, fair = fair, GOOD = good" in caplog.text


def test_classes_without_names_are_taken_as_they_stand_and_it_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, "adaptive_inference")
    stock, section = fine_tuned("bert", tmp_path, names=("LABEL_0", "LABEL_1", "LABEL_2"))
    assert difference(stock, build_model(Backbone(**section), SCHEMA, 0)) <= TOLERANCE
    assert "names no classes; taken in the task's order: LABEL_0 = bad" in caplog.text


@pytest.mark.parametrize("family", families())
def test_exits_below_the_last_layer_get_new_classifiers_and_the_checkpoints_dense_layer(family, tmp_path):
    stock, section = fine_tuned(family, tmp_path)
    whole = build_model(Backbone(**section | {"exits": [2, LAYERS]}), SCHEMA, 0)
    short = build_model(Backbone(**section | {"exits": [2]}), SCHEMA, 0)
    for head in (whole.heads[0], short.heads[0]):
        assert torch.equal(head.dense.weight, whole.heads[-1].dense.weight)
        assert not head.classifier.bias.any()
    assert torch.equal(whole.heads[0].classifier.weight, short.heads[0].classifier.weight)
    assert whole.heads[-1].classifier.bias.any()


@pytest.mark.parametrize("family", families())
def test_a_new_head_is_the_same_whether_or_not_the_checkpoint_has_one(family, tmp_path):
    _, section = fine_tuned(family, tmp_path)
    model = build_model(Backbone(**section | {"head": "new"}), SCHEMA, 0)
    again = build_model(Backbone(weights=f"random:{family}", exits=[LAYERS]), SCHEMA, 0)
    assert torch.equal(model.heads[0].classifier.weight, again.heads[0].classifier.weight)
