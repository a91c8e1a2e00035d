"""What becomes of earlier outputs: those of a stage that fails, and those that were damaged on disk."""

import os
import re
import shutil

import pytest
import yaml

pytestmark = pytest.mark.pipeline
DATA = "runs/tiers/tiny/seed0/data"
MODEL = "runs/tiers/tiny/seed0/full/train/model/model.safetensors"
ROWS = "text,label\n" + "".join(f"word{i % 50} and {i},{'a' if i % 3 else 'b'}\n" for i in range(200))


@pytest.fixture
def project(fresh, tmp_path):
    project = fresh(tmp_path)
    project.environment = {"ADAPTIVE_INFERENCE_TRACKING": "off"}
    return project


def own_rows(project, text):
    """Let the task read a CSV with this text."""
    body = yaml.safe_load((project.root / "presets/smoke.yaml").read_text())
    given = {"source": "local", "train": "mine.csv", "text": ["text"], "label": "label", "max_length": 16}
    body["tasks"]["tiers"] = given | {"development_rows": 20, "calibration_rows": 30}
    (project.root / "params.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    (project.root / "data/mine.csv").write_text(text)


def test_a_data_stage_that_fails_keeps_its_earlier_output_which_the_edit_back_makes_good_again(project):
    own_rows(project, ROWS)
    project.run("dvc", "repro", "prepare_data")
    before = project.digests()
    assert f"{DATA}/splits/train.jsonl" in before

    own_rows(project, ROWS.removeprefix("text,label\n"))
    assert "has no column 'text'" in project.run("dvc", "repro", "prepare_data", check=False)
    assert project.digests() == before
    assert "changed" in project.run("dvc", "status", "prepare_data")

    own_rows(project, ROWS)
    assert "Running stage 'prepare_data" not in project.run("dvc", "repro", "prepare_data")

    own_rows(project, ROWS.replace("word1 ", "other "))  # another good edit is no earlier output
    assert "Running stage 'prepare_data" in project.run("dvc", "repro", "prepare_data")
    assert project.digests()[f"{DATA}/splits/train.jsonl"] != before[f"{DATA}/splits/train.jsonl"]


def flip_a_byte(file):
    """Change a file so that its size, mode and time stay."""
    then, body = file.stat(), bytearray(file.read_bytes())
    body[-10] ^= 1
    file.chmod(0o644)
    file.write_bytes(body)
    file.chmod(then.st_mode)
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))


def test_a_model_that_dvc_restores_damaged_is_told_of_and_the_command_told_makes_it_good(project):
    collect = ("dvc", "repro", "collect_answers@tiers-tiny-full-0")
    project.run("dvc", "repro", "finetune_backbone")
    before = project.digests()
    listed = (project.root / MODEL).parents[1] / "MD5SUMS"
    (md5,) = re.findall("(.*)  model/model.safetensors", listed.read_text())
    flip_a_byte(project.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:])
    shutil.rmtree((project.root / MODEL).parents[1])

    output = project.run(*collect, check=False)
    assert "is cached - skipping run" in output  # DVC sees nothing
    assert f"error: {MODEL} is damaged" in output
    (remedy,) = re.findall("`(rm .*?)`", output)
    project.run("bash", "-c", remedy)
    project.run(*collect)
    assert before.items() <= project.digests().items()
