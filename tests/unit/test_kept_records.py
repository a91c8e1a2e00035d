"""Kept records: the same view as of a `runs` folder, in few files that grow slice by slice."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_inference.calibration.answers import Answers
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.errors import UserError
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.files import write_json
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import load_params
from adaptive_pipeline.runs.digests import digest_path
from adaptive_pipeline.runs.keep import keep_records
from adaptive_pipeline.runs.records import FAMILIES, Record
from adaptive_pipeline.runs.store import Finished, family, kept_file, open_runs, read_kept, write_kept
from adaptive_pipeline.runs.validity import why_unusable

PROJECT = Path(__file__).parents[2]
CELL = Cell("tiers", "tiny", 0)
METHODS = {"full": "finetune_backbone", "sweet": "train_sweet", "leebert": "train_leebert"}
FOLDERS = {"calibrate_thresholds": "calibration", "evaluate_batch1": "evaluation"}


@pytest.fixture(scope="module")
def params():
    return load_params(PROJECT / "presets/smoke.yaml")


def a_record(params, stage, method, inputs):
    cell = Cell(CELL.task, CELL.backbone, CELL.seed, method)
    keys = ("training",) if method else (f"tasks.{CELL.task}",)
    return FAMILIES[stage](stage=stage, cell=cell, params=params.echo(keys), inputs=inputs, code="c")


def write_runs(root, params, methods=METHODS):
    """Write the records of some methods, with what lies beside them; a model is a file that names its method."""
    a_record(params, "prepare_data", "", {}).save(CELL.folder(root) / "data")
    for method in methods:
        folder = Cell(CELL.task, CELL.backbone, CELL.seed, method).folder(root)
        write_json(folder / "train/model/config.json", method)
        trained = a_record(params, METHODS[method], "" if method == "full" else method, {"data": "d"})
        trained.save(folder / "train")
        (folder / "train/history.jsonl").write_text('{"step": 1}\n')
        write_json(folder / "train_timings.json", {"seconds": 1.5})
        read = {"data": "d", "model": digest_path(folder / "train/model")}
        for stage, name in FOLDERS.items():
            a_record(params, stage, method, read).save(folder / name)
        write_json(folder / "evaluation/curves.json", {"confidence": {"quality": [0.5, 0.25]}})
        write_json(folder / "evaluation/predictions.json", {"ids": [0, 1], "labels": [1, 0], "points": []})
        write_json(folder / "timings.json", {"goals": {"wallclock_speedup": 1.25}})


@pytest.fixture
def runs(tmp_path, params):
    write_runs(tmp_path / "runs", params)
    return tmp_path / "runs"


def seen(root):
    """All that a table can ask of a view."""
    view = open_runs(root)
    names = ("timings", "curves", "predictions")
    return {
        key: (record, [view.companion(*key, name) for name in names]) for key, record in view.records.items()
    }


def test_kept_records_show_what_the_runs_folder_shows(runs, tmp_path, params):
    assert keep_records(runs, tmp_path / "kept", params) == (10, 0)
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["tiers-tiny-seed0.jsonl.gz"]
    assert seen(tmp_path / "kept") == seen(runs)
    assert len(seen(runs)) == 10
    view = open_runs(tmp_path / "kept")
    key = ("evaluate_batch1", Cell("tiers", "tiny", 0, "sweet"))
    assert view.companion(*key, "timings") == {"goals": {"wallclock_speedup": 1.25}}
    assert why_unusable(*key, view, params) == ""
    assert view.folder(*key) is None
    assert open_runs(runs).folder(*key) == runs / "tiers/tiny/seed0/sweet/evaluation"


def test_a_record_of_code_of_ones_own_that_was_edited_since_is_not_current(
    runs, tmp_path, params, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code = Path("own_code/mine.py")
    code.parent.mkdir()
    code.write_text("RULE = 1\n")
    folder = runs / "tiers/tiny/seed0/sweet/calibration"
    record = Record.load(folder)
    record.model_copy(update={"inputs": record.inputs | {str(code): digest_path(code)}}).save(folder)
    key, full = (("evaluate_batch1", Cell("tiers", "tiny", 0, name)) for name in ("sweet", "full"))
    assert why_unusable(*key, open_runs(runs), params) == ""
    code.write_text("RULE = 2\n")
    assert why_unusable(*key, open_runs(runs), params) == (
        "calibrate_thresholds ran own_code/mine.py before it was edited; run it again"
    )
    assert why_unusable(*full, open_runs(runs), params) == ""
    code.unlink()
    assert why_unusable(*key, open_runs(runs), params) == ""


def test_the_training_that_serves_all_methods_is_that_of_full(runs):
    record = open_runs(runs).records["train", Cell("tiers", "tiny", 0, "full")]
    assert (record.stage, record.cell.method) == ("finetune_backbone", "full")


def test_no_curve_of_a_training_and_no_model_is_kept(runs, tmp_path, params):
    keep_records(runs, tmp_path / "kept", params)
    lines = gzip.decompress(next((tmp_path / "kept").iterdir()).read_bytes()).splitlines()
    assert {name for line in lines for name in json.loads(line)} == {
        "record",
        "timings",
        "curves",
        "predictions",
    }
    assert b'"step"' not in b"".join(lines)


def test_what_was_kept_stays_when_the_next_slice_comes(tmp_path, params):
    write_runs(tmp_path / "runs", params, ("full", "sweet"))
    keep_records(tmp_path / "runs", tmp_path / "kept", params)
    shutil.rmtree(tmp_path / "runs")
    write_runs(tmp_path / "runs", params, ("full", "leebert"))
    assert keep_records(tmp_path / "runs", tmp_path / "kept", params) == (7, 0)
    view = open_runs(tmp_path / "kept")
    for method in METHODS:
        assert why_unusable("evaluate_batch1", Cell("tiers", "tiny", 0, method), view, params) == ""


def test_newer_figures_of_a_stage_replace_the_kept_ones(runs, tmp_path, params):
    keep_records(runs, tmp_path / "kept", params)
    write_json(runs / "tiers/tiny/seed0/sweet/timings.json", {"goals": {"wallclock_speedup": 2.0}})
    keep_records(runs, tmp_path / "kept", params)
    assert seen(tmp_path / "kept") == seen(runs)


def test_records_of_other_params_methods_or_models_are_left_out(runs, tmp_path, params):
    folder = runs / "tiers/tiny/seed0"
    write_json(folder / "sweet/train/model/config.json", "trained again")
    other = params.model_copy(update={"training": params.training.model_copy(update={"epochs": 9})})
    a_record(other, "train_leebert", "leebert", {"data": "d"}).save(folder / "leebert/train")
    a_record(params, "evaluate_batch1", "of_nobody", {}).save(folder / "of_nobody/evaluation")
    assert keep_records(runs, tmp_path / "kept", params) == (5, 6)
    assert {(stage, cell.method) for stage, cell in open_runs(tmp_path / "kept").records} == {
        ("prepare_data", ""), ("train", "full"), ("calibrate_thresholds", "full"), ("evaluate_batch1", "full"),
        ("train", "sweet"),
    }  # fmt: skip


def test_stages_that_are_being_written_are_not_seen(runs):
    before = seen(runs)
    shutil.copytree(runs / "tiers/tiny/seed0/sweet/train", runs / "tiers/tiny/seed0/sweet/.train.partial")
    assert seen(runs) == before


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert open_runs(tmp_path / "none").records == {}


def test_equal_content_gives_equal_bytes_and_leaves_the_file_alone(runs, tmp_path, params):
    for name in ("a", "b", "a"):
        keep_records(runs, tmp_path / name, params)
    first, second = (next((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    packed = gzip.compress(gzip.decompress(first.read_bytes()), compresslevel=1, mtime=0)
    first.write_bytes(packed)  # as another version of the packer might
    keep_records(runs, tmp_path / "a", params)
    assert first.read_bytes() == packed


def write_answers(root, method, kind="classification", model=None):
    """Write what `collect_answers` leaves of a method, of the model that its evaluation read unless told otherwise."""
    folder = CELL.folder(root) / method
    logits = np.random.default_rng(0).normal(size=(5, 2, 1 if kind == "regression" else 3))
    outputs = ExitOutputs(
        logits, None, np.arange(5) % 3, (2, 4), (2, 4), np.arange(5), np.full(5, 7, dtype=np.int64)
    )
    read = Record.load(folder / "evaluation").inputs["model"]
    answers = Answers(outputs, Yardstick("accuracy", kind, 3, 4), made_from={"model": model or read})
    (folder / "answers").mkdir()
    answers.save(folder / "answers/evaluation.safetensors")
    return logits


def test_what_each_exit_answered_is_kept_with_an_evaluation_of_the_same_model(runs, tmp_path, params):
    logits = write_answers(runs, "full")
    write_answers(runs, "sweet", model="another")
    write_answers(runs, "leebert", kind="regression")
    keep_records(runs, tmp_path / "kept", params)
    view = open_runs(tmp_path / "kept")
    kept = {
        method: view.companion("evaluate_batch1", Cell("tiers", "tiny", 0, method), "exit_answers")
        for method in METHODS
    }
    assert kept == {
        "full": {"exits": [2, 4], "classes": logits.argmax(-1).T.tolist()},
        "sweet": {},
        "leebert": {},
    }


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda body: body[: len(body) // 2], "holds no kept records"),
        (lambda body: b"no gzip", "holds no kept records"),
        (lambda body: body[:40] + bytes([body[40] ^ 255]) + body[41:], "holds no kept records"),
        (lambda body: gzip.compress(b"{}\n"), "holds no kept records"),
        (lambda body: gzip.compress(b'{"record": 3}\n'), "holds no kept records"),
        (lambda body: gzip.compress(b'{"record": {"version": 1}}\n'), "of version 1, this code reads 2"),
    ],
)
def test_a_damaged_or_older_file_is_refused_in_one_sentence(runs, tmp_path, params, damage, told):
    keep_records(runs, tmp_path / "kept", params)
    file = next((tmp_path / "kept").iterdir())
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=told) as error:
        open_runs(tmp_path / "kept")
    assert file.name in str(error.value)


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.none()
bodies = st.dictionaries(st.text(), st.lists(numbers) | st.dictionaries(st.text(), numbers), min_size=1)


@given(
    st.dictionaries(st.text(), numbers),
    st.dictionaries(st.sampled_from(["timings", "curves", "predictions"]), bodies),
)
def test_every_number_survives_being_kept(tmp_path_factory, metrics, companions):
    record = FAMILIES["evaluate_batch1"](
        stage="evaluate_batch1", cell=CELL, params={"a": None}, inputs={}, code="c", metrics=metrics
    )
    file = kept_file(tmp_path_factory.mktemp("kept"), CELL)
    write_kept(file, [Finished(record, None, companions)])
    (again,) = read_kept(file)
    assert again.record == record
    for name in again.companions:
        assert again.companion(name) == companions.get(name, {})


def test_every_training_stage_is_of_one_family():
    assert {family(stage) for stage in METHODS.values()} == {"train"}
    assert family("evaluate_batch1") == "evaluate_batch1"
