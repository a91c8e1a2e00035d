"""The MLflow store: opens, fills and closes runs; whatever a client can raise becomes one sentence."""

from __future__ import annotations

import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from adaptive_inference.errors import UserError
from adaptive_inference.files import digest_json
from adaptive_pipeline.one_run import STATE
from adaptive_pipeline.runs.digests import digest_path
from adaptive_pipeline.runs.records import Record
from adaptive_pipeline.runs.store import Finished
from adaptive_pipeline.tracking.given import Background, run_name, run_params, run_tags
from adaptive_pipeline.tracking.place import artifacts_of, follow_moved_folder
from adaptive_pipeline.tracking.points import Point, all_points, curves_table, given_tag, shown_point
from adaptive_pipeline.tracking.secrets import masked
from adaptive_pipeline.tracking.view import VIEW_TAG, saved_view

#: What of a stage's folder goes into the run: small files only, since weights are DVC's.
SMALL_FILES = ("metrics.json", "history.jsonl", "weights.jsonl", "calibration.json", "confidences.json")
#: Subfolder of a stage's folder whose files go there too: pictures of single examples.
PICTURES = "pictures"
#: What of a results folder goes into the run of results: what MLflow can show.
RESULT_FILES = ("recommendation.*", "tables/*.md", "tables/*.csv", "figures/*.png")
RESULTS = "results"  #: experiment and stage of these runs
MODELS = "models"  #: experiment of the runs that hold registered models
ANSWER_SECONDS = 5.0  #: how long a tracking server may take to show that it is there
_MAX_BATCH = 1000  # MLflow's limit of metrics per request; it is 100 for parameters


def default_uri(root: Path) -> str:
    """Return the address of the store of a project's folder."""
    return f"sqlite:///{(root / 'mlflow.db').as_posix()}"


