"""The stages that export and choose a deployment, run in this process on tiny models."""

from __future__ import annotations

import json

import numpy as np
import pytest
from calibrated_stages import make_folder, params_of
from recommended_stages import GENEROUS, recommended, stage

import choose_deployment
import export_model
from adaptive_inference import load_predictor
from adaptive_inference.calibration.answers import Answers
from adaptive_inference.exits.deployment import DEPLOYMENTS, deployment_of
from adaptive_pipeline.runs.deployment_records import DeploymentRecord
from adaptive_pipeline.runs.digests import digest_path

TEXTS = ["good film", "a very dull movie", "not great"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def chosen(folder, tmp_path_factory):
    """All stages of a recommended method, with a goal so generous that something is promised."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield deployed(folder, tmp_path_factory.mktemp("chosen"), monkeypatch)


def deployed(folder, root, monkeypatch, goal=GENEROUS, method="sweet", rules=("confidence", "patience")):
    """Run all stages; return the folder, the params and both stages."""
    recommended(folder, root, monkeypatch, goal, method, rules)
    params = params_of(method, list(rules), "classification", goal=goal)
    given = {"methods": root / "seed0", "choice": root / "recommend"}
    exported = stage(export_model, params, root, **given)
    measured = stage(choose_deployment, params, root, deployed=exported.out, **given)
    return root, params, exported, measured


def test_graphs_answer_as_pytorch_does_and_are_calibrated_on_their_own_answers(chosen):
    root, _, exported, _ = chosen
    assert [(item.method, item.deployment) for item in exported.record.models] == [
        (method, name) for method in ("full", "sweet") for name in DEPLOYMENTS[1:]
    ]
    for split in ("calibration", "evaluation"):
        torch_answers = Answers.load(root / f"collect_answers/{split}.safetensors")
        fp32 = Answers.load(exported.out / f"sweet/onnx_fp32/{split}.safetensors")
        assert np.allclose(fp32.outputs.logits, torch_answers.outputs.logits, atol=1e-4)
        assert fp32.outputs.ids.tolist() == torch_answers.outputs.ids.tolist()
    for item in exported.record.models:
        assert item.why == ""
        assert item.bytes > 0
        body = json.loads((exported.out / item.method / item.deployment / "calibration.json").read_text())
        assert body["rows"] == 30
    assert exported.record.models[0].loss == 0.0


def test_an_export_made_again_has_the_same_bytes(chosen, tmp_path):
    root, params, exported, _ = chosen
    given = {"methods": root / "seed0", "choice": root / "recommend"}
    again = stage(export_model, params, tmp_path, **given)
    assert again.record.models == exported.record.models
    for method in ("full", "sweet"):
        assert digest_path(again.out / method) == digest_path(exported.out / method)


def test_every_deployment_is_measured_and_timed_at_its_own_setting(chosen):
    _, _, _, measured = chosen
    record = DeploymentRecord.load(measured.out)
    rows = {(row.method, row.deployment, row.adaptive): row for row in record.rows}
    assert {key[:2] for key in rows} == {
        (method, name) for method in ("full", "sweet") for name in DEPLOYMENTS
    }
    assert rows["full", "torch", False].loss == 0.0
    assert all(row.setting is not None for key, row in rows.items() if key[0] == "full")
    assert [row.chosen for row in record.rows].count(True) == 1
    timed = measured.timings["rows"]
    assert len(timed) == sum(row.setting is not None for row in record.rows)
    assert timed[0]["wallclock_speedup"] == 1.0
    for row in timed:
        assert row["wallclock_speedup"] > 0
        assert row["static_int8_speedup"] > 0
        if row["method"] == "full":
            assert row["same_deployment_speedup"] == 1.0
    assert [item["deployment"] for item in measured.timings["latency"]] == [*DEPLOYMENTS, *DEPLOYMENTS]


def test_the_chosen_folder_answers_with_what_was_chosen(chosen):
    _, _, _, measured = chosen
    offer = measured.record.offer
    assert offer.kept
    if offer.deployment == "torch":
        assert not (measured.out / "model").exists()
        return
    assert deployment_of(measured.out / "model") == offer.deployment
    predictor = load_predictor(measured.out / "model")
    assert (predictor.engine.rule.name, predictor.engine.threshold) == (
        offer.setting.rule,
        offer.setting.threshold,
    )
    assert len(predictor.predict(TEXTS).labels) == 3
