"""MLflow as a view: live and later logging agree, and trouble with the store is told before any work."""

import http.server
import shutil
import socket
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from adaptive_inference.errors import UserError
from adaptive_inference.files import write_json, write_text
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.runs.records import EvaluationRecord
from adaptive_pipeline.runs.store import Finished, kept_file, write_kept
from adaptive_pipeline.tracking import live, store
from adaptive_pipeline.tracking import publish as publish_records
from adaptive_pipeline.tracking.given import Background
from adaptive_pipeline.tracking.store import Store

NONE = Background()


def start_tracking(record):
    return live.start_tracking(record, NONE)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """An empty store: making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Store(folder)
    return folder / "mlflow.db"


@pytest.fixture
def project(tmp_path, monkeypatch, migrated):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(migrated, tmp_path / "mlflow.db")
    monkeypatch.delenv("ADAPTIVE_INFERENCE_TRACKING", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def a_record(method="sweet", **metrics):
    return EvaluationRecord(
        stage="evaluate_batch1",
        cell=Cell("tiers", "tiny", 0, method),
        params={"evaluation": {"repeats": 2}, "runtime": None},
        inputs={"data": "d"},
        code="c",
        metrics=metrics,
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
        {
            "confidence": {
                "thresholds": [0.1, 0.2, 0.3],
                "quality": [0.5, None, 0.7],
                "layers_speedup": [3.0, 2.0, 1.0],
            }
        },
    )
    write_json(folder.parent / "timings.json", timings)
    return folder


def finished(folder, record, timings):
    """As a stage hands over what it left, its timings in memory."""
    return Finished(record, folder, {"timings": timings})


TIMINGS = {
    "rows": [],
    "seconds": 3.0,
    "goals": {
        "wallclock_speedup": 1.5,
        "min_speedup_2_wallclock_speedup": 2.5,
        "risk_0.1_wallclock_speedup": None,
    },
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
    tracker = start_tracking(a_record())
    tracker.log({"loss": 2.0, "epoch": 0.5}, 1)
    tracker.finish(finished(folder, record, TIMINGS))
    other = tmp_path_factory.mktemp("other")  # an empty folder: the store is made on the way
    monkeypatch.chdir(other)
    assert Store().publish(Finished(record, folder), NONE)
    assert not Store().publish(Finished(record, folder), NONE)
    (live,), (later,) = runs_of(project), runs_of(other)
    assert live == later
    assert live[:2] == ("tiers", "FINISHED")
    history = live[4]
    assert history["loss"] == [(1, 2.0), (2, 1.0)]
    assert history["wallclock_speedup"] == [(0, 1.5)]
    assert history["min_speedup_2_wallclock_speedup"] == [(0, 2.5)]
    assert "risk_0.1_wallclock_speedup" not in history
    assert history["seconds"] == [(0, 3.0)]
    assert live[3]["method"] == "sweet"
    assert live[5] == ["curves.csv", "history.jsonl", "metrics.json", "timings.json"]


def test_pictures_of_examples_are_files_of_the_run(project):
    record = a_record()
    folder = a_folder(project, record, {})
    for name in ("7.html", "7.png"):
        write_text(folder / "pictures" / name, name)
    start_tracking(a_record()).finish(finished(folder, record, {}))
    names = ["7.html", "7.png"]
    store = Store()
    (run,) = store.runs_of(record)
    found = [item.path for item in store.client.list_artifacts(run.info.run_id, "pictures")]
    assert found == [f"pictures/{name}" for name in names]


def test_what_was_logged_live_but_not_kept_does_not_stay(project):
    record = a_record(quality=0.9)
    folder = a_folder(project, record, {})
    tracker = start_tracking(a_record())
    tracker.log({"never_kept": 1.0}, 1)
    tracker.finish(finished(folder, record, {}))
    ((_, status, _, _, history, _),) = runs_of(project)
    assert status == "FINISHED"
    assert "never_kept" not in history


def test_a_killed_runs_leftover_is_replaced_and_a_failed_run_is_marked(project):
    start_tracking(a_record())  # killed: never closed
    tracker = start_tracking(a_record())
    tracker.fail()
    assert [run[1] for run in runs_of(project)] == ["FAILED"]
    folder = a_folder(project, a_record(quality=0.9), {})
    start_tracking(a_record()).finish(finished(folder, a_record(quality=0.9), {}))
    assert [run[1] for run in runs_of(project)] == ["FINISHED"]


def test_newer_figures_of_one_record_replace_the_older_run(project):
    record = a_record(quality=0.9)
    folder = a_folder(project, record, TIMINGS)
    assert Store().publish(Finished(record, folder), NONE)
    timings = TIMINGS | {"goals": {"wallclock_speedup": 1.7}}
    write_json(folder.parent / "timings.json", timings)
    assert Store().publish(Finished(record, folder), NONE)
    ((*_, history, _),) = runs_of(project)
    assert history["wallclock_speedup"] == [(0, 1.7)]


def open_and_close(folder):
    import os

    os.chdir(folder)
    start_tracking(a_record(f"m{os.getpid()}")).fail()


def test_many_processes_may_meet_a_fresh_store_at_once(project):
    (project / "mlflow.db").unlink()
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(open_and_close, [project] * 4, timeout=240))
    assert {run[0] for run in runs_of(project)} == {"tiers"}


def test_a_parents_run_id_does_not_capture_a_stage(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    start_tracking(a_record()).fail()
    assert len(runs_of(project)) == 1


class Silent:
    """A server that takes connections and never says a word."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __exit__(self, *_):
        self.socket.close()