class Store:
    """The MLflow store: ``MLFLOW_TRACKING_URI``, or a SQLite file in the project's folder."""

    def __init__(self, root: Path | None = None) -> None:
        root = (root or Path.cwd()).resolve()
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or default_uri(root)
        self.artifacts = artifacts_of(self.uri)
        self.lock = FileLock(root / STATE / "mlflow.lock")
        self.experiments: dict[str, str] = {}
        os.environ.pop("MLFLOW_RUN_ID", None)  # a parent's run id would capture ours
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if self.uri.startswith(("http://", "https://")):
            _must_answer(self.uri)
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(ANSWER_SECONDS)))
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        with self.speaks(), self.lock:
            # Under the lock: two processes that meet a fresh store at once break its migration.
            from mlflow.tracking import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            self.client = MlflowClient(self.uri)
            self.client.search_experiments(max_results=1)
            if self.artifacts:
                follow_moved_folder(self.uri, self.artifacts)

    @contextmanager
    def speaks(self) -> Iterator[None]:
        """Turn whatever a store can raise into one sentence."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # the client raises its own, SQLAlchemy's and requests' errors
            if outdated := other_version(error):
                raise UserError(f"the MLflow store {masked(self.uri)} {outdated}") from error
            said = reason(error)
            raise UserError(
                f"the MLflow store {masked(self.uri)} cannot be used: {said}. Start it, name another one in "
                "MLFLOW_TRACKING_URI, or set ADAPTIVE_INFERENCE_TRACKING=off and run `make publish` later"
            ) from error

    def experiment(self, task: str) -> str:
        """Return the id of a task's experiment, made once even when many processes ask."""
        if task not in self.experiments:
            with self.lock:
                found = self.client.get_experiment_by_name(task)
                if found is None:
                    where = (self.artifacts / task).as_uri() if self.artifacts else None
                    try:
                        self.experiments[task] = self.client.create_experiment(task, artifact_location=where)
                    except Exception:  # another machine was first: our lock does not reach it
                        found = self.client.get_experiment_by_name(task)
                        if found is None:
                            raise
                if found is not None:
                    if found.lifecycle_stage == "deleted":
                        self.client.restore_experiment(found.experiment_id)
                    self.experiments[task] = found.experiment_id
                if task not in (RESULTS, MODELS) and (
                    found is None or found.tags.get(VIEW_TAG) != saved_view()
                ):
                    self.client.set_experiment_tag(self.experiments[task], VIEW_TAG, saved_view())
        return self.experiments[task]

    def runs_of(self, record: Record) -> list[Any]:
        """Return the runs of a record, whatever their state."""
        query = f"tags.record_id = '{record.record_id}'"
        return list(self.client.search_runs([self.experiment(record.cell.task)], query))

    def open(self, record: Record, background: Background) -> str:
        """Start a run with its name, tags and parameters; return its id."""
        params = run_params(record, background)
        run = self.client.create_run(
            self.experiment(record.cell.task), tags=run_tags(record, background), run_name=run_name(record)
        )
        self._log_params(run.info.run_id, params)
        return str(run.info.run_id)

    def publish(self, item: Finished, background: Background) -> bool:
        """Write a whole run from what a stage left, unless it is there; return whether it was lacking.

        A kept record has no history: it does not replace the run of the stage itself. A run that several presets share has
        the names of all.
        """
        with self.speaks():
            shown = {given_tag(item), *([] if item.folder else [given_tag(item, kept=False)])}
            for run in self.runs_of(item.record):
                if run.info.status == "FINISHED" and run.data.tags.get("given") in shown:
                    self._add_preset(run, background.preset)
                    return False
            self.complete(self.open(item.record, background), item, set())
        return True

    def complete(self, run_id: str, item: Finished, sent: set[Point]) -> None:
        """Log what of the record is not logged yet, close the run, and drop older runs of the same record."""
        self.log_points(run_id, [point for point in all_points(item) if point not in sent])
        if shown := shown_point(item):
            self.client.set_tag(run_id, "shown_point", shown.name)
            self._log_params(run_id, shown.params)
        if item.folder:
            for name in SMALL_FILES:
                if (item.folder / name).is_file():
                    self.client.log_artifact(run_id, str(item.folder / name))
            for path in sorted(item.folder.glob(f"{PICTURES}/*")):
                self.client.log_artifact(run_id, str(path), PICTURES)
        else:
            self.client.log_dict(run_id, item.record.to_json(), "metrics.json")
        if curves := curves_table(item):
            self.client.log_text(run_id, curves, "curves.csv")
        if timings := item.companion("timings"):
            self.client.log_dict(run_id, timings, "timings.json")
        self._close(run_id, given_tag(item), self.runs_of(item.record))

    def publish_results(self, name: str, folder: Path) -> bool:
        """Show the tables, figures and recommendation of a preset as one run; return whether it was lacking or changed."""
        files = {
            path: path.relative_to(folder).parent.as_posix()
            for pattern in RESULT_FILES
            for path in sorted(folder.glob(pattern))
        }
        if not files:
            return False
        given = digest_json([[where, path.name, digest_path(path)] for path, where in files.items()])[:16]
        with self.speaks():
            experiment = self.experiment(RESULTS)
            older = list(self.client.search_runs([experiment], f"tags.results_of = '{name}'"))
            if [run.data.tags.get("given") for run in older if run.info.status == "FINISHED"] == [given]:
                return False
            tags = {"stage": RESULTS, "preset": name, "results_of": name}
            run_id = self.client.create_run(experiment, tags=tags, run_name=f"results of {name}").info.run_id
            for path, where in files.items():
                self.client.log_artifact(run_id, str(path), None if where == "." else where)
            self._close(run_id, given, older)
        return True

    def _close(self, run_id: str, given: str, older: Iterable[Any]) -> None:
        self.client.set_tag(run_id, "given", given)
        self.client.set_terminated(run_id, "FINISHED")
        for run in older:
            if run.info.run_id != run_id:
                self.client.delete_run(run.info.run_id)

    def _add_preset(self, run: Any, preset: str | None) -> None:
        known = set(filter(None, run.data.tags.get("preset", "").split(", ")))
        if preset and preset not in known:
            self.client.set_tag(run.info.run_id, "preset", ", ".join(sorted(known | {preset})))

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        given = [Param(key, value) for key, value in params.items()]
        for start in range(0, len(given), 100):
            self.client.log_batch(run_id, params=given[start : start + 100])

    def log_points(self, run_id: str, points: list[Point]) -> None:
        """Log metric values in as few requests as MLflow allows."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for start in range(0, len(points), _MAX_BATCH):
            batch = [
                Metric(name, value, now, step) for name, step, value in points[start : start + _MAX_BATCH]
            ]
            self.client.log_batch(run_id, metrics=batch)


def other_version(error: Exception) -> str:
    """Return what to do about a store that another version of MLflow wrote; empty of any other trouble."""
    found = re.search(r"out-of-date database schema \(found version (\w+)", str(error))
    if found is None:
        return ""
    from mlflow.store import db_migrations

    if any(any(Path(folder).glob(f"versions/{found[1]}_*.py")) for folder in db_migrations.__path__):
        return (
            "was written by an older MLflow; keep a copy of it, then run "
            '`mlflow db upgrade "${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"`'
        )
    return (
        "was written by a newer MLflow than is installed; name another store in MLFLOW_TRACKING_URI, or move it away: "
        "`make publish` fills a new one from the records"
    )


def reason(error: Any) -> str:
    """Return the first line of what a client says, or its name, without secrets."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return masked(lines[0])[:200]


def _must_answer(uri: str) -> None:
    """Refuse a tracking server that does not answer within a few seconds."""
    try:
        parts = urllib.parse.urlsplit(uri)
        host, path = parts.netloc.rpartition("@")[2], f"{parts.path.rstrip('/')}/health"
        address = urllib.parse.urlunsplit(parts._replace(netloc=host, path=path))
        with urllib.request.urlopen(address, timeout=ANSWER_SECONDS):
            return
    except urllib.error.HTTPError:
        return  # it answers, if only to say that it knows no such page
    except (http.client.InvalidURL, ValueError) as error:  # what it says may be a part of the password
        raise UserError(
            f"the tracking server {masked(uri)} (MLFLOW_TRACKING_URI) is no address that can be read; in a name or "
            "password, write / : @ and other signs percent-encoded, e.g. %2F for /"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        said = reason(getattr(error, "reason", None) or error)
        raise UserError(
            f"the tracking server {masked(uri)} (MLFLOW_TRACKING_URI) does not answer: {said}. Start it, unset the "
            "variable to log into ./mlflow.db, or set ADAPTIVE_INFERENCE_TRACKING=off and run `make publish` later"
        ) from error
