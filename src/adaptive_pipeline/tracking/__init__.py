"""MLflow as a view of the records: live while a stage runs, or later from what it wrote.

A record gives one run, found by its ``record_id``; both ways write the same parameters, metrics, curves and files,
because both end in `Store.complete`. Nothing is ever read back from MLflow, so deleting the store loses nothing.
"""

from __future__ import annotations

import logging
import math
import os
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from adaptive_inference.errors import UserError
from adaptive_inference.files import digest_json, read_json, read_jsonl
from adaptive_pipeline.runs.records import Record

logger = logging.getLogger(__name__)

#: One value of a metric at a step.
Point = tuple[str, int, float]

#: What of a stage's folder goes into the run: small files only, since weights are DVC's.
SMALL_FILES = ("metrics.json", "history.jsonl", "weights.jsonl", "calibration.json", "curves.json")
#: Operating points that are chosen by a goal of the params.
GOALS = ("max_loss_", "min_speedup_", "risk_")
ANSWER_SECONDS = 5.0  #: how long a tracking server may take to show that it is there
FLUSH_SECONDS = 2.0  #: live metrics are sent together, at most this often
_MAX_BATCH = 1000  # MLflow's limit of metrics per request; it is 100 for parameters


def tracking_off() -> bool:
    """Return whether ``ADAPTIVE_INFERENCE_TRACKING=off`` is set."""
    return os.environ.get("ADAPTIVE_INFERENCE_TRACKING", "").lower() in ("off", "0", "false", "no")


def start_tracking(record: Record) -> Tracker:
    """Open the run of a record, before any work: a store that cannot be used is said now, not after hours.

    A run of the same record that did not finish (its process was killed) is replaced.

    Raises
    ------
    UserError
        The store does not answer or cannot be opened.
    """
    if tracking_off():
        return Tracker()
    store = Store()
    with store.speaks():
        for run in store.runs_of(record):
            if run.info.status != "FINISHED":
                store.client.delete_run(run.info.run_id)
        return LiveTracker(store, record, store.open(record))


class Tracker:
    """A tracker that logs nowhere."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Log the metrics of one step, named as in ``history.jsonl``."""

    def finish(self, record: Record, folder: Path, timings: dict[str, Any]) -> None:
        """Log the final metrics and the small files of ``folder``, and close the run."""

    def fail(self) -> None:
        """Close the run as failed."""


class LiveTracker(Tracker):
    """Logs into one MLflow run. Once it is open, trouble with the store never stops a training."""

    def __init__(self, store: Store, record: Record, run_id: str) -> None:
        self.store, self.record, self.run_id = store, record, run_id
        self.waiting: list[Point] = []
        self.sent: set[Point] = set()
        self.last_flush = time.monotonic()
        self.silent = False

    def log(self, metrics: dict[str, float], step: int) -> None:
        """See `Tracker.log`; values are gathered and sent every few seconds."""
        self.waiting += step_points({"step": step, **metrics})
        if time.monotonic() - self.last_flush >= FLUSH_SECONDS:
            self.last_flush = time.monotonic()
            self._guarded(self._flush)

    def finish(self, record: Record, folder: Path, timings: dict[str, Any]) -> None:
        """See `Tracker.finish`. The run ends with exactly what `Store.publish` would have given it."""

        def end() -> None:
            self._flush()
            if self.sent - set(all_points(record, folder, timings)):
                # Logged live, but not in the records (a stage that logs what it does not keep): begin anew.
                self.store.publish(record, folder, timings)
                return
            self.store.complete(self.run_id, record, folder, timings, self.sent)

        self._guarded(end)

    def fail(self) -> None:
        """See `Tracker.fail`."""
        self._guarded(self._flush)
        self._guarded(lambda: self.store.client.set_terminated(self.run_id, "FAILED"))

    def _flush(self) -> None:
        points, self.waiting = self.waiting, []
        self.store.log_points(self.run_id, points)
        self.sent.update(points)

    def _guarded(self, action: Any) -> None:
        if self.silent:
            return
        try:
            action()
        except Exception as error:  # whatever the client raises, the records are what counts
            self.silent = True
            reason = _reason(error, self.store.uri)
            logger.warning("MLflow stopped answering (%s); run `make publish` when it is back", reason)


