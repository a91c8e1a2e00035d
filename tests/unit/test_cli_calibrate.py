"""Thresholds made again on rows of one's own: what is chosen, what is promised, what is written and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from adaptive_inference import cli, load_predictor
from adaptive_inference.calibration.operating_point import OperatingPoint
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.files import read_json, write_json
from adaptive_inference.serving.confidences import Confidences, answer_confidences
from adaptive_inference.serving.export import export
from adaptive_inference.serving.metadata import NO_DATASET, Encoder, front_matter
from adaptive_inference.serving.recalibrate import from_outputs
from adaptive_inference.tasks.schema import Schema

SAVED = Path(__file__).parent / "saved_models/format1"
SCHEMA = Schema("tiny", "classification", ("bad", "good"), "accuracy", 32)
WORDS = ["the", "a", "good", "bad", "film", "plot", "music", "lovely", "awful", "but", "very", "slow", "fast"]


# ---- what is chosen --------------------------------------------------------------------------------------------------


def outputs(rows=400, first_right=0.7, last_right=0.95, sure=4.0, seed=0):
    """Make two exits after layers 1 and 4: the first is right on a share of the rows, and surer of these by ``sure``."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, rows)
    logits = np.zeros((rows, 2, 2), dtype=np.float32)
    for k, share in enumerate((first_right, last_right)):
        right = random.random(rows) < share
        margin = random.normal(1.5, 0.5, rows).clip(0.1) + (sure * right if k == 0 else 2.0)
        side = np.where(right, labels, 1 - labels)
        logits[np.arange(rows), k, side] = margin
    ids = np.arange(rows)
    return ExitOutputs(logits, None, labels, (1, 4), (1, 4), ids, np.full(rows, 8))


def yardstick(rows):
    flops = np.tile([100, 400], (rows, 1))
    return Yardstick("accuracy", "classification", 2, 4, flops[:, 1], flops)


def recalibrated(raw, max_loss=1.0, rules=("confidence",), old=None):
    loaded = {name: load_rule(name) for name in rules}
    return from_outputs(raw, yardstick(len(raw.labels)), loaded, max_loss, SCHEMA, old)


def test_where_rows_differ_the_old_threshold_loses_and_the_new_one_keeps_the_goal():
    home = recalibrated(outputs())
    assert home.after.loss <= 1.0
    assert home.after.layers_speedup > 1.5
    elsewhere = recalibrated(outputs(sure=-1.0, seed=1), old=home.calibration)
    assert elsewhere.old == home.new
    assert elsewhere.before.loss > 5.0
    assert elsewhere.after.loss <= 1.0


def test_the_new_confidences_are_those_of_the_new_answers():
    found = recalibrated(outputs()).calibration
    values = answer_confidences(outputs(), found, OperatingPoint.from_json(found["recommended"]).setting)
    assert found["confidences"] == Confidences.of(values).to_json()


def test_without_a_calibration_the_model_answered_at_full_depth():
    before = recalibrated(outputs()).before
    assert (before.loss, before.layers_speedup, before.flops_speedup) == (0.0, 1.0, 1.0)


def test_held_out_figures_do_not_share_the_luck_of_the_choice():
    raw = [outputs(rows=60, first_right=0.8, last_right=0.8, sure=0.0, seed=seed) for seed in range(30)]
    found = [recalibrated(item, 1.0) for item in raw]
    seen, held_out = (np.mean([getattr(item, name).loss for item in found]) for name in ("after", "held_out"))
    assert seen <= 1.0
    assert held_out > seen + 1.0


def test_held_out_figures_are_of_all_rows_where_halves_agree():
    raw = outputs(first_right=1.0, last_right=1.0)
    found = recalibrated(raw)
    assert found.held_out == found.after
    assert found.after.layers_speedup == found.after.flops_speedup == 4.0


