"""kill -9 of any process of a run, then the same command again; and other ways to the same digests."""

import os
import signal
import time

import psutil
import pytest

pytestmark = pytest.mark.pipeline
CELL = "tiers-tiny"
RUNS = "runs/tiers/tiny/seed0"


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def processes_of(process, word):
    """Return the descendants of a process whose command line has a word."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        return [child for child in family if any(word in part for part in child.cmdline())]
    except psutil.Error:
        return []


def at_work(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def rebuilt(fresh, tmp_path_factory):
    """A second copy, built on one core with a kill in each of three trainings, and the rest by DVC alone."""
    project = fresh(tmp_path_factory.mktemp("rebuilt"))
    project.environment = {"ADAPTIVE_INFERENCE_TRACKING": "off"}
    project.survivors = {}
    for victim, method in (("snakemake", "sweet"), ("dvc", "early_exit"), ("trainer", "learning_to_exit")):
        command = ["snakemake", "--cores", "1", f"receipts/train_sweet@{CELL}-{method}-0.json"]
        run = project.start(*command)
        trainer = wait_for(lambda run=run: processes_of(run, "pipeline_steps/train_sweet.py"))
        partial = project.root / RUNS / method / ".train.partial"
        wait_for(partial.is_dir)
        if victim == "snakemake":
            os.kill(run.pid, signal.SIGKILL)
        else:
            chosen = trainer if victim == "trainer" else processes_of(run, "run_stage.py")
            for process in chosen:
                process.kill()
        project.survivors[victim] = [process for process in trainer if at_work(process)]
        run.wait(240)
        project.run(*command)
        assert not partial.exists()
        assert (project.root / RUNS / method / "train/metrics.json").is_file()
    project.output = project.run("dvc", "repro")
    return project


@pytest.mark.parametrize("victim", ["snakemake", "dvc"])
def test_a_trainer_outlives_what_started_it(rebuilt, victim):
    # Only then do the digests below show that a second trainer waits for it.
    assert rebuilt.survivors[victim]


def test_one_core_kills_and_dvc_alone_give_the_digests_of_an_unbroken_run_on_two_cores(built, rebuilt):
    assert rebuilt.digests() == built.digests()


def test_dvc_alone_built_what_was_left(rebuilt):
    assert f"Running stage 'evaluate_batch1@{CELL}-sweet-0'" in rebuilt.output
    assert (rebuilt.root / "results/tables/main.csv").is_file()
    assert rebuilt.run("dvc", "status", "--json").strip().endswith("{}")
