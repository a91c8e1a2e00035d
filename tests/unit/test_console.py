"""What a run says on the terminal."""

import io
import logging
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from adaptive_pipeline import console
from adaptive_pipeline.console import LogHandler
from adaptive_pipeline.progress import Entry, Plan

TRAIN, TABLES = "train_sweet@tiers-minilm-sweet-0", "make_tables"


def entry(name, label, seconds=60.0):
    return Entry(name, label, seconds, None, known=True, threads=1, upstream=())


class Run:
    """A handler, and the records that Snakemake would give it."""

    def __init__(self, **settings):
        given = {"stdout": False, "dryrun": False, "verbose": False, "printshellcmds": False}
        self.handler = LogHandler(SimpleNamespace(**given | settings), None)
        self.handler.setFormatter(logging.Formatter("%(message)s"))
        self.handler.stream = self.screen = io.StringIO()
        self.began = time.time()

    def log(self, text="", level=logging.INFO, after=0.0, **more):
        record = logging.makeLogRecord({"msg": text, "levelno": level, "created": self.began + after, **more})
        self.handler.handle(record)

    def start(self, jobid, rule, log, after=0.0):
        event = LogEvent.JOB_INFO
        self.log(f"Rule: {rule}", event=event, jobid=jobid, rule_name=rule, log=[str(log)], after=after)

    def finish(self, jobid, after):
        self.log(f"Finished jobid: {jobid}", event=LogEvent.JOB_FINISHED, job_id=jobid, after=after)

    @property
    def said(self):
        return self.screen.getvalue().splitlines()


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.log").write_text("Running stage 'train_sweet':\n")
    (tmp_path / "tables.log").write_text("Stage 'make_tables' didn't change, skipping\n")
    planned = Run()
    entries = [entry(TRAIN, "train_sweet tiers/minilm/sweet seed 0"), entry(TABLES, TABLES, 300.0)]
    plan = Plan({item.name: item for item in entries}, cores=1)
    planned.log("2 of 2 stages to run", plan=plan)
    yield planned
    planned.handler.close()


def test_a_stage_that_ends_is_one_line_with_the_time_left(run):
    run.start(1, TRAIN, "train.log")
    run.finish(1, after=48.0)
    run.start(2, TABLES, "tables.log")
    run.finish(2, after=50.0)
    assert run.said == [
        "2 of 2 stages to run",
        "train_sweet tiers/minilm/sweet seed 0: 48 s; 1 of 2 stages done, about 5 min left",
        "make_tables: computed before; 2 of 2 stages done",
    ]
    remembered = [file.stem for file in Path("logs/durations").iterdir()]
    assert remembered == [TRAIN]  # what DVC skipped teaches nothing


def test_what_snakemake_says_of_its_own_work_is_shown_only_where_it_is_asked_for():
    def told(**settings):
        run = Run(**settings)
        run.log("Building DAG of jobs...")
        run.log("Select jobs to execute...")
        run.log("Touching output file receipts/publish_records.done.")
        run.log("Execute 1 jobs...", event=LogEvent.JOB_STARTED, jobs=[1])
        run.start(1, "all", "all.log")
        run.finish(1, after=1.0)
        run.log("1 of 29 steps (3%) done", event=LogEvent.PROGRESS)
        return run.said

    assert told() == []
    for flag in ("printshellcmds", "verbose", "dryrun"):
        assert len(told(**{flag: True})) == 7


def test_warnings_errors_and_lines_that_nobody_foresaw_are_shown(run):
    run.log("Terminating processes on user request", logging.WARNING)
    run.log("Exiting because a job execution failed", logging.ERROR)
    run.log("Nothing to be done (all requested files are present and up to date).")
    assert run.said[1:] == [
        "Terminating processes on user request",
        "Exiting because a job execution failed",
        "Nothing to be done (all requested files are present and up to date).",
    ]


def test_a_stage_that_fails_shows_the_end_of_its_log_and_is_not_counted_as_left(run, tmp_path):
    lines = [f"line {number}" for number in range(100)]
    (tmp_path / "train.log").write_text("\n\n".join([*lines, "error: no such column"]))
    run.start(1, TRAIN, "train.log")
    failed = {"jobid": 1, "rule_name": TRAIN, "log": ["train.log"]}
    run.log("Error in rule", logging.ERROR, after=12.0, event=LogEvent.JOB_ERROR, **failed)
    assert run.said[1] == ("FAILED: train_sweet tiers/minilm/sweet seed 0 after 12 s; train.log ends with")
    assert run.said[2:] == [f"    {line}" for line in [*lines[-14:], "error: no such column"]]
    run.start(2, TABLES, "tables.log", after=12.0)
    run.finish(2, after=13.0)
    assert run.said[-1] == "make_tables: computed before; 1 of 2 stages done"


def test_of_exceptions_only_the_exit_status_of_a_failed_command_is_not_repeated(run):
    more = {"event": LogEvent.ERROR, "exception": "RuleException"}
    run.log('RuleException:\nCalledProcessError in file "stages.smk", line 27:', logging.ERROR, **more)
    run.log('RuleException:\nNameError in file "stages.smk", line 27:', logging.ERROR, **more)
    assert run.said[1:] == ["RuleException:", 'NameError in file "stages.smk", line 27:']


def test_a_job_that_leaves_no_log_fails_visibly(run):
    run.start(7, "publish_records", "gone.log")
    failed = {"jobid": 7, "rule_name": "publish_records", "log": ["gone.log"]}
    run.log("Error in rule", logging.ERROR, after=1.0, event=LogEvent.JOB_ERROR, **failed)
    assert run.said[1:] == [
        "FAILED: publish_records after 1 s; see above, and the newest file in .snakemake/log/"
    ]


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_while_nothing_ends_the_console_says_what_runs_how_far_it_is_and_where_its_log_lies(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "SILENCE", 0.3)
    run = Run()
    item = entry(TRAIN, "train_sweet tiers/minilm/sweet seed 0", 400.0)
    (tmp_path / "train.log").write_text(
        "23:00:01 adaptive_inference 512 of 2000 rows answered, the longest first\n"
        "23:00:09 adaptive_inference epoch 2 of 4: development accuracy by exit layer {2: 0.5}\n"
        "23:00:09 another 3 of 3 things\n"
    )
    run.log("1 of 1 stages to run", plan=Plan({TRAIN: item}, cores=1))
    run.start(1, TRAIN, "train.log", after=-120.0)
    wait_for(lambda: len(run.said) > 2)
    run.handler.close()
    assert run.said[1] == (
        "still running: train_sweet tiers/minilm/sweet seed 0 (2 min, epoch 2 of 4, train.log); about 5 min left"
    )
    assert run.handler.silence > 0.3  # a stage of days is not told of every minute


def test_a_closed_pipe_stops_no_run(run):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    run.handler.stream = Closed()
    run.log("a warning", logging.WARNING)
    run.start(1, TRAIN, "train.log")
    run.finish(1, after=1.0)
    assert run.handler.plan.took == {TRAIN: 1.0}
