"""A stage that is killed by SIGKILL and started again ends with the bytes of the unbroken one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.pipeline
ROOT = Path(__file__).parents[2]
PARAMS = """
tasks:
  tiers:
    source: generated
    generated: {rows: 400, evaluation_rows: 40}
    max_length: 24
    development_rows: 40
    calibration_rows: 40
backbones:
  tiny: {weights: "random:bert", exits: [1, 2, 4], read: mean}
seeds: [0]
training: {epochs: 4, batch_size: 4, learning_rate: 1.0e-3, save_every: 7, warmup_ratio: 0.1, group_by_length: true}
trained_by: {train_sweet: [sweet], train_leebert: [], train_multi_model: []}
methods:
  full: {train: {}, rules: [fixed]}
  sweet: {train: {gradient: blockwise, backward: block_local}, rules: [confidence]}
runtime: {device: cpu}
"""
OUTPUTS = ("model.safetensors", "history.jsonl", "metrics.json")


def start(folder, step, out, *more):
    """Start a stage script in a folder that holds the params."""
    command = [
        sys.executable, str(ROOT / "pipeline_steps" / f"{step}.py"), "--params", "params.yaml", "--task", "tiers",
        "--backbone", "tiny", "--seed", "0", "--out", out, *more,
    ]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "ADAPTIVE_INFERENCE_TRACKING": "off",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process):
    """Wait; return what was logged."""
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    return log


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Params and splits."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "data").mkdir()
    finish(start(folder, "prepare_data", "splits_stage", "--data-folder", "data"))
    return folder


def contents(folder):
    """Bytes of all that must be equal, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name in OUTPUTS or path.suffix in (".json", ".md")
    }


def kill_while_training(process, scratch, checkpoints_first):
    """Send SIGKILL somewhere after a number of checkpoints; return the steps that were safe."""
    seen, deadline = set(), time.monotonic() + 240
    while len(seen) < checkpoints_first:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no checkpoint appeared"
        seen |= {path.name for path in scratch.glob("checkpoint-*")}  # this level alone: older ones vanish
        time.sleep(0.002)
    time.sleep(random.random() * 0.3)
    assert process.poll() is None, "the stage ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_stage_killed_twice_gives_the_same_bytes(folder):
    arguments = ("--method", "sweet", "--data", "splits_stage/splits")
    finish(start(folder, "train_sweet", "whole/train", *arguments, "--timings", "whole/timings.json"))
    broken = ("train_sweet", "broken/train", *arguments, "--timings", "broken/timings.json")
    for _ in range(2):
        kill_while_training(
            start(folder, *broken), folder / "broken" / ".train.scratch", random.randint(2, 5)
        )
        assert not (folder / "broken" / "train").exists()
    log = finish(start(folder, *broken))
    assert "resuming from checkpoint-" in log
    for left in ("scratch", "trash", "partial"):
        assert not (folder / "broken" / f".train.{left}").exists()
    assert contents(folder / "broken" / "train") == contents(folder / "whole" / "train")
    assert any(name.endswith("model.safetensors") for name in contents(folder / "whole" / "train"))
