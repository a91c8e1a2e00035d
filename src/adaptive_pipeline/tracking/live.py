"""Logging while a stage runs: into one MLflow run, or nowhere."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from adaptive_pipeline.runs.records import Record
from adaptive_pipeline.runs.store import Finished
from adaptive_pipeline.tracking.given import Background
from adaptive_pipeline.tracking.points import Point, all_points, step_points
from adaptive_pipeline.tracking.store import Store, reason

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0  #: live metrics are sent together, at most this often


def tracking_off() -> bool:
    """Return whether ``ADAPTIVE_INFERENCE_TRACKING=off`` is set."""
    return os.environ.get("ADAPTIVE_INFERENCE_TRACKING", "").lower() in ("off", "0", "false", "no")


def start_tracking(record: Record, background: Background) -> Tracker:
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
        return LiveTracker(store, record, background, store.open(record, background))


class Tracker:
    """A tracker that logs nowhere."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Log the metrics of one step, named as in ``history.jsonl``."""

    def finish(self, item: Finished) -> None:
        """Log the final metrics and the small files of what the stage left, and close the run."""

    def fail(self) -> None:
        """Close the run as failed."""


class LiveTracker(Tracker):
    """Logs into one MLflow run. Once it is open, trouble with the store never stops a training."""

    def __init__(self, store: Store, record: Record, background: Background, run_id: str) -> None:
        self.store, self.record, self.background, self.run_id = store, record, background, run_id
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

    def finish(self, item: Finished) -> None:
        """See `Tracker.finish`. The run ends with exactly what `Store.publish` would have given it."""

        def end() -> None:
            self._flush()
            if self.sent - set(all_points(item)):
                # Logged live, but not in the records (a stage that logs what it does not keep): begin anew.
                self.run_id, self.sent = self.store.open(item.record, self.background), set()
            self.store.complete(self.run_id, item, self.sent)

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
            logger.warning(
                "MLflow stopped answering (%s); run `make publish` when it is back",
                reason(error),
            )
