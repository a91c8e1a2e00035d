"""Every benchmark still runs, at sizes that measure nothing; what they measure is never asserted here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
TINY = {
    "autograd_memory": ["--width", "32", "--batch-size", "2", "--length", "8"],
    "batch1_latency": ["--weights", "random:bert", "--exits", "1", "2", "--examples", "2", "--repeats", "2"],
    "decoding": [
        *("--blocks", "4", "--width", "32", "--vocabulary", "61", "--new-tokens", "8"),
        *("--shares", "0.25", "--rounds", "2"),
    ],
    "decoding_lossless": ["--families", "t5", "llama", "--prompts", "4", "--batch-size", "2"],
    "decoding_peers": [
        *("--blocks", "4", "--exit-layer", "1", "--width", "32", "--vocabulary", "61", "--new-tokens", "8"),
        *("--cycles", "4", "--batch-sizes", "1", "2", "--rounds", "2"),
    ],
    "full_curve": [
        *("--weights", "random:bert", "--exits", "1", "2"),
        *("--rows", "40", "--length", "8", "--thresholds", "5", "--repeats", "2"),
    ],
    "leebert_step": ["--width", "32", "--batch-size", "2", "--length", "8", "--blocks", "2"],
    "saliency": ["--weights", "random:bert", "--batch-size", "2", "--length", "8", "--repeats", "2"],
    "throughput": [
        *("--weights", "random:bert", "--exits", "1", "2", "--batch-sizes", "1", "3"),
        *("--rows", "6", "--length", "6", "--repeats", "2"),
    ],
    "token_reduction": [
        *("--width", "32", "--layers", "3", "--batch-size", "3", "--batches", "1"),
        *("--lengths", "8", "--rounds", "2"),
    ],
    "train_step": ["--weights", "random:bert", "--exits", "1", "2", "--batch-size", "2", "--steps", "2"],
}


def test_every_benchmark_is_run_here_or_needs_a_computed_project():
    names = {file.stem for file in (PROJECT / "benchmarks").glob("*.py")}
    assert names == {*TINY, "orchestration"}


@pytest.mark.parametrize("name", TINY)
def test_the_last_line_is_one_json_object_of_finite_numbers(name):
    command = [sys.executable, f"benchmarks/{name}.py", *TINY[name]]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr

    def refuse(constant):
        raise AssertionError(f"{constant} in the last line")

    assert json.loads(ended.stdout.splitlines()[-1], parse_constant=refuse)
