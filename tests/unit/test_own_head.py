"""A fine-tuned checkpoint whose own head is kept as the last exit, against the stock classifier that it is."""

import json
import logging

import numpy as np
import pytest
import torch
from fine_tuned import CLASSES, difference, fine_tuned
from tiny_training import make_rows
from transformers import AutoModel, AutoModelForTokenClassification

from adaptive_inference.backbones._own_head import check_own_head
from adaptive_inference.backbones._tiny import tiny_config
from adaptive_inference.backbones.load import adapter, families
from adaptive_inference.engine import Engine
from adaptive_inference.errors import UserError
from adaptive_inference.exits import load_model
from adaptive_inference.exits.build import build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("words", "classification", CLASSES, "accuracy", 32)
SCORES = Schema("words", "regression", None, "pearson", 32)
LAYERS, TOLERANCE = 4, 1e-6
ROWS = make_rows(6)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("pooler", ["per_exit", "shared"])
@pytest.mark.parametrize("family", families())
def test_the_last_exit_gives_the_stock_logits_also_after_saving(family, pooler, tmp_path):
    stock, section = fine_tuned(family, tmp_path / "checkpoint")
    model = build_model(Backbone(**section | {"exits": [1, LAYERS], "pooler": pooler}), SCHEMA, 0)
    assert difference(stock, model, ROWS) <= TOLERANCE
    model.save_pretrained(tmp_path / "saved")
    assert difference(stock, load_model(tmp_path / "saved"), ROWS) <= TOLERANCE


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
    assert difference(stock, build_model(Backbone(**section), SCORES, 0), ROWS) <= TOLERANCE


def test_classes_in_another_order_are_matched_by_name_and_it_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, "adaptive_inference")
    stock, section = fine_tuned("bert", tmp_path, names=("GOOD", "Bad", "fair"))
    model = build_model(Backbone(**section), SCHEMA, 0)
    assert difference(stock, model, ROWS, order=[1, 2, 0]) <= TOLERANCE
    assert "put into the task's by name: Bad = bad, fair = fair, GOOD = good" in caplog.text


def test_classes_without_names_are_taken_as_they_stand_and_it_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, "adaptive_inference")
    stock, section = fine_tuned("bert", tmp_path, names=("LABEL_0", "LABEL_1", "LABEL_2"))
    assert difference(stock, build_model(Backbone(**section), SCHEMA, 0), ROWS) <= TOLERANCE
    assert "names no classes; taken in the task's order: LABEL_0 = bad" in caplog.text


@pytest.mark.parametrize("family", families())
def test_exits_below_the_last_layer_get_new_classifiers_and_the_checkpoints_dense_layer(family, tmp_path):
    stock, section = fine_tuned(family, tmp_path)
    whole = build_model(Backbone(**section | {"exits": [2, LAYERS]}), SCHEMA, 0)
    short = build_model(Backbone(**section | {"exits": [2]}), SCHEMA, 0)
    for head in (*whole.heads, *short.heads):
        assert torch.equal(head.dense.weight, stock.get_submodule(adapter(family).stock_head[0]).weight)
    for head in (whole.heads[0], short.heads[0]):
        assert not head.classifier.bias.any()
    assert torch.equal(whole.heads[0].classifier.weight, short.heads[0].classifier.weight)
    assert whole.heads[-1].classifier.bias.any()


@pytest.mark.parametrize("family", families())
def test_a_new_head_is_the_same_whether_or_not_the_checkpoint_has_one(family, tmp_path):
    _, section = fine_tuned(family, tmp_path)
    model = build_model(Backbone(**section | {"head": "new"}), SCHEMA, 0)
    again = build_model(Backbone(weights=f"random:{family}", exits=[LAYERS]), SCHEMA, 0)
    assert torch.equal(model.heads[0].classifier.weight, again.heads[0].classifier.weight)


def refused(folder, message, schema=SCHEMA):
    """Hold that a folder's head is refused, by the look at it and by the model that would be built."""
    section = Backbone(weights=str(folder), sha256="0" * 64, head="checkpoint", exits=[LAYERS])
    with pytest.raises(UserError, match=message):
        check_own_head(section, "words", schema.kind, schema.labels)
    with pytest.raises(UserError, match=message):
        build_model(section, schema, 0)


@pytest.mark.parametrize(
    ("names", "schema", "message"),
    [
        (("x", "bad", "good"), SCHEMA, "answers x, bad, good, and the task's classes are bad, fair, good"),
        (("bad", "good"), SCHEMA, "answers bad, good, and the task's classes are bad, fair, good"),
        (("LABEL_0", "LABEL_1"), SCHEMA, "answers LABEL_0, LABEL_1, and the task's"),
        (("bad", "fair", "FAIR"), SCHEMA, "name them alike, in any order"),
        (("LABEL_0",), SCHEMA, "answers LABEL_0, and the task's"),
        (CLASSES, SCORES, "asks for a score, and the checkpoint's own head tells 3 classes apart"),
    ],
)
def test_a_head_that_does_not_answer_the_task_is_refused(names, schema, message, tmp_path):
    fine_tuned("bert", tmp_path, names)
    refused(tmp_path, f"task words: .*{message}", schema)


def test_a_head_of_many_labels_a_text_is_refused(tmp_path):
    fine_tuned("bert", tmp_path, problem_type="multi_label_classification")
    refused(tmp_path, "multi-label")


@pytest.mark.parametrize(
    ("kind", "family", "lacks"),
    [
        (AutoModel, "bert", "pooler.dense.weight"),
        (AutoModel, "roberta", "classifier.dense.weight"),
        (AutoModelForTokenClassification, "distilbert", "pre_classifier.weight"),
        (AutoModelForTokenClassification, "deberta-v2", "pooler.dense.weight"),
    ],
)
def test_a_checkpoint_without_such_a_head_is_refused(kind, family, lacks, tmp_path):
    kind.from_config(tiny_config(family, id2label=dict(enumerate(CLASSES)))).save_pretrained(tmp_path)
    refused(tmp_path, rf"holds no classification head \(no [a-z.]*{lacks}\)")


def test_a_head_of_another_width_than_its_configuration_says_is_refused(tmp_path):
    fine_tuned("bert", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"0": "bad", "1": "good"}}))
    refused(tmp_path, r"the head has 3 outputs, and config\.json names 2 \(bad, good\)")


def test_a_damaged_file_is_named(tmp_path):
    fine_tuned("bert", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 50)
    refused(tmp_path, r"model\.safetensors cannot be read")
