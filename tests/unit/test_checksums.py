"""A stage reads no file that was damaged since another stage wrote it."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_records import invented_params, write_run

from adaptive_inference.errors import UserError
from adaptive_pipeline import stage
from adaptive_pipeline.reporting.figures.weights import draw_weights
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.runs.checksums import write_checksums

ROOT = Path(__file__).parents[2]


@pytest.fixture
def written(tmp_path):
    """What a training left: a model, and its checksums."""
    folder = tmp_path / "train"
    (folder / "model").mkdir(parents=True)
    for name in ("metrics.json", "model/config.json", "model/model.safetensors"):
        (folder / name).write_text(f"all of {name}")
    write_checksums(folder)
    return folder


@pytest.fixture
def read_by_a_stage(tmp_path, monkeypatch):
    """A function that runs a stage on a path and returns what the stage found there."""
    name, out = str(ROOT / "pipeline_steps/train_multi_model.py"), tmp_path / "out"
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    monkeypatch.setattr(stage, "_set_threads", lambda count: None)

    def run(path):
        def main(running):
            running.begin("training")
            found.extend(sorted(file.name for file in running.inputs["full"].iterdir()))

        found = []
        cell = ["--task", "tiers", "--backbone", "tiny", "--seed", "0", "--out", str(out)]
        params = ["--params", str(ROOT / "presets/smoke.yaml"), "--full", str(path)]
        monkeypatch.setattr(sys, "argv", [name, *cell, *params])
        stage.run_stage(main, "", inputs=("full",))
        return found

    run.out = out
    return run


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_input_is_refused_and_named_with_both_checksums(damage, written, read_by_a_stage, capsys):
    file = written / "model/model.safetensors"
    body = file.read_bytes()
    noted = hashlib.md5(body).hexdigest()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(bytes([body[0] ^ 1]) + body[1:] if damage == "flipped" else body[:-1])
    with pytest.raises(SystemExit) as ended:
        read_by_a_stage(written / "model")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"error: {file} is damaged: its md5 is " in said
    assert f"but {noted} when it was written" in said
    assert f'rm -f {file} "$(dvc cache dir)/files/md5/{noted[:2]}/{noted[2:]}"' in said
    assert not read_by_a_stage.out.exists()


def test_a_stages_whole_folder_is_an_input_too(written, read_by_a_stage, capsys):
    file = written / "metrics.json"
    file.write_text("damaged")
    with pytest.raises(SystemExit):
        read_by_a_stage(written)
    assert f"error: {file} is damaged" in capsys.readouterr().err


def test_damage_to_what_the_stage_does_not_read_is_no_harm(written, read_by_a_stage):
    (written / "metrics.json").write_text("damaged")
    assert read_by_a_stage(written / "model") == ["config.json", "model.safetensors"]


def test_what_no_stage_wrote_is_taken_as_it_is(written, read_by_a_stage):
    (written / "MD5SUMS").unlink()
    (written / "model/config.json").write_text("by hand")
    assert read_by_a_stage(written / "model") == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    "noted", ["0" * 32 + "  model/config.json\n", "all files of the corpus\n", "0" * 64 + " *x\n"]
)
def test_a_list_of_checksums_that_no_stage_wrote_is_not_ours_to_check(noted, written, read_by_a_stage):
    (written / "MD5SUMS").write_text(noted)
    assert read_by_a_stage(written) == ["MD5SUMS", "metrics.json", "model"]


def test_the_list_of_a_copied_model_hides_no_damage(written, read_by_a_stage, capsys):
    (written / "model/MD5SUMS").write_text("0" * 32 + "  weights.bin\n")
    (written / "model/config.json").write_text("damaged")
    with pytest.raises(SystemExit):
        read_by_a_stage(written / "model")
    assert f"error: {written / 'model/config.json'} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metrics.json", "predictions.json", "curves.json"])
def test_tables_are_made_of_no_damaged_record_or_companion(name, tmp_path):
    params = invented_params()
    write_run(tmp_path, params, answers=True)
    stage_of = tmp_path / "tiers/minilm/seed1/sweet/evaluation"
    write_checksums(stage_of)
    collect(tmp_path, params)
    body = (stage_of / name).read_bytes()
    (stage_of / name).write_bytes(body.replace(b"0", b"1"))
    with pytest.raises(UserError, match=f"{name} is damaged"):
        collect(tmp_path, params)


def test_no_damaged_weights_of_losses_are_drawn(tmp_path):
    params = invented_params()
    write_run(tmp_path, params)
    training = tmp_path / "tiers/minilm/seed1/sweet/train"
    (training / "weights.jsonl").write_text('{"step": 1}\n')
    write_checksums(training)
    (training / "weights.jsonl").write_text('{"step": 2}\n')
    with pytest.raises(UserError, match=r"weights\.jsonl is damaged"):
        draw_weights(collect(tmp_path, params), tmp_path / "figures", "weights")


def test_every_file_of_a_stage_is_listed_as_md5sum_reads_it(written, read_by_a_stage):
    read_by_a_stage(written / "model")
    for folder in (written, read_by_a_stage.out):
        files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        done = subprocess.run(
            ["md5sum", "--check", "MD5SUMS"], cwd=folder, capture_output=True, text=True, check=True
        )
        assert {line.removesuffix(": OK") for line in done.stdout.splitlines()} == files - {"MD5SUMS"}
