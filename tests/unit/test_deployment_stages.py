"""The stages that export and choose a deployment, run in this process on tiny models."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from calibrated_stages import make_folder, params_of, run
from recommended_stages import GENEROUS, recommended, stage

import choose_deployment
import export_model
from adaptive_inference import load_predictor
from adaptive_inference.calibration.answers import Answers
from adaptive_inference.exits import MultiExitModel
from adaptive_inference.exits.deployment import DEPLOYMENTS, deployment_of
from adaptive_inference.serving.onnx_model import OnnxModel
from adaptive_inference.tasks.encode import encode
from adaptive_inference.tasks.schema import load_split
from adaptive_inference.training.static_embedding import FILE, StaticEmbedding
from adaptive_pipeline.params import parse_params
from adaptive_pipeline.runs.deployment_records import DeploymentRecord
from adaptive_pipeline.runs.digests import digest_path
from adaptive_pipeline.runs.records import RecommendationRecord, model_of

#: The row of the classifier without layers.
STATIC = ("static_embedding", "numpy")
TEXTS = ["good film", "a very dull movie", "not great"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def chosen(folder, tmp_path_factory):
    """All stages of a recommended method, with a goal so generous that something is promised."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield deployed(folder, tmp_path_factory.mktemp("chosen"), monkeypatch)


def deployed(
    folder,
    root,
    monkeypatch,
    goal=GENEROUS,
    method="sweet",
    rules=("confidence", "patience"),
    kind="classification",
):
    """Run all stages; return the folder, the params and both stages."""
    recommended(folder, root, monkeypatch, goal, method, rules, kind)
    params = params_of(method, list(rules), kind, goal=goal)
    given = {"methods": root / "seed0", "choice": root / "recommend"}
    exported = stage(export_model, params, root, **given)
    measured = stage(choose_deployment, params, root, deployed=exported.out, **given)
    return root, params, exported, measured


def test_graphs_answer_as_pytorch_does_and_are_calibrated_on_their_own_answers(chosen):
    root, _, exported, _ = chosen
    assert [(item.method, item.deployment) for item in exported.record.models] == [
        *((method, name) for method in ("full", "sweet") for name in DEPLOYMENTS[1:]),
        STATIC,
    ]
    for split in ("calibration", "evaluation"):
        torch_answers = Answers.load(root / f"collect_answers/{split}.safetensors")
        fp32 = Answers.load(exported.out / f"sweet/onnx_fp32/{split}.safetensors")
        assert np.allclose(fp32.outputs.logits, torch_answers.outputs.logits, atol=1e-4)
        assert fp32.outputs.ids.tolist() == torch_answers.outputs.ids.tolist()
    for item in exported.record.models[:-1]:
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
    for part in ("full", "sweet", FILE):
        assert digest_path(again.out / part) == digest_path(exported.out / part)


def test_a_classifier_without_layers_is_measured_and_timed_beside_them(chosen):
    root, _, exported, measured = chosen
    item, row, clock = exported.record.models[-1], measured.record.rows[-1], measured.timings["rows"][-1]
    assert (item.method, item.deployment) == (row.method, row.deployment) == STATIC
    assert (clock["method"], clock["deployment"]) == STATIC
    assert item.bytes == (exported.out / FILE).stat().st_size
    full = measured.record.rows[0]
    assert row.loss == pytest.approx(100 * (full.quality - row.quality))
    assert (row.layers_speedup, row.flops_speedup, row.chosen) == (None, None, False)
    model, home = StaticEmbedding.load(exported.out), root / "seed0/data/splits"
    features = encode(
        load_split(home, "evaluation"), MultiExitModel.from_pretrained(root / "seed0/full").tokenizer, 32
    )
    right = model.predictions(features, "classification") == [feature["label"] for feature in features]
    assert row.quality == pytest.approx(right.mean())


