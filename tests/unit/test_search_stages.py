"""A whole search: two points, two folds and a tiny random encoder; and what DVC makes of its stages."""

import csv
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_training import SCHEMA, make_rows

from adaptive_inference.errors import UserError
from adaptive_inference.tasks.schema import save_split
from adaptive_inference.training.folds import Fold
from adaptive_inference.training.rows import Rows
from adaptive_inference.training.trainer import ExitTrainer
from adaptive_pipeline import dvc_graph
from adaptive_pipeline.params import load_params, own_code
from adaptive_pipeline.search import __main__ as command
from adaptive_pipeline.search.plan import Plan, read_section

ROOT = Path(__file__).parents[2]
PARAMS = {
    "tasks": {"words": {"source": "local", "train": "x.csv", "max_length": 32}},
    "backbones": {"tiny": {"weights": "random:bert", "exits": [2, 4], "read": "mean"}},
    "seeds": [0],
    "training": {"epochs": 6, "batch_size": 8, "save_every": 2},
    "trained_by": {"train_sweet": ["early_exit"], "train_leebert": [], "train_multi_model": []},
    "methods": {
        "full": {"train": {}, "rules": ["fixed"]},
        "early_exit": {"train": {}, "rules": ["confidence"]},
    },
    "runtime": {"device": "cpu"},
}
GRID = {"method": "early_exit", "folds": 2, "grid": {"training.learning_rate": [1.0e-9, 5.0e-3]}}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with splits and a planned search."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")
    SCHEMA.save(tmp_path / "splits")
    for seed, (name, rows) in enumerate((("train", 96), ("development", 16))):
        save_split(tmp_path / "splits", name, make_rows(rows, seed))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (tmp_path / "search").mkdir()
    (tmp_path / "search/mine.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    command.start("mine")
    return tmp_path


def run_script(monkeypatch, name, *arguments):
    path = ROOT / f"pipeline_steps/{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    runpy.run_path(str(path), run_name="__main__")


def train_fold(monkeypatch, point, fold, root="search/mine/points", method="early_exit"):
    out = Path(root) / point / f"fold{fold}"
    run_script(
        monkeypatch, "train_fold", "--task", "words", "--backbone", "tiny", "--seed", 0, "--method", method,
        "--search", "search/params.yaml", "--point", point, "--fold", fold, "--data", "splits",
        "--out", out / "train", "--timings", out / "train_timings.json",
    )  # fmt: skip
    return out / "train/metrics.json"


def test_a_search_scores_every_point_on_rows_it_did_not_see_and_its_winner_becomes_the_params(
    project, monkeypatch
):
    plan = read_section(Plan, Path("search/params.yaml"))
    records = {
        (point, fold): json.loads(train_fold(monkeypatch, point, fold).read_text())
        for point in plan.points
        for fold in plan.folds
    }
    for (point, fold), record in records.items():
        assert record["params"]["training"]["learning_rate"] == plan.points[point]["training.learning_rate"]
        assert record["params"]["fold"] == {"number": fold, "count": 2, "seed": 0}
        assert record["rows"]["held_out"]["rows"] + record["rows"]["train"]["rows"] == 96
        exits = [record["metrics"][f"held_out{layer}_quality"] for layer in (2, 4)]
        assert record["metrics"]["held_out_quality"] == sum(exits) / 2
    assert len({record["record_id"] for record in records.values()}) == 4
    assert not list(Path("search").rglob("*.safetensors"))

    results = (
        "--search",
        "search/params.yaml",
        "--points",
        "search/mine/points",
        "--out",
        "search/mine/results",
    )
    run_script(monkeypatch, "choose_point", *results)
    table = list(csv.DictReader(Path("search/mine/results/results.csv").read_text().splitlines()))
    assert [row["point"] for row in table] == list(plan.points)
    for row in table:
        scores = [records[row["point"], fold]["metrics"]["held_out_quality"] for fold in plan.folds]
        assert [float(row[f"fold{fold}"]) for fold in plan.folds] == pytest.approx(scores, abs=1e-6)
        assert float(row["mean"]) == pytest.approx(sum(scores) / 2, abs=1e-6)
    assert float(table[1]["mean"]) > float(table[0]["mean"]) + 0.1  # a rate of 1e-9 learns nothing

    command.apply(Path("search/mine/results/patch.yaml"))
    assert load_params("params.yaml").training.learning_rate == 5e-3


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_killed_fold_resumes_to_the_same_record(project, monkeypatch):
    (point, _) = read_section(Plan, Path("search/params.yaml")).points
    whole = train_fold(monkeypatch, point, 1, "elsewhere").read_bytes()
    original, batches = ExitTrainer.training_step, []

    def dying(self, *args, **kwargs):
        batches.append(1)
        if len(batches) == 7:
            raise Killed
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ExitTrainer, "training_step", dying)
        with pytest.raises(Killed):
            train_fold(monkeypatch, point, 1)
    (scratch,) = Path("search/mine/points", point, "fold1").glob(".train.scratch/checkpoint-*")
    assert scratch.name == "checkpoint-6"
    assert train_fold(monkeypatch, point, 1).read_bytes() == whole


