"""What MLflow shows: measured points alone, every method where runs are compared, and a page of runs that opens."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Seen, Setting
from adaptive_inference.errors import UserError
from adaptive_inference.files import write_json, write_text
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params.yaml_file import read_yaml
from adaptive_pipeline.runs.records import EvaluationRecord, ExitRow, PointRow, TrainingRecord
from adaptive_pipeline.runs.store import Finished, open_runs
from adaptive_pipeline.tracking import ui
from adaptive_pipeline.tracking.given import Background, run_name, run_params, training_beside
from adaptive_pipeline.tracking.points import all_points, curves_table, shown_point, step_points
from adaptive_pipeline.tracking.publish import publish
from adaptive_pipeline.tracking.store import Store

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs/results/default/records"
GIVEN = {"params": {}, "inputs": {}, "code": "c"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A project whose store holds the kept records of the default."""
    folder = tmp_path_factory.mktemp("filled")
    for name in ("presets", "docs/results/default"):
        shutil.copytree(ROOT / name, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        publish(Path("docs/results/default/records"))
    return folder


@pytest.fixture
def project(filled, tmp_path, monkeypatch):
    """The same, moved elsewhere."""
    shutil.copytree(filled, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "moved"


def runs(store, experiment, query=""):
    found = store.client.get_experiment_by_name(experiment)
    return list(store.client.search_runs([found.experiment_id], query))


def metrics(item):
    return {name: value for name, _, value in all_points(item)}


def an_evaluation(rows=(), recommended=None, exits=()):
    cell = Cell("tiers", "tiny", 0, "sweet")
    return EvaluationRecord(
        stage="evaluate_batch1", cell=cell, rows=rows, recommended=recommended, exits=exits, **GIVEN
    )


def a_row(goal, seen, quality, method="sweet"):
    setting = Setting("confidence", 0.5 if seen else None)
    point = OperatingPoint(goal, setting, False, Seen(seen, 1.5, 1.4) if seen else None)
    figures = {"quality": quality, "layers_speedup": 1.6, "flops_speedup": 1.5} if seen else {}
    return PointRow(
        method=method, point=point, metric="accuracy", attainable=True, added_parameters=0, **figures
    )


def test_no_curve_of_a_training_has_a_point_that_was_not_measured(tmp_path):
    line = '{"step": 5, "epoch": 1.0, "development2_quality": 0.5, "loss": 2.0}\n'
    write_text(tmp_path / "history.jsonl", line)
    cell = Cell("tiers", "tiny", 0, "sweet")
    final = {"development2_quality": 0.6, "train_loss": 1.0}
    record = TrainingRecord(stage="train_sweet", cell=cell, metrics=final, **GIVEN)
    points = all_points(Finished(record, tmp_path, {"timings": {"seconds": 3.0}}))
    measured = step_points({"step": 5, "development2_quality": 0.5, "loss": 2.0})
    assert [point for point in points if not point[0].startswith("final/")] == measured
    assert {name for name, _, _ in points} >= {
        "final/development2_quality",
        "final/train_loss",
        "final/seconds",
    }


def test_a_method_that_keeps_the_quality_at_no_threshold_is_shown_by_its_least_loss_on_the_calibration_split():
    least, other = Goal("min_speedup", 1.5), Goal("min_speedup", 2.0)
    rows = [a_row(Goal("max_loss", 1.0), None, None), a_row(least, 0.9, 0.7), a_row(other, 0.8, 0.8)]
    clock = {"method": "sweet", "rule": "confidence", "wallclock_speedup": 1.3}
    timings = {"rows": [clock | {"operating_point": least.name}], "goals": {}}
    item = Finished(an_evaluation(rows), None, {"timings": timings})
    assert shown_point(item).name == "min_speedup_1.5"
    expected = {"quality": 0.7, "layers_speedup": 1.6, "flops_speedup": 1.5, "wallclock_speedup": 1.3}
    assert metrics(item) == expected | {"goal_met": 0.0}


def test_a_method_that_reaches_no_goal_is_shown_by_its_last_exit():
    exits = [
        ExitRow(layer=6, quality=0.9, layers_speedup=1.0),
        ExitRow(layer=2, quality=0.5, layers_speedup=3.0),
    ]
    item = Finished(an_evaluation([a_row(Goal("max_loss", 1.0), None, None)], exits=exits), None)
    assert shown_point(item).name == "all_layers"
    assert metrics(item) == {"quality": 0.9, "layers_speedup": 1.0, "goal_met": 0.0}


def test_a_recommended_point_stands_for_its_method():
    rows = [a_row(Goal("max_loss", 1.0), 0.8, 0.75), a_row(Goal("min_speedup", 1.5), 0.9, 0.7)]
    item = Finished(an_evaluation(rows, rows[0].point), None)
    assert (metrics(item)["quality"], metrics(item)["goal_met"]) == (0.75, 1.0)


def test_the_curves_of_rules_are_a_table_and_no_metric(tmp_path):
    curves = {"patience(tolerance=0.1)": {"thresholds": [1.0, 2.0], "quality": [0.2, None]}}
    write_json(tmp_path / "curves.json", curves)
    item = Finished(an_evaluation(), tmp_path)
    assert curves_table(item) == (
        "rule,threshold,quality\npatience(tolerance=0.1),1.0,0.2\npatience(tolerance=0.1),2.0,\n"
    )
    assert metrics(item) == {}


def test_all_methods_show_the_same_params_under_the_same_names_with_defaults_and_overrides_applied():
    kept = open_runs(KEPT)
    shown = {}
    for (family, cell), item in kept.finished.items():
        if family == "evaluate_batch1":
            trained = kept.finished["train", cell].record
            shown[cell.method] = run_params(item.record, Background(trained))
    ours = {"method", "task", "backbone", "seed", "train.epochs", "train.learning_rate", "train.objective",
            "train.gradient", "train.batch_size", "rules"}  # fmt: skip
    for params in shown.values():
        assert ours - {"train.gradient"} <= set(params)
        assert not any(name.startswith(("methods.", "tasks.", "backbones.")) for name in params)
    assert shown["sweet"]["train.gradient"] == "blockwise"
    assert shown["early_exit"]["train.gradient"] == "shared"
    assert shown["leebert"]["train.epochs"] != shown["early_exit"]["train.epochs"]
    assert shown["leebert"]["train.weight_learning.scheme"] == "clo_v2"
    assert "train.drop_rate" not in shown["pabee"]


def test_runs_are_named_for_people_and_the_full_models_training_is_that_of_full():
    cell = Cell("tiers", "tiny", 1, "pabee")
    named = {
        stage: run_name(TrainingRecord(stage=stage, cell=cell, **GIVEN))
        for stage in ("train_leebert", "evaluate_batch1", "collect_answers")
    }
    assert named["train_leebert"] == "pabee, seed 1, train"
    assert named["evaluate_batch1"] == "pabee, seed 1, evaluate"
    assert named["collect_answers"] == "pabee, seed 1, collect answers"
    full = TrainingRecord(stage="finetune_backbone", cell=Cell("tiers", "tiny", 1), **GIVEN)
    assert run_name(full) == "full, seed 1, train"
    assert run_params(full, Background(full))["method"] == "full"


def test_a_stage_finds_the_training_that_it_stands_on_beside_it(tmp_path):
    cell = Cell("tiers", "tiny", 0, "sweet")
    trained = TrainingRecord(stage="train_sweet", cell=cell, **GIVEN)
    trained.save(tmp_path / "train")
    assert training_beside(tmp_path / ".evaluation.partial", an_evaluation()) == trained
    assert training_beside(tmp_path / "elsewhere/evaluation", an_evaluation()) is None


def test_every_method_has_all_that_runs_are_compared_by(project):
    found = runs(Store(), "tiers", "tags.stage = 'evaluate_batch1'")
    compared = {"quality", "layers_speedup", "flops_speedup", "wallclock_speedup", "goal_met"}
    methods = read_yaml(ROOT / "presets/default.yaml")["methods"]
    assert sorted(run.data.params["method"] for run in found) == sorted(methods)
    for run in found:
        assert compared <= set(run.data.metrics)
        assert {"method", "rule", "threshold", "train.epochs"} <= set(run.data.params)
        assert run.data.tags["preset"] == "default"
    met = {run.data.params["method"]: run.data.metrics["goal_met"] for run in found}
    assert met["full"] == 1.0
    assert met["sweet"] == 0.0


def test_the_results_of_a_preset_are_one_run_that_is_replaced_when_they_change(project):
    store, folder = Store(), Path("docs/results/default")
    (before,) = runs(store, "results")
    assert before.info.run_name == "results of default"
    files = {item.path for item in store.client.list_artifacts(before.info.run_id, "tables")}
    assert {"tables/main.md", "tables/main.csv"} <= files
    assert not store.publish_results("default", folder)
    write_text(folder / "recommendation.md", "# Another\n")
    assert store.publish_results("default", folder)
    (after,) = runs(store, "results")
    assert after.info.run_id != before.info.run_id


def test_the_files_of_runs_are_found_after_their_folder_was_moved(project, filled):
    run = runs(Store(), "tiers")[0]
    assert run.info.artifact_uri.startswith(project.as_uri())
    shutil.rmtree(project / "mlartifacts/tiers" / run.info.run_id / "artifacts")
    assert not Store().client.list_artifacts(run.info.run_id)  # it is this folder that is read
    assert (filled / "mlartifacts/tiers" / run.info.run_id / "artifacts").is_dir()


def test_files_that_lie_elsewhere_keep_their_address(project, filled):
    """As of a store that several projects share, each with files of its own."""
    shutil.rmtree(project / "mlartifacts")
    assert runs(Store(), "tiers")[0].info.artifact_uri.startswith(filled.as_uri())


def test_a_run_that_presets_share_has_the_names_of_all(project):
    item = next(item for item in open_runs(KEPT).finished.values() if item.key[0] == "evaluate_batch1")
    store = Store()
    assert not store.publish(item, Background(preset="classifiers"))
    (run,) = store.runs_of(item.record)
    assert run.data.tags["preset"] == "classifiers, default"


@pytest.mark.parametrize(
    ("revision", "told"),
    [
        ("97727af70f4d", "written by an older MLflow; .*mlflow db upgrade"),
        ("f" * 12, "written by a newer MLflow"),
    ],
)
def test_a_store_of_another_version_is_told_with_what_to_do(revision, told, project):
    with sqlite3.connect("mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    with pytest.raises(UserError, match=told):
        Store()


def test_a_port_in_use_is_one_sentence_and_a_status(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "adaptive_pipeline.tracking.ui", "--port", str(port)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=_here(), check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: port {port} cannot be used")
    assert "make ui PORT=" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("port", [-1, 0, 70000])
def test_a_port_that_no_machine_has_is_refused_in_the_same_way(port):
    with pytest.raises(UserError, match=f"port {port} cannot be used: .*1 to 65535.*make ui PORT=5000"):
        ui.refuse_busy(port)


def a_server(script):
    """Return a stand-in for `ui.serve`: a process that writes what a script says to the log."""

    def serve(_uri, _port, log):
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as stream:
            return subprocess.Popen(["sh", "-c", script], stdout=stream, stderr=subprocess.STDOUT)

    return serve


def told_by_run(monkeypatch, folder, script):
    """Return the message of `make ui` whose server runs a script instead."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(ui, "refuse_busy", lambda _port: None)
    monkeypatch.setattr(ui.signal, "signal", lambda *_: None)
    monkeypatch.setattr(ui, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(ui, "pages", lambda _address: {})
    monkeypatch.setattr(ui, "serve", a_server(script))
    with pytest.raises(UserError) as told:
        ui.run(1)
    return str(told.value)


@pytest.mark.parametrize(
    ("script", "why", "answers"),
    [
        ("seq 100; echo no such table; exit 3", "ended with status 3", False),
        ("seq 100; echo no such table; exec sleep 60", "did not answer within 1 s", False),
        ("seq 100; echo no such table; exit 4", "ended with status 4", True),  # once it had answered
    ],
)
def test_a_server_that_fails_says_why_and_where_its_log_is(monkeypatch, tmp_path, script, why, answers):
    monkeypatch.setattr(ui, "START_SECONDS", 1.0)
    if answers:
        monkeypatch.setattr(ui, "wait_for", lambda *_: None)
    said = told_by_run(monkeypatch, tmp_path, script)
    assert why in said
    assert ".pipeline/mlflow_server.log" in said
    assert said.endswith("100\nno such table")
    assert len(said.splitlines()) < 20


def test_a_desktop_opens_the_newest_runs_and_a_machine_without_one_prints_the_address(monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(ui.webbrowser, "open", opened.append)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    ui.show({"tiers": "http://user:secret@host/#/a", "results": "http://host/#/b"})
    assert opened == []
    assert "http://host/#/a" in (said := capsys.readouterr().out)
    assert "secret" not in said
    monkeypatch.setenv("DISPLAY", ":0")
    ui.show({"tiers": "http://host/#/a", "results": "http://host/#/b"})
    assert opened == ["http://host/#/a"]


def _here():
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return kept | {"PYTHONPATH": str(ROOT / "src"), "ADAPTIVE_INFERENCE_TRACKING": ""}


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no chromium here: the pages of runs were not looked at")
def test_the_pages_of_make_ui_show_methods_figures_and_the_recommendation_in_a_browser(project):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "adaptive_pipeline.tracking.ui", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_here()) as server:
        try:
            said = dict(
                line.rsplit(None, 1) for line in iter(server.stdout.readline, "Stop it with Ctrl-C.\n")
            )
            runs_shown = page(said["tiers"])
            recommended = page(said["results of default"])
            compared = page(compare_address(port))
        finally:
            server.terminate()
    for method in ("full", "early_exit", "sweet", "multi_model", "pabee", "leebert"):
        assert f"{method}, seed 0, evaluate" in runs_shown
        assert f"{method}, seed 0, evaluate" in compared
    for name in ("quality", "goal_met", "flops_speedup", "0.975"):
        assert name in runs_shown
    assert "prepare data" not in runs_shown
    assert "Comparing 6 Runs" in compared
    assert "Recommendation</h1>" in recommended


def page(address):
    """Return a page as a browser has it once its scripts have run."""
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=2600,1400",
        "--virtual-time-budget=40000", "--dump-dom", f"--user-data-dir={Path.cwd() / 'browser'}", address,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def compare_address(port):
    store = Store()
    found = runs(store, "tiers", "tags.stage = 'evaluate_batch1'")
    listed = ",".join(f'"{run.info.run_id}"' for run in found)
    return f'http://127.0.0.1:{port}/#/compare-runs?runs=[{listed}]&experiments=["{found[0].info.experiment_id}"]'
