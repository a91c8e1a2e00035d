"""MLflow as a view: live and later logging agree, and trouble with the store is told before any work."""

import http.server
import shutil
import socket
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from adaptive_inference.errors import UserError
from adaptive_inference.files import write_json, write_text
from adaptive_pipeline import tracking
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.runs.records import Record
from adaptive_pipeline.tracking import publish as publish_records


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """An empty store: making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.Store(folder)
    return folder / "mlflow.db"


@pytest.fixture
def project(tmp_path, monkeypatch, migrated):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(migrated, tmp_path / "mlflow.db")
    monkeypatch.delenv("ADAPTIVE_INFERENCE_TRACKING", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def a_record(method="sweet", **metrics):
    cell = Cell("tiers", "tiny", 0, method)
    details = {"rule": "confidence", "operating_point": "max_loss_1"}
    return Record(
        "evaluate_batch1",
        cell,
        {"training": {"epochs": 2}, "runtime": None},
        {"data": "d"},
        "c",
        metrics,
        details,
    )


def a_folder(root, record, timings):
    folder = root / "runs/tiers/tiny/seed0" / record.cell.method / "evaluation"
    record.save(folder)
    write_text(
        folder / "history.jsonl",
        '{"step": 1, "epoch": 0.5, "loss": 2.0}\n{"step": 2, "epoch": 1.0, "loss": 1.0}\n',
    )
    write_json(
        folder / "curves.json",
        {"confidence": {"quality": [0.5, None, 0.7], "layers_speedup": [3.0, 2.0, 1.0]}},
    )
    write_json(folder.parent / "timings.json", timings)
    return folder


TIMINGS = {
    "rows": [
        {"method": "sweet", "rule": "confidence", "operating_point": "max_loss_1", "wallclock_speedup": 1.5},
        {
            "method": "sweet",
            "rule": "confidence",
            "operating_point": "min_speedup_2",
            "wallclock_speedup": 2.5,
        },
    ]
}


def runs_of(root):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    found = []
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            history = {
                key: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))
                for key in run.data.metrics
            }
            files = sorted(item.path for item in client.list_artifacts(run.info.run_id))
            tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
            found.append((experiment.name, run.info.status, tags, run.data.params, history, files))
    return found


def test_live_and_later_logging_give_equal_runs(project, tmp_path_factory, monkeypatch):
    record = a_record(quality=0.9, layers_speedup=2.0)
    folder = a_folder(project, record, TIMINGS)
    tracker = tracking.start_tracking(a_record())
    tracker.log({"loss": 2.0, "epoch": 0.5}, 1)
    tracker.finish(record, folder, TIMINGS)
    other = tmp_path_factory.mktemp("other")  # an empty folder: the store is made on the way
    monkeypatch.chdir(other)
    assert tracking.publish_record(tracking.Store(), folder)
    assert not tracking.publish_record(tracking.Store(), folder)
    (live,), (later,) = runs_of(project), runs_of(other)
    assert live == later
    assert live[:2] == ("tiers", "FINISHED")
    history = live[4]
    assert history["loss"] == [(1, 2.0), (2, 1.0)]
    assert history["confidence_quality"] == [(0, 0.5), (2, 0.7)]
    assert history["wallclock_speedup"] == [(0, 1.5)]
    assert live[3] == {"training.epochs": "2"}
    assert live[5] == ["curves.json", "history.jsonl", "metrics.json", "timings.json"]


def test_what_was_logged_live_but_not_kept_does_not_stay(project):
    record = a_record(quality=0.9)
    folder = a_folder(project, record, {})
    tracker = tracking.start_tracking(a_record())
    tracker.log({"never_kept": 1.0}, 1)
    tracker.finish(record, folder, {})
    ((_, status, _, _, history, _),) = runs_of(project)
    assert status == "FINISHED"
    assert "never_kept" not in history


def test_a_killed_runs_leftover_is_replaced_and_a_failed_run_is_marked(project):
    tracking.start_tracking(a_record())  # killed: never closed
    tracker = tracking.start_tracking(a_record())
    tracker.fail()
    assert [run[1] for run in runs_of(project)] == ["FAILED"]
    folder = a_folder(project, a_record(quality=0.9), {})
    tracking.start_tracking(a_record()).finish(a_record(quality=0.9), folder, {})
    assert [run[1] for run in runs_of(project)] == ["FINISHED"]


def test_newer_figures_of_one_record_replace_the_older_run(project):
    folder = a_folder(project, a_record(quality=0.9), TIMINGS)
    assert tracking.publish_record(tracking.Store(), folder)
    timings = {"rows": [TIMINGS["rows"][0] | {"wallclock_speedup": 1.7}]}
    write_json(folder.parent / "timings.json", timings)
    assert tracking.publish_record(tracking.Store(), folder)
    ((*_, history, _),) = runs_of(project)
    assert history["wallclock_speedup"] == [(0, 1.7)]


def open_and_close(folder):
    import os

    os.chdir(folder)
    tracking.start_tracking(a_record(f"m{os.getpid()}")).fail()


def test_many_processes_may_meet_a_fresh_store_at_once(project):
    (project / "mlflow.db").unlink()
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(open_and_close, [project] * 4, timeout=240))
    assert {run[0] for run in runs_of(project)} == {"tiers"}


def test_a_parents_run_id_does_not_capture_a_stage(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    tracking.start_tracking(a_record()).fail()
    assert len(runs_of(project)) == 1


class Silent:
    """A server that takes connections and never says a word."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __exit__(self, *_):
        self.socket.close()


