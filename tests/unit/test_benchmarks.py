"""Every benchmark still runs, at sizes that measure nothing; what they measure is never asserted here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
TINY = {
    "autograd_memory": ["--width", "32", "--batch-size", "2", "--length", "8"],
    "batch1_latency": ["--sizes", "2", "32", "--lengths", "8"],
    "decoding": [
        *("--blocks", "4", "--width", "32", "--vocabulary", "61", "--new-tokens", "8", "--shares", "0.25"),
    ],
    "decoding_lossless": ["--families", "t5", "llama", "--prompts", "4", "--batch-size", "2"],
    "decoding_peers": [
        *("--blocks", "4", "--exit-layer", "1", "--width", "32", "--vocabulary", "61", "--new-tokens", "8"),
        *("--cycles", "4", "--batch-sizes", "1", "2"),
    ],
    "full_curve": [
        *("--weights", "random:bert", "--exits", "1", "2"),
        *("--rows", "40", "--length", "8", "--thresholds", "5"),
    ],
    "leebert_step": ["--width", "32", "--batch-size", "2", "--length", "8"],
    "onnx_engine": ["--sizes", "2", "32", "--lengths", "8"],
    "saliency": ["--weights", "random:bert", "--batch-size", "2", "--length", "8"],
    "throughput": ["--sizes", "2", "32", "--lengths", "6", "--batch-sizes", "3"],
    "token_reduction": [
        *("--width", "32", "--layers", "3", "--batch-size", "3", "--batches", "1", "--lengths", "8"),
    ],
    "train_step": ["--weights", "random:bert", "--exits", "1", "2", "--batch-size", "2"],
}
#: They count what differs, and have no rounds.
COUNTED = {"decoding_lossless"}
#: What the others are made with, which `test_paired_timing` tests, and an opponent that is optional.
HARNESS = {"encoders", "openvino_int8", "paired", "run_all", "speed_page"}


def test_every_benchmark_is_run_here_or_needs_a_computed_project():
    names = {file.stem for file in (PROJECT / "benchmarks").glob("*.py")}
    assert names - HARNESS == {*TINY, "orchestration", "serving"}


@pytest.mark.parametrize("name", TINY)
def test_the_last_line_is_one_json_object_of_finite_numbers(name):
    rounds = [] if name in COUNTED else ["--rounds", "2"]
    command = [sys.executable, f"benchmarks/{name}.py", *TINY[name], *rounds]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr

    def refuse(constant):
        raise AssertionError(f"{constant} in the last line")

    assert json.loads(ended.stdout.splitlines()[-1], parse_constant=refuse)