def test_the_full_model_is_searched_with_its_last_exit_alone(project, monkeypatch):
    (project / "search/mine.yaml").write_text(yaml.safe_dump(GRID | {"method": "full"}, sort_keys=False))
    command.start("mine")
    (point, _) = read_section(Plan, Path("search/params.yaml")).points
    assert json.loads(train_fold(monkeypatch, point, 0, method="full").read_text())["exits"] == [4]


def test_a_point_that_the_plan_lacks_is_refused(project, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        train_fold(monkeypatch, "p0", 0)
    assert "error: no point 'p0' in the search" in capsys.readouterr().err


def test_a_fold_is_cut_out_of_the_train_split_alone(project):
    from adaptive_inference.exits.build import build_model
    from adaptive_inference.settings.inputs import Backbone

    tokenizer = build_model(Backbone(weights="random:bert", exits=[2]), SCHEMA, 0).tokenizer
    plain = Rows.load(Path("splits"), SCHEMA, tokenizer)
    cut = Rows.load(Path("splits"), SCHEMA, tokenizer, Fold(0, 4, 0))
    assert plain.held_out == []
    assert "held_out" not in plain.lengths(32)
    assert cut.development == plain.development
    assert sorted(row["id"] for row in cut.train + cut.held_out) == [row["id"] for row in plain.train]
    with pytest.raises(UserError, match="97 folds of"):
        Rows.load(Path("splits"), SCHEMA, tokenizer, Fold(0, 97, 0))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What DVC reads of the project, with the smoke preset."""
    root = tmp_path_factory.mktemp("clone")
    for folder in ("src", "pipeline_steps", ".dvc", "search"):
        ignore = shutil.ignore_patterns("__pycache__", "tmp", "cache", "*.egg-info")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copyfile(ROOT / name, root / name)
    shutil.copyfile(ROOT / "presets/smoke.yaml", root / "params.yaml")
    (root / "data").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def stages_of(root):
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return {stage.addressing: stage for stage in repo.index.stages if stage.path_in_repo != "dvc.yaml"}


def test_a_search_has_its_own_stages_and_the_run_never_sees_them(clone, monkeypatch):
    monkeypatch.chdir(clone)
    assert stages_of(clone) == {}
    own_code.note(load_params())
    without = dvc_graph.read_graph(judge=False)
    command.start("leebert")
    try:
        assert dvc_graph.read_graph(judge=False) == without
        plan, stages = read_section(Plan, command.PLAN), stages_of(clone)
    finally:
        command.write_text(command.PLAN, command.plan_text(Plan()))
    names = {
        f"search/dvc.yaml:train_fold@leebert-{point}-{fold}" for point in plan.points for fold in plan.folds
    }
    assert len(names) == 20
    assert stages.keys() == names | {"search/dvc.yaml:choose_point@leebert"}
    one = stages[sorted(names)[0]]
    assert {dep.def_path for dep in one.deps} >= {
        "params.yaml", "search/params.yaml", "runs/tiers/tiny/seed0/data/splits",
    }  # fmt: skip
    missing = [dep.def_path for dep in one.deps if not (clone / dep.def_path).exists()]
    assert missing == [".params_checked", "runs/tiers/tiny/seed0/data/splits"]
