"""An environment with the extra `onnx` alone answers an exported model: no torch is there to be found."""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

from adaptive_inference import load_predictor
from adaptive_inference.serving.export import export

ROOT = Path(__file__).parents[2]
SAVED = ROOT / "tests/unit/saved_models/format1/model"
TEXTS = ["a truly lovely film", "not worth the time", "no", "the plot was awful , but the music is lovely"]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a new environment."""
    home = tmp_path_factory.mktemp("fresh") / "environment"
    venv.create(home, with_pip=True)
    binary = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    source = home.with_name("source")  # what is installed is built beside its source, which stays as it is
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    given = ["-c", ROOT / "constraints.txt", f"{source}[onnx]"]
    done = subprocess.run(
        [binary, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *given],
        capture_output=True,
        text=True,
    )
    if done.returncode and "Could not find a version" in done.stderr + done.stdout:
        pytest.skip("no package index answers here, and a fresh environment is made from one")
    assert done.returncode == 0, done.stderr
    return binary


def test_a_fresh_environment_answers_as_this_one_does(python, tmp_path):
    torch.set_num_threads(1)
    export(SAVED, tmp_path / "graphs", "onnx_int8")
    wanted = load_predictor(tmp_path / "graphs", threads=1).predict(TEXTS)
    absent = (
        "import importlib.util as u; print([n for n in ('torch', 'transformers', 'onnx') if u.find_spec(n)])"
    )
    assert subprocess.run([python, "-c", absent], capture_output=True, text=True).stdout == "[]\n"
    done = subprocess.run(
        [python, "-m", "adaptive_inference.cli", "predict", tmp_path / "graphs"],
        input="\n".join(TEXTS),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["label"] for row in rows] == list(wanted.labels)
    assert [row["exit_layer"] for row in rows] == wanted.exit_layers.tolist()