def test_a_server_that_is_not_there_or_never_answers_is_told_within_seconds(project, monkeypatch):
    monkeypatch.setattr(tracking, "ANSWER_SECONDS", 0.5)
    with Silent() as silent:
        for uri in ("http://127.0.0.1:9", silent):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//user:secret@"))
            began = time.monotonic()
            with pytest.raises(UserError, match="does not answer") as told:
                tracking.start_tracking(a_record())
            assert time.monotonic() - began < 5
            assert "secret" not in str(told.value)


def test_a_store_that_cannot_be_opened_is_one_sentence(project, monkeypatch):
    (project / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/file/mlflow.db")
    with pytest.raises(UserError, match="cannot be used"):
        tracking.start_tracking(a_record())


def test_a_server_that_stops_answering_never_stops_a_training(project, monkeypatch, caplog):
    tracker = tracking.start_tracking(a_record())
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(
        tracker.store.client, "log_batch", lambda *_, **__: (_ for _ in ()).throw(OSError("gone"))
    )
    for step in range(3):
        tracker.log({"loss": 1.0}, step)
    folder = a_folder(project, a_record(quality=1.0), {})
    tracker.finish(a_record(quality=1.0), folder, {})
    assert caplog.text.count("stopped answering") == 1


def test_a_password_in_the_address_reaches_no_message(project, monkeypatch, caplog):
    """Clients name the whole address in their errors."""
    address = "http://user:top%40secret@127.0.0.1:9"
    told = OSError(f"cannot reach {address} as user:top@secret\nmore")
    tracker = tracking.start_tracking(a_record())
    tracker.store.uri = address
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(tracker.store.client, "log_batch", lambda *_, **__: (_ for _ in ()).throw(told))
    tracker.log({"loss": 1.0}, 1)
    assert "cannot reach http://127.0.0.1:9 as user:***)" in caplog.text
    used = r"the MLflow store http://127\.0\.0\.1:9 cannot be used"
    with pytest.raises(UserError, match=used) as error, tracker.store.speaks():
        raise told
    assert "secret" not in caplog.text + str(error.value)


def test_records_of_several_folders_are_published(project):
    a_folder(project, a_record(quality=0.9), {})
    a_folder(project / "search/mine/points/p1", a_record("pabee", quality=0.8), {})
    assert publish_records.publish(project / "runs", project / "search", project / "none") == (2, 2)
    assert publish_records.publish(project / "runs", project / "search") == (0, 2)
    assert {run[2]["method"] for run in runs_of(project)} == {"sweet", "pabee"}


@pytest.mark.parametrize("address", ["https://ghp_secret@host/x", "http://user:pa/secret@host:5"])
def test_what_stands_before_the_host_is_never_shown(address):
    told = f"no answer from {address}"
    assert tracking._reason(OSError(told), address).startswith("no answer from http")
    assert "secret" not in tracking._reason(OSError(told), address)
    assert "secret" not in tracking._public(address)


def test_tracking_off_writes_nothing_and_loads_no_mlflow(project, monkeypatch):
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    tracker = tracking.start_tracking(a_record())
    tracker.log({"loss": 1.0}, 1)
    tracker.finish(a_record(), project, {})
    assert [path.name for path in project.iterdir()] == ["mlflow.db"]


def test_a_server_that_knows_no_health_page_counts_as_answering():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tracking._must_answer(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_records_of_other_stages_have_no_goals_whatever_their_details_are_called():
    """Of a training, ``rows`` are counts of the rows that it read."""
    cell = Cell("tiers", "tiny", 0, "sweet")
    record = Record("train_sweet", cell, {}, {}, "c", {"loss": 1.0}, {"rows": {"train": 12, "truncated": 0}})
    assert tracking.goal_metrics(record, {}) == {}


def a_row(rule, goal, calibrated, measured, **changes):
    """A row of an evaluation: (quality, layers speed-up) on the calibration and on the evaluation split."""
    return {
        "method": "sweet", "rule": rule, "operating_point": goal, "qualifies": True, "attainable": True,
        "calibration_quality": calibrated[0], "calibration_layers_speedup": calibrated[1],
        "quality": measured[0], "layers_speedup": measured[1], "flops_speedup": None,
    } | changes  # fmt: skip


def test_each_goal_shows_the_rule_that_was_best_on_calibration_under_names_that_methods_share():
    record = a_record()
    record.details["rows"] = [
        a_row("confidence", "max_loss_1", (0.90, 1.5), (0.80, 1.4)),
        a_row("patience", "max_loss_1", (0.89, 1.7), (0.70, 1.6)),  # of a goal of quality the fastest
        a_row("confidence", "min_speedup_2", (0.90, 2.0), (0.81, 2.1)),  # of a goal of speed the best
        a_row("patience", "min_speedup_2", (0.89, 3.0), (0.95, 3.1)),
        a_row("oracle", "min_speedup_2", (0.99, 4.0), (0.99, 4.0), attainable=False),
        a_row("confidence", "min_speedup_4", (None, None), (None, None), qualifies=False),
        a_row("fixed", "min_speedup_2", (0.99, 2.0), (0.99, 2.0), method="static_3"),
        a_row("fixed", "whole", (0.99, 2.0), (0.99, 2.0)),
    ]
    timed = {"method": "sweet", "rule": "confidence", "operating_point": "min_speedup_2"}
    found = tracking.goal_metrics(record, {"rows": [timed | {"wallclock_speedup": 1.9}]})
    assert found == {
        "max_loss_1_quality": 0.70, "max_loss_1_layers_speedup": 1.6, "max_loss_1_flops_speedup": None,
        "max_loss_1_wallclock_speedup": None, "min_speedup_2_quality": 0.81, "min_speedup_2_layers_speedup": 2.1,
        "min_speedup_2_flops_speedup": None, "min_speedup_2_wallclock_speedup": 1.9,
    }  # fmt: skip
