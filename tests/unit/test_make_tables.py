"""The stage that makes tables and figures, run as a script on synthetic records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_records import PROJECT, invented_params, write_run


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, Path]:
    """Records of the full model and one method, and the params file that goes with them."""
    root = tmp_path_factory.mktemp("small")
    body = invented_params().model_dump(mode="json")
    body["methods"] = {name: body["methods"][name] for name in ("full", "sweet")}
    body["trained_by"] = {stage: [] for stage in body["trained_by"]} | {"train_sweet": ["sweet"]}
    params = invented_params(**{key: body[key] for key in ("methods", "trained_by")})
    write_run(root / "runs", params)
    (root / "params.yaml").write_text(json.dumps(params.model_dump(mode="json")))  # JSON is YAML
    return root / "runs", root / "params.yaml"


def make_tables(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, PROJECT / "pipeline_steps" / "make_tables.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=PROJECT)


def test_the_stage_rebuilds_the_same_bytes_and_leaves_other_files_alone(tmp_path, small):
    out = tmp_path / "results"
    out.mkdir()
    (out / "notes.html").write_text("mine")
    trees = []
    for _ in range(2):
        done = make_tables("--runs", small[0], "--params", small[1], "--out", out)
        assert done.returncode == 0, done.stderr
        trees.append({file.relative_to(out): file.read_bytes() for file in out.rglob("*") if file.is_file()})
    assert trees[0] == trees[1]
    names = {str(name) for name in trees[0]}
    assert {
        "notes.html",
        "report.html",
        "metrics.json",
        "recommendation.md",
        "recommendation.json",
        "tables/main.csv",
        "tables/main.tex",
    } <= names
    kinds = (
        "quality_layers",
        "quality_flops",
        "quality_wallclock",
        "overview",
        "rules",
        "exits",
        "reliability-sweet",
    )
    assert {f"figures/tiers-minilm-{kind}.{end}" for kind in kinds for end in ("png", "svg")} <= names
    assert not any("partial" in name for name in names)
    assert json.loads((out / "recommendation.json").read_text())["missing_cells"] == 0


def test_the_stage_refuses_a_folder_that_is_not_there(tmp_path):
    done = make_tables("--runs", tmp_path / "nowhere", "--out", tmp_path / "results")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no folder")


def test_the_stage_loads_no_heavy_library(small, tmp_path):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['make_tables', '--runs', sys.argv[1], '--params', sys.argv[2], '--out', sys.argv[3]]\n"
        "runpy.run_path('pipeline_steps/make_tables.py', run_name='__main__')\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'datasets', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, *map(str, small), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
