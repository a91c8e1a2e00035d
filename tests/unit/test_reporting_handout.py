"""The model folder that is handed out: the recommended weights, threshold and card, from invented records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from synthetic_choices import FULL, Chosen
from synthetic_records import invented_params, save_model, write_run

from adaptive_inference.calibration.answers import Answers
from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Setting
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.errors import UserError
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.files import read_json, write_json
from adaptive_inference.serving.confidences import Confidences, answer_confidences
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.handout import hand_out
from adaptive_pipeline.runs.checksums import write_checksums

CHOSEN = Chosen()


@pytest.fixture
def params():
    return invented_params()


def write_with_weights(root: Path, params, chosen: Chosen, **changes) -> None:
    write_run(root, params, chosen=chosen, **changes)
    for seed in params.seeds:
        run = root / f"tiers/minilm/seed{seed}"
        save_model(run / "full/train/model", [6], f"full{seed}".encode())
        save_model(run / "sweet/train/model", [2, 4, 6], f"sweet{seed}".encode())
        save_model(run / "multi_model/train/model", [2, 4, 6])
        for layer in (2, 4, 6):
            save_model(run / f"multi_model/train/model/{layer}", [layer], f"member{layer}".encode())


def handed_out(root: Path, params, chosen: Chosen, **changes) -> Path:
    """Return the folder of the model that is handed out."""
    write_with_weights(root / "runs", params, chosen, **changes)
    results = collect(root / "runs", params)
    assert hand_out(results, recommend(results)[0], root / "runs", root / "out")
    return root / "out/model"


def points_of(model: Path) -> tuple[OperatingPoint, list[OperatingPoint]]:
    """Return the recommended point, and all."""
    body = read_json(model / "calibration.json")
    points = [OperatingPoint.from_json(item) for item in body["operating_points"]]
    return OperatingPoint.from_json(body["recommended"]), points


def test_the_recommended_model_answers_at_the_promised_threshold(tmp_path, params):
    model = handed_out(tmp_path, params, CHOSEN)
    assert (model / "model.safetensors").read_bytes() == b"sweet0"
    recommended, points = points_of(model)
    assert recommended.setting == CHOSEN.setting
    assert recommended.goal == Goal("max_loss", 1.0)
    assert recommended.seen.layers_speedup == CHOSEN.speedup
    assert points[0] == recommended


def test_a_server_learns_how_sure_the_promised_answers_were_on_the_calibration_split(tmp_path, params):
    write_with_weights(tmp_path / "runs", params, CHOSEN)
    run = tmp_path / "runs/tiers/minilm/seed0/sweet"
    logits = np.random.default_rng(0).normal(0, 2, (40, 3, 2)).astype(np.float32)
    rows, exits = np.arange(40), (2, 4, 6)
    raw = ExitOutputs(logits, None, rows % 2, exits, exits, rows, rows)
    Answers(raw, Yardstick("accuracy", "classification", 2, 6)).save(run / "answers/calibration.safetensors")
    file = run / "calibration/calibration.json"
    write_json(file, read_json(file) | {"calibrated_on": "calibration", "exits": exits})
    results = collect(tmp_path / "runs", params)
    assert hand_out(results, recommend(results)[0], tmp_path / "runs", tmp_path / "out")
    body = read_json(tmp_path / "out/model/calibration.json")
    assert body["confidences"] == Confidences.of(answer_confidences(raw, body, CHOSEN.setting)).to_json()


def test_the_promised_point_takes_the_place_of_its_rules_own_at_that_goal(tmp_path, params):
    recommended, points = points_of(handed_out(tmp_path, params, CHOSEN))
    at_goal = [point for point in points if point.goal == recommended.goal]
    assert [point.setting.rule for point in at_goal] == ["confidence", "entropy", "margin"]
    assert [point for point in at_goal if point.setting.rule == "confidence"] == [recommended]
    others = {point.goal.name for point in points if point.setting.rule == "confidence"}
    assert others == {"max_loss_1", "min_speedup_1.5", "min_speedup_2"}


def test_the_card_tells_the_promise_and_what_was_measured(tmp_path, params):
    model = handed_out(tmp_path, params, CHOSEN)
    card = (model / "README.md").read_text()
    for text in (
        "tiers",
        "`negative`, `positive`",
        "after layers 2, 4, 6",
        f"{CHOSEN.threshold:.6g}",
        "SWEET",
        "`max_loss_1`",
        "lost at most 1 point in 83% of them",
        "**The goal is kept there.**",
        "1.80x fewer layers",
    ):
        assert text in card
    data = ModelCard(card).data  # what a hub reads of it
    assert (data.license, data.base_model) == ("apache-2.0", "sentence-transformers/all-MiniLM-L6-v2")
    assert data.eval_results[0].metric_value == 0.894  # of the full model 0.9, less 0.6 points
    assert data.eval_results[0].dataset_type == "generated"


def test_a_card_of_a_broken_promise_and_of_texts_that_differ_says_both(tmp_path, params):
    chosen = Chosen(loss=1.9, drifts=True)
    card = (handed_out(tmp_path, params, chosen) / "README.md").read_text()
    assert "**That is more than the goal.**" in card
    assert "**The evaluation texts are not like the calibration texts**" in card


def test_the_full_model_is_handed_out_where_nothing_faster_is_promised(tmp_path, params):
    model = handed_out(tmp_path, params, FULL)
    assert (model / "model.safetensors").read_bytes() == b"full0"
    recommended, points = points_of(model)
    assert recommended.setting == Setting("fixed", 0.0)
    assert recommended.goal == Goal("full")
    assert points == [recommended]
    card = (model / "README.md").read_text()
    assert "None of the 120 faster candidates can be promised" in card


def test_a_member_is_handed_out_alone_with_its_own_temperature(tmp_path, params):
    chosen = Chosen("multi_model", "fixed", 0.0, member=4)
    model = handed_out(tmp_path, params, chosen)
    assert (model / "model.safetensors").read_bytes() == b"member4"
    assert (model / "schema.json").is_file()
    body = read_json(model / "calibration.json")
    assert body["temperatures"] == [2.5]
    assert body["exits"] == [4]
    recommended, points = points_of(model)
    assert recommended.setting == Setting("fixed", 0.0)
    assert all(point.setting.member is None for point in points)
    assert "First 4 layers" in (model / "README.md").read_text()


def test_code_of_ones_own_that_the_recommended_model_needs_is_named_in_command_and_card(tmp_path):
    body = invented_params().model_dump(mode="json")
    body["methods"]["sweet"]["rules"] = ["margin", "own_code/renyi.py(order=3.0)"]
    body["backbones"]["minilm"]["adapter"] = "own_code/camembert.py"
    params = invented_params(methods=body["methods"], backbones=body["backbones"])
    model = handed_out(tmp_path, params, Chosen(rule="renyi(order=3.0)"))
    (choice,) = recommend(collect(tmp_path / "runs", params))
    command = choice.command("results")
    assert command.endswith("model --own-code own_code/camembert.py --own-code own_code/renyi.py")
    assert "nor of this folder: exit rule `renyi`" in (model / "README.md").read_text()


@pytest.mark.parametrize("damaged", ["train/model/model.safetensors", "calibration/calibration.json"])
def test_a_model_that_was_damaged_is_not_handed_out(tmp_path, params, damaged):
    write_with_weights(tmp_path / "runs", params, CHOSEN)
    sweet = tmp_path / "runs/tiers/minilm/seed0/sweet"
    for folder in (sweet / "train", sweet / "calibration"):
        write_checksums(folder)
    (sweet / damaged).write_bytes((sweet / damaged).read_bytes() + b" ")
    results = collect(tmp_path / "runs", params)
    with pytest.raises(UserError, match=f"{damaged} is damaged"):
        hand_out(results, recommend(results)[0], tmp_path / "runs", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_records_without_weights_give_no_model(tmp_path, params):
    write_run(tmp_path / "runs", params)
    results = collect(tmp_path / "runs", params)
    assert not hand_out(results, recommend(results)[0], tmp_path / "runs", tmp_path / "out")
    assert not (tmp_path / "out").exists()