class Store:
    """The MLflow store: ``MLFLOW_TRACKING_URI``, or a SQLite file in the project's folder."""

    def __init__(self, root: Path | None = None) -> None:
        root = (root or Path.cwd()).resolve()
        default = f"sqlite:///{(root / 'mlflow.db').as_posix()}"
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or default
        self.artifacts = (root / "mlartifacts").as_uri() if self.uri.startswith("sqlite:") else None
        self.lock = FileLock(root / ".mlflow.lock")
        self.experiments: dict[str, str] = {}
        os.environ.pop("MLFLOW_RUN_ID", None)  # a parent's run id would capture ours
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if urllib.parse.urlsplit(self.uri).scheme in ("http", "https"):
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

    @contextmanager
    def speaks(self) -> Iterator[None]:
        """Turn whatever a store can raise into one sentence."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # the client raises its own, SQLAlchemy's and requests' errors
            reason = _reason(error, self.uri)
            raise UserError(
                f"the MLflow store {_public(self.uri)} cannot be used: {reason}. Start it, name another one in "
                "MLFLOW_TRACKING_URI, or set ADAPTIVE_INFERENCE_TRACKING=off and run `make publish` later"
            ) from error

    def experiment(self, task: str) -> str:
        """Return the id of a task's experiment, made once even when many processes ask."""
        if task not in self.experiments:
            with self.lock:
                found = self.client.get_experiment_by_name(task)
                if found is None:
                    where = f"{self.artifacts}/{task}" if self.artifacts else None
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
        return self.experiments[task]

    def runs_of(self, record: Record) -> list[Any]:
        """Return the runs of a record, whatever their state."""
        query = f"tags.record_id = '{record.record_id}'"
        return list(self.client.search_runs([self.experiment(record.cell.task)], query))

    def open(self, record: Record) -> str:
        """Start a run with its tags and parameters; return its id."""
        from mlflow.entities import Param

        run = self.client.create_run(
            self.experiment(record.cell.task),
            tags=run_tags(record),
            run_name=f"{record.stage}@{record.cell.name}",
        )
        params = [Param(key, value) for key, value in flat_params(record.params).items()]
        for start in range(0, len(params), 100):
            self.client.log_batch(run.info.run_id, params=params[start : start + 100])
        return str(run.info.run_id)

    def publish(self, record: Record, folder: Path, timings: dict[str, Any]) -> None:
        """Write a whole run from what a stage left."""
        self.complete(self.open(record), record, folder, timings, set())

    def complete(
        self, run_id: str, record: Record, folder: Path, timings: dict[str, Any], sent: set[Point]
    ) -> None:
        """Log what of the record is not logged yet, close the run, and drop older runs of the same record."""
        self.log_points(run_id, [point for point in all_points(record, folder, timings) if point not in sent])
        for name in SMALL_FILES:
            if (folder / name).is_file():
                self.client.log_artifact(run_id, str(folder / name))
        if timings:
            self.client.log_dict(run_id, timings, "timings.json")
        self.client.set_tag(run_id, "given", given_tag(record, timings))
        self.client.set_terminated(run_id, "FINISHED")
        for run in self.runs_of(record):
            if run.info.run_id != run_id:
                self.client.delete_run(run.info.run_id)

    def log_points(self, run_id: str, points: list[Point]) -> None:
        """Log metric values in as few requests as MLflow allows."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for start in range(0, len(points), _MAX_BATCH):
            batch = [
                Metric(name, value, now, step) for name, step, value in points[start : start + _MAX_BATCH]
            ]
            self.client.log_batch(run_id, metrics=batch)


def publish_record(store: Store, folder: Path) -> bool:
    """Give the store the run of the record in a stage's folder unless it has it; return whether it was lacking."""
    record, timings = Record.load(folder), load_timings(folder)
    with store.speaks():
        for run in store.runs_of(record):
            if run.info.status == "FINISHED" and run.data.tags.get("given") == given_tag(record, timings):
                return False
        store.publish(record, folder, timings)
    return True


def load_timings(folder: Path) -> dict[str, Any]:
    """Return the figures of the clock that a stage wrote beside its folder, if it wrote any."""
    names = {"evaluation": "timings.json", "train": "train_timings.json"}
    path = folder.parent / names.get(folder.name, "")
    return read_json(path) if path.is_file() else {}


def given_tag(record: Record, timings: dict[str, Any]) -> str:
    """Return the digest of what a finished run shows, so that newer figures of one record replace older ones."""
    return digest_json([record.record_id, record.metrics, record.details, timings])[:16]


def run_tags(record: Record) -> dict[str, str]:
    """Return the tags by which runs are found and compared."""
    cell = record.cell
    tags = {"stage": record.stage, "task": cell.task, "backbone": cell.backbone, "method": cell.method}
    return tags | {"seed": str(cell.seed), "record_id": record.record_id, "git_commit": _git_commit()}


