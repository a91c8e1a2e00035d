"""``adaptive-inference tune``: what is tried, what is chosen, what is written and refused."""

import json
from pathlib import Path

import pytest
import torch

from adaptive_inference import load_predictor
from adaptive_inference.cli import main
from adaptive_inference.errors import UserError
from adaptive_inference.exits.deployment import deployment_of
from adaptive_inference.exits.layout import open_model
from adaptive_inference.machine import fingerprint
from adaptive_inference.serving import tuning
from adaptive_inference.serving.export import export
from adaptive_inference.serving.tuning import Trial, tune

SAVED = Path(__file__).parent / "saved_models/format1/model"
TEXTS = ["a truly lovely film", "not worth the time", "no", "the plot was awful , but the music is lovely"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def _run(capsys, *args):
    status = main(["tune", *map(str, args)])
    return status, *capsys.readouterr()


def test_all_deployments_are_timed_and_the_fastest_is_written(tmp_path, capsys):
    file, out = tmp_path / "texts.txt", tmp_path / "fast"
    file.write_text("\n".join(TEXTS))
    status, told, progress = _run(
        capsys, SAVED, file, "--out", out, "--threads", 1, "--threads", 2, "--agreement", 0
    )
    assert status == 0
    body = json.loads((out / "tuning.json").read_text())
    rows = body["candidates"]
    tried = [(row["deployment"], row["threads"]) for row in rows]
    assert tried == [("torch", 1), *((name, n) for name in ("onnx_fp32", "onnx_int8") for n in (1, 2))]
    assert rows[0]["speedup"] == rows[0]["low"] == rows[0]["high"] == rows[0]["agreement"] == 1
    assert all(row["low"] <= row["speedup"] <= row["high"] for row in rows)
    (chosen,) = (row for row in rows if row["chosen"])
    assert chosen["speedup"] == max(row["speedup"] for row in rows)
    assert deployment_of(open_model(out).home) == chosen["deployment"]
    assert body["machine"] == fingerprint()
    assert body["asked"] == {"texts": 4, "rounds": 3, "agreement": 0}
    assert f"wrote {out}: {chosen['deployment']}" in told
    assert told.count("<- chosen") == 1
    assert "timing 5 candidates on 4 texts, 3 rounds" in progress
    assert len(load_predictor(out).predict(TEXTS).labels) == 4


def test_what_answers_otherwise_is_not_chosen(tmp_path, monkeypatch):
    shares = iter([1.0, 0.98, 0.97])  # torch, fp32, int8
    monkeypatch.setattr(tuning, "_agreement", lambda first, other: next(shares))
    rows = tune(SAVED, tmp_path / "fast", Trial(TEXTS, [1], agreement=0.99), lambda told: None)
    assert [row.agreement for row in rows] == [1.0, 0.98, 0.97]
    assert [row.chosen for row in rows] == [True, False, False]


def test_a_folder_of_graphs_is_tried_with_threads_alone(tmp_path):
    export(SAVED, tmp_path / "graphs", "onnx_fp32")
    rows = tune(tmp_path / "graphs", tmp_path / "fast", Trial(TEXTS, [1, 2]), lambda told: None)
    assert [(row.deployment, row.threads) for row in rows] == [("onnx_fp32", 1), ("onnx_fp32", 2)]
    assert all(row.agreement == 1 for row in rows)
    for file in (tmp_path / "graphs").iterdir():
        assert (tmp_path / "fast" / file.name).read_bytes() == file.read_bytes()


def test_a_deployment_that_cannot_be_made_is_told_and_left_out(tmp_path, monkeypatch):
    def refusing(model, folder, name="torch"):
        if name == "onnx_int8":
            raise UserError("it removes tokens")
        export(model, folder, name)

    monkeypatch.setattr(tuning, "export", refusing)
    rows = tune(SAVED, tmp_path / "fast", Trial(TEXTS, [1]), lambda told: None)
    assert [row.why for row in rows] == [None, None, "it removes tokens"]
    assert rows[2].speedup is None


def test_where_there_is_nothing_to_choose_from_it_is_timed_and_written_all_the_same(tmp_path, monkeypatch):
    export(SAVED, tmp_path / "graphs", "onnx_int8")
    (row,) = tune(tmp_path / "graphs", tmp_path / "one", Trial(TEXTS, [1]), lambda told: None)
    assert (row.chosen, row.speedup, row.agreement) == (True, 1, 1)
    assert deployment_of(tmp_path / "one") == "onnx_int8"

    def refusing(model, folder, name="torch"):
        if name != "torch":
            raise UserError("it removes tokens")
        export(model, folder, name)

    monkeypatch.setattr(tuning, "export", refusing)
    rows = tune(SAVED, tmp_path / "weights", Trial(TEXTS, [1]), lambda told: None)
    assert [(row.chosen, row.why) for row in rows] == [(True, None), *[(False, "it removes tokens")] * 2]
    assert deployment_of(tmp_path / "weights") == "torch"


def test_agreement_of_scores_is_the_share_of_variance_that_is_the_same():
    assert tuning._agreement(["a", "b", "b", "a"], ["a", "b", "a", "a"]) == 0.75
    assert tuning._agreement([1.0, 2.0, 4.0], [1.0, 2.0, 4.0]) == 1
    assert tuning._agreement([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]) == 0
    assert tuning._agreement([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]) == pytest.approx(
        -0.5
    )  # a shift is no agreement
    assert tuning._agreement([3.0, 3.0], [3.0, 3.0]) == 1
    assert tuning._agreement([3.0, 3.0], [3.1, 3.1]) == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--rows", "0"], "--rows 0 must be a whole number from 1"),
        (["--rounds", "0"], "rounds 0 must be"),
        (["--threads", "0"], "threads 0 must be"),
        (["--agreement", "99"], "agreement 99 must be a share from 0 to 1"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path, capsys, options, told):
    file = tmp_path / "texts.txt"
    file.write_text("a text\n")
    status, _, said = _run(capsys, SAVED, file, "--out", tmp_path / "fast", *options)
    assert status == 2
    assert told in said
    assert not (tmp_path / "fast").exists()


def test_no_text_and_a_folder_that_is_taken_are_refused(tmp_path, capsys):
    file = tmp_path / "texts.txt"
    file.write_text("\n\n")
    status, _, said = _run(capsys, SAVED, file, "--out", tmp_path / "fast")
    assert status == 2
    assert "there is no text to time" in said
    file.write_text("a text\n")
    status, _, said = _run(capsys, SAVED, file, "--out", tmp_path)
    assert status == 2
    assert "is not an empty folder" in said