def test_goals_of_speed_and_currency_are_kept():
    old = recalibrated(outputs()).calibration | {"cost": "flops"}
    old["operating_points"][0]["goal"] |= {"kind": "min_speedup", "value": 2.0}
    found = recalibrated(outputs(seed=2), old=old).calibration
    names = [(point["goal"]["kind"], point["goal"]["cost"]) for point in found["operating_points"]]
    assert names == [("max_loss", "flops"), ("min_speedup", "flops")]


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def model(tmp_path):
    """A copy of a kept model, as an exported folder."""
    return Path(shutil.copytree(SAVED / "model", tmp_path / "model"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """60 rows, of which the model, who answers "good" at full depth whatever it reads, gets 50 right."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, size)) for size in random.integers(1, 12, 60)]
    assert set(load_predictor(SAVED / "model", rule="fixed").predict(texts, 32).labels) == {"good"}
    file = tmp_path_factory.mktemp("rows") / "labelled.csv"
    file.write_text(
        "text,team\n" + "".join(f"{text},{'good' if k % 6 else 'bad'}\n" for k, text in enumerate(texts))
    )
    return file


@pytest.fixture
def ask(capsys):
    def run(*arguments):
        status = cli.main([str(item) for item in arguments])
        return status, *capsys.readouterr()

    return run


def test_a_model_is_calibrated_where_it_lies_and_predicts_with_it(ask, model, rows):
    earlier = read_json(model / "calibration.json")
    status, out, err = ask("calibrate", model, rows, "--max-loss", "2", "--rule", "confidence")
    assert (status, err) == (0, "")
    found = read_json(model / "calibration.json")
    assert read_json(model / "calibration.original.json") == earlier
    assert (found["rows"], found["full_quality"]) == (60, pytest.approx(50 / 60))
    assert {point["setting"]["rule"] for point in found["operating_points"]} == {"confidence"}
    seen = found["recommended"]["seen"]
    assert seen["quality"] >= 50 / 60 - 0.02
    texts = [line.rpartition(",")[0] for line in rows.read_text().splitlines()[1:]]
    predictor = load_predictor(model)
    answer = predictor.predict(texts, 32)
    assert predictor.engine.threshold == found["recommended"]["setting"]["threshold"]
    assert predictor.full_layers * 60 / answer.exit_layers.sum() == pytest.approx(seen["layers_speedup"])
    for told in ("before, on these rows", "now, on these rows", "now, expected on new rows", "60 rows"):
        assert told in out
    assert f"`confidence` at threshold {predictor.engine.threshold:g}" in (model / "README.md").read_text()


def test_calibrated_twice_the_original_stays(ask, model, rows):
    earlier = read_json(model / "calibration.json")
    for loss in ("2", "5"):
        assert ask("calibrate", model, rows, "--max-loss", loss)[0] == 0
    assert read_json(model / "calibration.original.json") == earlier


def test_a_copy_leaves_the_model_as_it_was(ask, model, rows, tmp_path):
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    assert ask("calibrate", model, rows, "--out", tmp_path / "mine")[0] == 0
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before
    assert load_predictor(tmp_path / "mine").predict(["a film"]).labels


@pytest.mark.parametrize("name", ["onnx_fp32", "onnx_int8"])
def test_graphs_are_calibrated_on_their_own_answers(ask, model, rows, tmp_path, name):
    export(model, tmp_path / "graphs", name)
    status, _, _ = ask(
        "calibrate",
        tmp_path / "graphs",
        rows,
        "--max-loss",
        "2",
        "--rule",
        "confidence",
        "--out",
        tmp_path / "mine",
    )
    assert status == 0
    found, before = (read_json(tmp_path / part / "calibration.json") for part in ("mine", "graphs"))
    assert (found["weights"], found["cost"], found["rows"]) == (before["weights"], "layers", 60)
    texts = [line.rpartition(",")[0] for line in rows.read_text().splitlines()[1:]]
    predictor = load_predictor(tmp_path / "mine")
    answer = predictor.predict(texts)
    assert predictor.engine.threshold == found["recommended"]["setting"]["threshold"]
    seen = found["recommended"]["seen"]
    assert predictor.full_layers * 60 / answer.exit_layers.sum() == pytest.approx(seen["layers_speedup"])
    assert f"Exported as `{name}`" in (tmp_path / "mine/README.md").read_text()


def test_graphs_that_are_cut_for_another_rule_refuse_one_that_can_decide_elsewhere(
    ask, model, rows, tmp_path
):
    body = read_json(model / "calibration.json")
    write_json(model / "calibration.json", body | {"recommended": None, "operating_points": []})  # full depth
    export(model, tmp_path / "graphs", "onnx_fp32")
    given = ["calibrate", tmp_path / "graphs", rows, "--max-loss", "100", "--rule", "confidence"]
    status, _, err = ask(*given, "--out", tmp_path / "mine")
    assert status == 2
    assert "can decide at" in err
    assert not (tmp_path / "mine").exists()


def test_a_cascade_is_calibrated_against_its_last_member(ask, rows, tmp_path):
    status, out, _ = ask(
        "calibrate", SAVED / "cascade", rows, "--max-loss", "100", "--out", tmp_path / "mine"
    )
    assert status == 0, out
    found = read_json(tmp_path / "mine/calibration.json")
    assert found["num_layers"] == 3
    assert found["recommended"]["seen"]["layers_speedup"] == 3.0
    assert found["recommended"]["seen"]["flops_speedup"] > 2.0


def test_a_runs_folder_is_left_alone(ask, rows, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(SAVED / "model", run / "train/model")
    (run / "train/model/calibration.json").unlink()
    write_json(run / "calibration/calibration.json", read_json(SAVED / "model/calibration.json"))
    for folder in (run, run / "train/model"):
        status, _, err = ask("calibrate", folder, rows)
        assert status == 2
        assert "give --out DIR" in err
    assert ask("calibrate", run, rows, "--out", tmp_path / "mine")[0] == 0


@pytest.mark.parametrize("home", ["results/model", "results/few/model", "runs/tiers/model"])
def test_a_model_that_the_next_run_would_write_again_is_left_alone(ask, rows, tmp_path, home, monkeypatch):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    shutil.copytree(SAVED / "model", tmp_path / home)
    monkeypatch.chdir(tmp_path)
    before = {file.name: file.read_bytes() for file in Path(home).iterdir()}
    status, _, err = ask("calibrate", home, rows)
    assert status == 2
    assert "give --out DIR" in err
    assert {file.name: file.read_bytes() for file in Path(home).iterdir()} == before
    assert "name a folder elsewhere" in ask("calibrate", home, rows, "--out", "results/mine")[2]
    assert ask("calibrate", home, rows, "--out", "mine")[0] == 0
    assert ask("calibrate", "mine", rows)[0] == 0, "a copy beside the results is its user's own"


def test_the_card_written_again_keeps_licence_and_base_model_and_the_old_card_stays(ask, model, rows):
    schema = Schema.load(model)
    origin = Encoder("me/encoder", "apache-2.0")
    old = f"---\n{front_matter(schema, origin, NO_DATASET, [])}\n---\n\nWords of my own.\n"
    (model / "README.md").write_text(old)
    for loss in ("2", "5"):  # made again, the first one stays
        assert ask("calibrate", model, rows, "--max-loss", loss)[0] == 0
        card = ModelCard((model / "README.md").read_text())
        assert (card.data.license, card.data.base_model) == ("apache-2.0", "me/encoder")
        assert (model / "README.original.md").read_text() == old


def test_a_card_whose_head_cannot_be_read_is_told_before_anything_is_written(ask, model, rows):
    (model / "README.md").write_text("---\nlicense: [\n---\n")
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    status, out, err = ask("calibrate", model, rows)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "README.md" in err
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before


def test_rows_without_a_text_do_not_count_and_are_told(ask, model, rows, tmp_path):
    lines = rows.read_text().splitlines(keepends=True)
    blank = tmp_path / "blank.csv"
    blank.write_text("".join([*lines[:30], ",\n", "  ,bad\n", *lines[30:], ",good\n"]))
    assert ask("calibrate", model, rows, "--out", tmp_path / "plain")[0] == 0
    status, out, err = ask("calibrate", model, blank, "--out", tmp_path / "mine")
    assert status == 0, err
    assert "note: rows without a text left out, with their labels: 3" in out
    assert (tmp_path / "mine/calibration.json").read_bytes() == (
        tmp_path / "plain/calibration.json"
    ).read_bytes()


def test_where_blank_rows_are_left_out_a_message_says_which_rows_it_counts(ask, model, tmp_path):
    (tmp_path / "t.csv").write_text("text,team\na,good\n,\n,\nb,7\n")
    status, _, err = ask("calibrate", model, tmp_path / "t.csv")
    assert status == 2
    assert "(rows without a text left out: 2), row 1: label '7'" in err


def test_a_table_without_a_text_is_refused(ask, model, tmp_path):
    (tmp_path / "t.csv").write_text("text,team\n,good\n ,bad\n")
    status, _, err = ask("calibrate", model, tmp_path / "t.csv")
    assert status == 2
    assert "holds no text in its 2 rows" in err


def table(text):
    lines = text.splitlines()
    return "\n".join([*lines, *(lines[1:] * 20)]) + "\n"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text,team\na,goood\nb,bad\nc,ugly\n", [], "the model does not know the labels 'goood' (21 rows), 'ugly' (21 "
         "rows); allowed: bad, good; did you mean 'good'?"),
        ("text,team\na,good\nb,7\n", [], "'7' in column 'team' is out of range"),
        ("text,team\na,good\nb,\n", [], "the label in column 'team' is null"),
        ("text,team\na,good\n", [], "holds one class only (good)"),
        ("text,team,id\na,good,1\nb,bad,2\n", [], "has no column 'label'; name the right one with --label"),
        ("text,team\na,good\nb,bad\n", ["--label", "tean"], "did you mean 'team'?"),
        ("txt,team\na,good\nb,bad\n", [], "has no column 'text'; name the right one with --column"),
        ("text,team\n", [], "holds only a header (text, team), no rows"),
        ("text,team\na,good\nb,bad\n", ["--max-loss", "nan"], "--max-loss nan must be a number of points from 0"),
        ("text,team\na,good\nb,bad\n", ["--rule", "oracle"], "needs the true labels"),
        ("text,team\na,good\nb,bad\n", ["--rule", "confidance"], "did you mean 'confidence'?"),
        ("text,team\na,good\nb,bad\n", ["--out", "{model}"], "is not an empty folder"),
    ],
)  # fmt: skip
def test_mistakes_are_one_clear_line_and_change_nothing(
    ask, model, tmp_path, content, options, message, monkeypatch
):
    monkeypatch.setattr(
        "adaptive_inference.serving.predictor.load_on", None
    )  # they are told before a model is loaded
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    (tmp_path / "rows.csv").write_text(table(content))
    status, out, err = ask(
        "calibrate", model, tmp_path / "rows.csv", *(item.format(model=model) for item in options)
    )
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before


def test_too_few_rows_are_refused_and_few_are_said_to_tell_little(ask, model, rows, tmp_path):
    lines = rows.read_text().splitlines(keepends=True)
    few = tmp_path / "few.csv"
    few.write_text("".join(lines[:10]))
    status, _, err = ask("calibrate", model, few)
    assert status == 2
    assert "9 rows are too few to choose a threshold; give at least 20" in err
    assert (
        "one of 60 rows is 1.7 points, more than --max-loss 1; 100 rows are the fewest"
        in ask("calibrate", model, rows)[1]
    )


def test_scores_are_calibrated_too(ask, tmp_path):
    from adaptive_inference.exits import build_model
    from adaptive_inference.settings.inputs import Backbone

    schema = Schema("pair", "regression", None, "pearson", 32, ("premise", "hypothesis"))
    build_model(Backbone(weights="random:bert", exits=[1, 4]), schema, 0).save_pretrained(tmp_path / "model")
    lines = [
        {"premise": f"a film {k}", "hypothesis": "a movie " * (k % 7), "score": k % 5} for k in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, out, err = ask(
        "calibrate", tmp_path / "model", tmp_path / "rows.jsonl", "--out", tmp_path / "mine"
    )
    assert status == 0, err
    assert "pearson" in out
    assert read_json(tmp_path / "mine/calibration.json")["temperatures"] == [1.0, 1.0]
