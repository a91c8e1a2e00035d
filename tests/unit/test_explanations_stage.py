"""`score_rationales` on untrained models of the smoke preset's task, in this process."""

import random
import re

import pytest
from synthetic_records import PROJECT

import score_rationales
from adaptive_inference.evaluation.explained import ALL_LAYERS, CONTRIBUTIONS
from adaptive_inference.exits import build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Example, Schema, Split, save_split
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import load_params
from adaptive_pipeline.runs.records import ExplanationRecord, Record
from adaptive_pipeline.stage import Stage

PARAMS = load_params(PROJECT / "presets/smoke.yaml")
WORDS = ["the", "film", "was", "a", "very", "slow", "and", "dull", "story", "with", "fine", "music"]
BACKBONE = Backbone(weights="random:bert", exits=[2, 4], read="mean")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Splits and models: the full one, and one that removes tokens."""
    folder, draw = tmp_path_factory.mktemp("home"), random.Random(0)
    schema = Schema("tiers", "classification", ("negative", "positive"), "accuracy", 32)
    schema.save(folder / "splits")
    texts = [[draw.choice(WORDS) for _ in range(draw.randint(3, 12))] for _ in range(30)]
    examples = [
        Example(row, (" ".join(text),), row % 2, rationale=(row % 3,)) for row, text in enumerate(texts)
    ]
    save_split(folder / "splits", "evaluation", Split(examples))
    build_model(BACKBONE, schema, 0, exits=[4]).save_pretrained(folder / "full")
    reduced = build_model(BACKBONE, schema, 0, exits=[4], reduces=True)
    for predictor in reduced.reduction.predictors:
        predictor.outer.weight.data *= 200
    reduced.save_pretrained(folder / "adapler")
    return folder


def run(home, out, monkeypatch, method):
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    out.mkdir()
    inputs = {"data": home / "splits", "full": home / "full", "model": home / method}
    cell = Cell("tiers", "tiny", 0, method)
    stage = Stage("score_rationales", cell, PARAMS, inputs, out, out, {}, score_rationales.__file__)
    score_rationales.main(stage)
    stage.record.save(out)
    return Record.load(out)


@pytest.mark.parametrize("method", ["full", "adapler"])
def test_the_stage_gives_equal_bytes_a_typed_record_and_pictures(home, tmp_path, monkeypatch, method):
    record = run(home, tmp_path / "first", monkeypatch, method)
    run(home, tmp_path / "second", monkeypatch, method)
    files = [
        sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        for name in ("first", "second")
    ]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert [file.relative_to(tmp_path / "first").as_posix() for file in files[0]] == [
        "metrics.json", "pictures/0.html", "pictures/0.png", "pictures/1.html", "pictures/1.png",
    ]  # fmt: skip
    assert isinstance(record, ExplanationRecord)
    rows = {item.kind: item.rows for item in record.explained}
    assert rows["saliency"] == PARAMS.explanations.rows
    assert rows.get("integrated_gradients", 4) == PARAMS.explanations.integrated_gradients_rows
    assert (CONTRIBUTIONS in rows) == (method == "adapler")


def test_the_record_holds_no_text_and_its_figures_by_name(home, tmp_path, monkeypatch):
    record = run(home, tmp_path / "out", monkeypatch, "adapler")
    (whole,) = [item for item in record.explained if (item.kind, item.layer) == (CONTRIBUTIONS, ALL_LAYERS)]
    assert record.metrics["contributions_all_layers_false_positive_rate"] == whole.false_positive_rate
    body = (tmp_path / "out" / "metrics.json").read_text()
    assert not {"film", "dull", "music"} & set(re.findall(r"[a-z]+", body))