def test_every_deployment_is_measured_and_timed_at_its_own_setting(chosen):
    _, _, _, measured = chosen
    record = DeploymentRecord.load(measured.out)
    rows = {(row.method, row.deployment, row.adaptive): row for row in record.rows}
    assert {key[:2] for key in rows} == {
        STATIC,
        *((method, name) for method in ("full", "sweet") for name in DEPLOYMENTS),
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
    assert sum(predictor.model.calibration["confidences"]["counts"]) > 0


@pytest.mark.parametrize(("limit", "kept"), [(1e-6, False), (1e6, True)])
def test_a_latency_may_be_asked_for_instead(chosen, tmp_path, limit, kept):
    """Nothing is so fast: the fastest; everything is: the best on the calibration split."""
    root, _, exported, _ = chosen
    params = params_of(
        "sweet", ["confidence", "patience"], "classification", goal=GENEROUS | {"max_latency_ms": limit}
    )
    given = {"methods": root / "seed0", "choice": root / "recommend", "deployed": exported.out}
    half = tmp_path / "choose_deployment_scratch/row1/graphs"  # of a run that was killed
    half.mkdir(parents=True)
    (half / "segment_1.onnx").write_bytes(b"half")
    offer = stage(choose_deployment, params, tmp_path, **given).record.offer
    assert (offer.asked, offer.limit, offer.kept) == ("max_latency_ms", limit, kept)
    assert offer.probability is None
    assert not kept or offer.setting is None or offer.difference >= 0


def test_an_export_that_loses_too_much_is_refused_with_the_figure_and_the_run_goes_on(
    folder, tmp_path, monkeypatch
):
    collect = OnnxModel.collect

    def always_wrong(self, *given):
        """Return answers none of which is right."""
        outputs = collect(self, *given)
        wrong = np.arange(outputs.logits.shape[-1]) != outputs.labels[:, None]
        return replace(outputs, logits=np.repeat(wrong[:, None].astype(np.float32), len(outputs.exits), 1))

    monkeypatch.setattr(OnnxModel, "collect", always_wrong)
    _, _, exported, measured = deployed(folder, tmp_path, monkeypatch)
    for item in exported.record.models[:-1]:
        assert item.quality == 0
        assert item.loss > 1
        assert f"loses {item.loss:.2f} points" in item.why
        assert not (exported.out / item.method / item.deployment).exists()
    assert {row.deployment for row in measured.record.rows} == {"torch", "numpy"}
    assert measured.record.offer.deployment == "torch"
    assert not (measured.out / "model").exists()
    assert "static_int8_speedup" not in measured.timings["rows"][0]


def test_a_model_that_removes_tokens_is_not_exported_and_the_record_says_why(folder, tmp_path, monkeypatch):
    goal = GENEROUS | {"cost": "flops"}
    _, _, exported, measured = deployed(folder, tmp_path, monkeypatch, goal, "adapler", ("fixed",))
    assert exported.record.recommended[0] == "adapler"
    why = {(item.method, item.deployment): item.why for item in exported.record.models}
    assert why["full", "onnx_int8"] == ""
    assert "removes tokens" in why["adapler", "onnx_int8"]
    assert str(tmp_path) not in why["adapler", "onnx_int8"]
    assert ("adapler", "torch") in {(row.method, row.deployment) for row in measured.record.rows}


def test_a_member_of_a_cascade_is_deployed_as_a_model_of_its_own(folder, tmp_path, monkeypatch):
    root, _, exported, measured = deployed(
        folder, tmp_path, monkeypatch, GENEROUS, "multi_model", ("confidence",)
    )
    member = exported.record.recommended[1].member
    if member is None:  # untrained models: the whole cascade, by chance
        assert all("cascade" in item.why for item in exported.record.models[2:-1])
        return
    key = f"static_{member}"
    assert [item.method for item in exported.record.models[2:-1]] == [key, key]
    assert not any(item.why for item in exported.record.models)
    torch_answers = Answers.load(root / "collect_answers/calibration.safetensors").outputs
    fp32 = Answers.load(exported.out / key / "onnx_fp32/calibration.safetensors").outputs
    assert np.allclose(fp32.logits, torch_answers.alone(torch_answers.exits.index(member)).logits, atol=1e-4)
    assert key in {row.method for row in measured.record.rows}


# ---- methods that `deployments` asks for ----------------------------------------------------------------------------


def asking(params, *deployments):
    """Return params that ask for deployments of all methods, some more of them in the grid."""
    body = params.model_dump(mode="json")
    for name, rules in (("early_exit", ["confidence"]), ("adapler", ["fixed"]), ("multi_model", ["fixed"])):
        body["methods"][name] = {"train": {}, "rules": rules}
        body["trained_by"]["train_sweet"].append(name)
    return parse_params(body | {"deployments": list(deployments)})


@pytest.fixture(scope="module")
def grid(chosen, folder, tmp_path_factory):
    """The seed of `chosen` with more methods; ``early_exit`` is SWEET's model once more."""
    root, params, exported, measured = chosen
    with pytest.MonkeyPatch.context() as monkeypatch:
        homes = {"early_exit": root}
        for method in ("adapler", "multi_model"):
            homes[method] = tmp_path_factory.mktemp(method)
            run(folder, homes[method], monkeypatch, method, ("fixed",))
    for method, home in homes.items():
        model, there = "sweet" if method == "early_exit" else method, root / "seed0" / method
        (there / "train").mkdir(parents=True)
        (there / "train/model").symlink_to(folder / "classification" / model)
        (there / "answers").symlink_to(home / "collect_answers")
        (there / "calibration").symlink_to(home / "calibrate_thresholds")
    return root, params, exported, measured


def test_every_method_is_deployed_as_what_is_asked_for_and_chosen_among(grid, tmp_path):
    root, params, exported, measured = grid
    params = asking(params, "torch", "onnx_int8")
    given = {"methods": root / "seed0", "choice": root / "recommend"}
    more = stage(export_model, params, tmp_path, **given)
    kept = [item for item in more.record.models if item.method in ("full", "sweet", "static_embedding")]
    assert kept == exported.record.models
    others = {(item.method, item.deployment): item.why for item in more.record.models if item not in kept}
    assert list(others) == [(name, "onnx_int8") for name in ("adapler", "early_exit", "multi_model")]
    assert "removes tokens" in others["adapler", "onnx_int8"]
    assert "cascade" in others["multi_model", "onnx_int8"]
    for split in ("calibration", "evaluation"):
        answers = [
            Answers.load(more.out / f"{name}/onnx_int8/{split}.safetensors")
            for name in ("early_exit", "sweet")
        ]
        assert np.array_equal(answers[0].outputs.logits, answers[1].outputs.logits)
    for part in ("full", "sweet"):
        assert digest_path(more.out / part) == digest_path(exported.out / part)
    assert more.record.params["deployments"] == ["torch", "onnx_int8"]
    assert set(more.record.inputs) - set(exported.record.inputs) == {
        model_of(name) for name in ("adapler", "early_exit", "multi_model")
    }

    found = stage(choose_deployment, params, tmp_path, deployed=more.out, **given)
    rows = {(row.method, row.deployment, row.adaptive) for row in found.record.rows}
    before = {(row.method, row.deployment, row.adaptive) for row in measured.record.rows}
    assert rows - before == {("early_exit", "onnx_int8", True), ("early_exit", "onnx_int8", False)}
    assert before <= rows
    added = [item for item in found.timings["latency"] if item["method"] == "early_exit"]
    assert [(item["deployment"], len(item["ms"])) for item in added] == [("onnx_int8", 3)]
    timed = {(row["method"], row["deployment"]) for row in found.timings["rows"]}
    assert {(row.method, row.deployment) for row in found.record.rows if row.setting} == timed
    assert set(found.record.inputs) == set(more.record.inputs) | {"deployed"}


def test_in_torch_alone_no_other_method_is_deployed(grid, tmp_path):
    root, params, exported, _ = grid
    given = {"methods": root / "seed0", "choice": root / "recommend"}
    again = stage(export_model, asking(params, "torch"), tmp_path, **given)
    assert again.record.model_dump(exclude={"code"}) == exported.record.model_dump(exclude={"code"})
    assert not (again.out / "early_exit").exists()


def test_where_the_full_model_is_recommended_no_other_passes_for_the_recommended_one(grid, tmp_path):
    root, params, _, _ = grid
    choice = RecommendationRecord.load(root / "recommend")
    offer = choice.offer.model_copy(update={"method": None, "setting": None})
    (tmp_path / "choice").mkdir()
    choice.model_copy(update={"offer": offer}).save(tmp_path / "choice")
    given = {"methods": root / "seed0", "choice": tmp_path / "choice"}
    made = stage(export_model, asking(params, "torch", "onnx_fp32"), tmp_path, **given).record
    assert [item.method for item in made.models if item.deployment == "onnx_int8"] == ["full"]
    assert {item.method for item in made.models if not item.why} >= {"full", "early_exit", "sweet"}
    assert model_of("sweet") in made.inputs
    assert "model" not in made.inputs
    assert made.recommended == (None, None)


def test_scores_are_deployed_too(folder, tmp_path, monkeypatch):
    _, _, exported, measured = deployed(
        folder, tmp_path, monkeypatch, GENEROUS, "sweet", ("fixed",), "regression"
    )
    assert not any(item.why for item in exported.record.models)
    assert all(row.differing is not None for row in measured.record.rows[:-1] if row.setting)
    assert measured.record.rows[-1].quality is not None