def test_a_server_that_is_not_there_or_never_answers_is_told_within_seconds(project, monkeypatch):
    monkeypatch.setattr(store, "ANSWER_SECONDS", 0.5)
    with Silent() as silent:
        for uri in ("http://127.0.0.1:9", silent):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//user:secret@"))
            began = time.monotonic()
            with pytest.raises(UserError, match="does not answer") as told:
                start_tracking(a_record())
            assert time.monotonic() - began < 5
            assert "secret" not in str(told.value)


@pytest.mark.parametrize("password", ["pa/ss-secret", "pa[ss-secret", "pa\u2100secret"])
def test_an_address_that_cannot_be_read_is_one_sentence_without_a_part_of_the_password(
    password, project, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:{password}@host")
    with pytest.raises(UserError, match=r"no address that can be read; .* percent-encoded") as told:
        start_tracking(a_record())
    assert "http://host " in str(told.value)
    assert "pa" not in str(told.value).replace("password", "").replace("part", "")


def test_a_server_of_another_kind_is_one_sentence(project, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"SSH-2.0\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(UserError, match=r"does not answer: SSH-2\.0"):
            start_tracking(a_record())


def test_a_store_that_cannot_be_opened_is_one_sentence(project, monkeypatch):
    (project / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/file/mlflow.db")
    with pytest.raises(UserError, match="cannot be used"):
        start_tracking(a_record())


def test_a_server_that_stops_answering_never_stops_a_training(project, monkeypatch, caplog):
    tracker = start_tracking(a_record())
    monkeypatch.setattr(live, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(
        tracker.store.client, "log_batch", lambda *_, **__: (_ for _ in ()).throw(OSError("gone"))
    )
    for step in range(3):
        tracker.log({"loss": 1.0}, step)
    folder = a_folder(project, a_record(quality=1.0), {})
    tracker.finish(finished(folder, a_record(quality=1.0), {}))
    assert caplog.text.count("stopped answering") == 1


def test_a_password_in_the_address_reaches_no_message(project, monkeypatch, caplog):
    """Clients name the whole address in their errors."""
    address = "http://user:top%40secret@127.0.0.1:9"
    told = OSError(f"cannot reach {address} as user:top@secret\nmore")
    tracker = start_tracking(a_record())
    tracker.store.uri = address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(live, "FLUSH_SECONDS", 0.0)
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


def test_without_being_told_the_runs_of_searches_are_published_too(project, monkeypatch, capsys):
    a_folder(project / "runs", a_record(), {})
    a_folder(project / "search/mine/points/p1", a_record("pabee"), {})
    monkeypatch.setattr(sys, "argv", ["publish"])
    publish_records.main()
    assert "MLflow has 2 runs, 2 of them new" in capsys.readouterr().out


def test_tracking_off_writes_nothing_and_loads_no_mlflow(project, monkeypatch):
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    tracker = start_tracking(a_record())
    tracker.log({"loss": 1.0}, 1)
    tracker.finish(finished(project, a_record(), {}))
    assert [path.name for path in project.iterdir()] == ["mlflow.db"]


def test_a_server_that_knows_no_health_page_counts_as_answering():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store._must_answer(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_kept_records_are_published_once_and_do_not_replace_the_run_of_their_stage(project):
    record = a_record(quality=0.9)
    folder = a_folder(project, record, TIMINGS)
    kept = kept_file(project / "kept", record.cell)
    write_kept(kept, [Finished(record, folder)])
    assert publish_records.publish(project / "kept") == (1, 1)
    assert publish_records.publish(project / "kept") == (0, 1)
    ((*_, history, files),) = runs_of(project)
    assert history["quality"] == [(0, 0.9)]
    assert history["wallclock_speedup"] == [(0, 1.5)]
    assert files == ["curves.csv", "metrics.json", "timings.json"]
    assert publish_records.publish(project / "runs") == (1, 1)
    assert publish_records.publish(project / "kept") == (0, 1)
    ((*_, history, _),) = runs_of(project)
    assert history["loss"] == [(1, 2.0), (2, 1.0)]
