"""What a run says on the terminal: a line per finished stage, a sign of life while nothing ends, why a stage failed.

A logger plugin of Snakemake, which ``profiles/default`` asks for: it sits in Snakemake's own process and hears of every
job, on this machine or a cluster's. Where all of Snakemake's own lines are wanted (``--printshellcmds``, ``--verbose``, a
dry run), they are shown too; its log file below ``.snakemake/log`` has them in any case.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from logging import LogRecord
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from adaptive_pipeline.progress import Plan, human, remember

#: What Snakemake says of its own work. All else is shown: warnings, errors, and what later versions may find worth saying.
OWN_EVENTS = (
    LogEvent.WORKFLOW_STARTED, LogEvent.RUN_INFO, LogEvent.RESOURCES_INFO, LogEvent.JOB_INFO, LogEvent.JOB_STARTED,
    LogEvent.SHELLCMD, LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR, LogEvent.PROGRESS, LogEvent.RULEGRAPH,
)  # fmt: skip
OWN_LINES = (
    "Assuming unrestricted shared filesystem", "Building DAG of jobs", "Using shell:", "Conda environments: ignored",
    "Select jobs to execute", "Touching output file", "Removing output files of failed job",
    "Shutting down, this might take some time", "Complete log(s):", "Elapsed time:",
)  # fmt: skip
#: Seconds without a line after which one tells what is running; the wait doubles up to the last, since some runs take days.
SILENCE, LONGEST_SILENCE = 60.0, 600.0
TAIL = 15  # lines of a failed stage's log
_PROGRESS = re.compile(r" adaptive_inference .*?((?:epoch )?\d+ of \d+(?: rows)?)")


@dataclass(frozen=True)
class Job:
    """A job that is running."""

    rule: str
    log: str  #: empty: it has none
    began: float  #: seconds since the epoch


class LogHandler(LogHandlerBase):
    """See the module. Snakemake calls it from a thread of its own, one record at a time."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        given = self.common_settings
        self.stream = sys.stdout if given.stdout else sys.stderr
        self.shows_all = given.dryrun or given.verbose or given.printshellcmds
        self.plan = Plan({}, 1)
        self.jobs: dict[int, Job] = {}
        self.silence, self.spoke = SILENCE, time.monotonic()
        self.closed = threading.Event()

    def emit(self, record: LogRecord) -> None:
        """Take what a record says, and show it or what it means."""
        try:
            with suppress(BrokenPipeError):  # nobody reads on
                self._hear(record)
        except Exception:  # a line that cannot be told stops no run
            self.handleError(record)

    def close(self) -> None:
        """End the signs of life."""
        self.closed.set()
        super().close()

    def _hear(self, record: LogRecord) -> None:
        event = getattr(record, "event", None)
        own = event in OWN_EVENTS or str(record.msg).startswith(OWN_LINES) or _says_exit_status(record)
        if self.shows_all or not own:
            self._say(self.format(record))
        if plan := getattr(record, "plan", None):
            self._begin(plan)
        elif event == LogEvent.JOB_INFO:
            self.jobs[record.jobid] = Job(record.rule_name, next(iter(record.log), ""), record.created)
        elif event == LogEvent.JOB_FINISHED:
            self._finished(self.jobs.pop(record.job_id, None), record.created)
        elif event == LogEvent.JOB_ERROR:
            self._failed(self.jobs.pop(record.jobid, None), record)

    def _begin(self, plan: Plan) -> None:
        self.plan = plan
        threading.Thread(target=self._live, name="console", daemon=True).start()

    def _finished(self, job: Job | None, now: float) -> None:
        if job is None or job.rule not in self.plan.entries:  # what sits on top of the stages
            return
        seconds, executed = now - job.began, "Running stage" in _text(job.log)
        self.plan.end(job.rule, seconds, executed)
        took = human(seconds) if executed else "computed before"
        self._say(f"{self._label(job.rule)}: {took}; {self.plan.state(self._running(now))}")
        self.silence = SILENCE
        if executed:
            remember(self.plan.entries[job.rule], seconds)

    def _failed(self, job: Job | None, record: LogRecord) -> None:
        self.plan.failed.add(record.rule_name)
        log = next(iter(record.log), "")
        after = f" after {human(record.created - job.began)}" if job else ""
        lines = [line[:300] for line in _text(log).splitlines() if line.strip()][-TAIL:]
        told = f"{log} ends with" if lines else "see above, and the newest file in .snakemake/log/"
        self._say("\n    ".join([f"FAILED: {self._label(record.rule_name)}{after}; {told}", *lines]))

    def _live(self) -> None:
        """Say what is running whenever nothing was said for a while."""
        while not self.closed.wait(max(0.1, self.spoke + self.silence - time.monotonic())):
            with self.lock, suppress(BrokenPipeError):
                if self.jobs and time.monotonic() - self.spoke >= self.silence:
                    self.silence = min(2 * self.silence, LONGEST_SILENCE)
                    self._say(self._still_running(time.time()))

    def _still_running(self, now: float) -> str:
        jobs = sorted(self.jobs.values(), key=lambda job: job.began)
        told = []
        for job in jobs[:2]:
            far = _PROGRESS.findall(_text(job.log))[-1:]
            told.append(f"{self._label(job.rule)} ({', '.join([human(now - job.began), *far, job.log])})")
        more = [f"{len(jobs) - 2} more"] if len(jobs) > 2 else []
        left = self.plan.left(self._running(now))
        return f"still running: {', '.join(told + more)}{f'; about {human(left)} left' if left else ''}"

    def _running(self, now: float) -> dict[str, float]:
        return {job.rule: now - job.began for job in self.jobs.values()}

    def _label(self, rule: str) -> str:
        return self.plan.entries[rule].label if rule in self.plan.entries else rule

    def _say(self, text: str) -> None:
        self.spoke = time.monotonic()
        print(text, file=self.stream, flush=True)


def _says_exit_status(record: LogRecord) -> bool:
    """Whether the record is the exception that a failed command gives, which `LogEvent.JOB_ERROR` tells too."""
    return getattr(record, "exception", "") == "RuleException" and "CalledProcessError in file" in record.msg


def _text(log: str) -> str:
    """Return what a log holds; logs may be deleted at any time."""
    try:
        return Path(log).read_text(encoding="utf-8", errors="replace") if log else ""
    except OSError:
        return ""