def flat_params(params: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters under dotted names, as text; empty ones are left out."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, dict):
            flat |= flat_params(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)[:6000]
    return flat


def step_points(entry: dict[str, Any]) -> list[Point]:
    """Return the metric values of one line of ``history.jsonl`` (its epoch follows from the step)."""
    return [
        point for name in entry if name != "epoch" for point in _point(name, int(entry["step"]), entry[name])
    ]


def all_points(record: Record, folder: Path, timings: dict[str, Any]) -> list[Point]:
    """Return every metric value of a record, in order and without repeats.

    Final metrics keep their names in all methods; per-step ones come from ``history.jsonl``; the curves of a rule
    are ``RULE_quality``, ``RULE_layers_speedup`` and so on over the number of the threshold. MLflow refuses brackets and
    the like in a name, so the options of a rule are set apart by spaces: ``patience tolerance 0.1_quality``.
    """
    points: list[Point] = []
    if (folder / "history.jsonl").is_file():
        for entry in read_jsonl(folder / "history.jsonl"):
            points += step_points(entry)
    if (folder / "curves.json").is_file():
        for key, curve in read_json(folder / "curves.json").items():
            rule = re.sub(r"[^\w.\-]+", " ", key).strip()
            for name, values in curve.items():
                for step, value in enumerate(values):
                    points += _point(f"{rule}_{name}", step, value)
    for name, value in {
        **record.metrics,
        **_clock_metrics(record, timings),
        **goal_metrics(record, timings),
    }.items():
        points += _point(name, 0, value)
    return list(dict.fromkeys(points))


def _clock_metrics(record: Record, timings: dict[str, Any]) -> dict[str, Any]:
    """Return the plain figures of the clock, and the wall-clock ratio of the operating point that is the headline."""
    found = {name: timings[name] for name in ("seconds", "steps_per_second") if name in timings}
    headline = {"rule": record.details.get("rule"), "operating_point": record.details.get("operating_point")}
    for row in timings.get("rows", []):
        if row.get("method") == record.cell.method and headline.items() <= row.items():
            found["wallclock_speedup"] = row.get("wallclock_speedup")
    return found


def goal_metrics(record: Record, timings: dict[str, Any]) -> dict[str, Any]:
    """Return quality and speed-ups of an evaluation at each goal of the params, under names that all methods share.

    Of a method's rules the one that was best on the calibration split: of a goal of quality the fastest, of a goal of
    speed the most accurate. So any two runs can be compared at a goal that both meet.
    """
    if record.stage != "evaluate_batch1":
        return {}
    best: dict[str, dict[str, Any]] = {}
    for row in record.details.get("rows", []):
        goal = row["operating_point"]
        if row["method"] != record.cell.method or not goal.startswith(GOALS):
            continue
        if row["qualifies"] and row["attainable"] and (goal not in best or _rank(row) > _rank(best[goal])):
            best[goal] = row
    found = {}
    for goal, row in best.items():
        here = {key: row[key] for key in ("method", "rule", "operating_point")}
        clock = next((timed for timed in timings.get("rows", []) if here.items() <= timed.items()), {})
        for name in ("quality", "layers_speedup", "flops_speedup", "wallclock_speedup"):
            found[f"{goal}_{name}"] = (row | clock).get(name)
    return found


def _rank(row: dict[str, Any]) -> tuple[float, float]:
    quality, speed = row["calibration_quality"], row["calibration_layers_speedup"]
    return (quality, speed) if row["operating_point"].startswith("min_speedup_") else (speed, quality)


def _point(name: str, step: int, value: Any) -> list[Point]:
    if (
        name == "step"
        or isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
    ):
        return []
    return [(name, step, float(value))]


def _git_commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


def _public(text: str) -> str:
    """Return a text without what stands before the @ of an address: names, passwords and tokens."""
    return re.sub(r"//\S*@", "//", text)


def _reason(error: Any, uri: str) -> str:
    """Return the first line of what a client says, or its name, without the secret of the store's address."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text, parts = _public(lines[0]), urllib.parse.urlsplit(uri)
    if secret := parts.password or parts.username:  # alone, a user name is a token
        for form in (secret, urllib.parse.unquote(secret)):
            text = text.replace(form, "***")
    return text[:200]


def _must_answer(uri: str) -> None:
    """Refuse a tracking server that does not answer within a few seconds."""
    try:
        parts = urllib.parse.urlsplit(uri)
        address = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=ANSWER_SECONDS):
            return
    except urllib.error.HTTPError:
        return  # it answers, if only to say that it knows no such page
    except (OSError, ValueError) as error:
        reason = _reason(getattr(error, "reason", None) or error, uri)
        raise UserError(
            f"the tracking server {_public(uri)} (MLFLOW_TRACKING_URI) does not answer: {reason}. Start it, unset the "
            "variable to log into ./mlflow.db, or set ADAPTIVE_INFERENCE_TRACKING=off and run `make publish` later"
        ) from error
