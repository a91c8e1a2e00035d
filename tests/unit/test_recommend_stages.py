"""The stages that recommend and measure what is recommended, run in this process on tiny models."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from calibrated_stages import make_folder, params_of, run
from recommended_stages import CELL, GENEROUS, recommended, stage

import evaluate_recommended
import recommend
from adaptive_inference.calibration.answers import Answers
from adaptive_inference.errors import UserError
from adaptive_inference.selection.candidates import Candidates, Family
from adaptive_inference.tasks.quality import predict, quality
from adaptive_pipeline.runs.records import RecommendationRecord
from adaptive_pipeline.stage import Stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("stages"))


def test_what_was_chosen_is_measured_at_its_very_threshold(folder, tmp_path, monkeypatch):
    chosen, measured, timings = recommended(folder, tmp_path, monkeypatch)
    offer = chosen.offer
    assert (offer.method, measured.method) == ("sweet", "sweet")
    assert measured.setting == offer.setting
    assert offer.probability >= 0.8
    assert chosen.rows == 30
    answers = Answers.load(tmp_path / "full_answers/evaluation.safetensors").outputs
    full = quality("accuracy", predict(answers.logits[:, -1], "classification"), answers.labels)
    assert measured.full_quality == full
    assert measured.loss == pytest.approx(100 * (full - measured.quality))
    assert measured.low <= measured.loss <= measured.high
    assert measured.agreement["rows"] == 4
    (row,) = timings["rows"]
    assert (row["method"], row["threshold"]) == ("sweet", offer.setting.threshold)
    assert timings["goals"] == {"wallclock_speedup": row["wallclock_speedup"]}
    assert measured.metrics["quality"] == measured.quality
    assert {item.max_loss for item in chosen.others} == {30.0, 120.0}
    assert set(measured.inputs) >= {"choice", "data", "full", "model"}


def test_a_choice_made_again_is_the_same(folder, tmp_path, monkeypatch):
    first, *_ = recommended(folder, tmp_path / "a", monkeypatch)
    second, *_ = recommended(folder, tmp_path / "b", monkeypatch)
    assert first.to_json() == second.to_json()
    read = RecommendationRecord.load(tmp_path / "a/recommend")
    assert read.offer == first.offer


def test_where_nothing_can_be_promised_the_full_model_is_recommended_and_nothing_is_timed(
    folder, tmp_path, monkeypatch
):
    (tmp_path / "x").mkdir()
    run(folder, tmp_path / "x", monkeypatch, "sweet", ("confidence",))
    chosen, measured, timings = recommended(
        folder, tmp_path / "y", monkeypatch, goal={"max_loss": 0.0, "confidence": 0.99}
    )
    if chosen.offer.method is None:  # untrained models: as good as each other, by chance
        assert (measured.method, measured.loss, measured.layers_speedup) == (None, 0.0, 1.0)
        assert "rows" not in timings
    assert measured.drift is not None


def test_members_of_a_cascade_are_candidates_alone(folder, tmp_path, monkeypatch):
    run(folder, tmp_path, monkeypatch, "multi_model", ("confidence",), goal=GENEROUS)
    found = Candidates.load(tmp_path / "candidates/multi_model.safetensors")
    assert [family.rule for family in found.families] == ["confidence", "fixed"]
    assert [found.families[1].setting(k).member for k in range(3)] == [1, 2, 4]
    assert np.all(np.diff(found.families[1].layers_speedup) < 0)


def test_a_damaged_or_missing_method_is_said(folder, tmp_path, monkeypatch):
    run(folder, tmp_path, monkeypatch, "sweet", ("confidence",))
    shutil.rmtree(tmp_path / "candidates")
    params = params_of("sweet", ["confidence"], "classification")
    stage = Stage(
        "recommend", CELL, params, {"candidates": tmp_path}, tmp_path, tmp_path, {}, recommend.__file__
    )
    with pytest.raises(
        UserError, match=r"full.safetensors holds no candidates .*run calibrate_thresholds again"
    ):
        recommend.main(stage)


def test_answers_to_a_model_that_was_trained_again_are_refused(folder, tmp_path, monkeypatch):
    recommended(folder, tmp_path, monkeypatch)
    seed = tmp_path / "seed0"
    (seed / "sweet/train/model").unlink()
    shutil.copytree(folder / "classification/sweet", seed / "sweet/train/model")
    config = seed / "sweet/train/model/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"added": 1}))
    params = params_of("sweet", ["confidence", "patience"], "classification", goal=GENEROUS)
    given = {"methods": seed, "choice": tmp_path / "recommend"}
    stage = Stage(
        "evaluate_recommended", CELL, params, given, tmp_path, tmp_path, {}, evaluate_recommended.__file__
    )
    with pytest.raises(UserError, match="made from another model"):
        evaluate_recommended.main(stage)


def offered(method, speedup, rows=200):
    """Return candidates of a method that answers every row right, at one threshold of each rule."""
    labels = np.arange(rows) % 2
    one = (np.ones(1), np.zeros(1, dtype=np.int64), labels[None].astype(np.int16))
    family = Family(
        "fixed" if method == "full" else "confidence", *one, np.full(1, speedup), np.full(1, speedup)
    )
    made_from = {"data": "d", "full": "f", "model": method}
    return Candidates(method, "accuracy", 2, labels, np.arange(rows), (family,), made_from)


@pytest.mark.parametrize(("cascade", "exportable"), [(3.0, "sweet"), (1.5, None)])
def test_beside_a_cascade_the_best_that_can_be_exported_is_told(tmp_path, monkeypatch, cascade, exportable):
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    params = params_of(
        "sweet",
        ["confidence"],
        "classification",
        goal=GENEROUS,
        methods={"multi_model": {"train": {}, "rules": ["confidence"]}},
        trained_by={"train_multi_model": ["multi_model"]},
    )
    for method, speedup in {"full": 1.0, "sweet": 2.0, "multi_model": cascade}.items():
        offered(method, speedup).save(tmp_path / f"candidates/{method}.safetensors")
    record = stage(recommend, params, tmp_path, candidates=tmp_path / "candidates").record
    assert record.offer.method == ("multi_model" if exportable else "sweet")
    assert (record.exportable and record.exportable.method) == exportable
