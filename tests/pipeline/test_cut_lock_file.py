"""A kill while DVC rewrites ``dvc.lock``, and the commands that go on from it."""

import sys

import pytest

pytestmark = pytest.mark.pipeline
BEFORE = "prepare_data@tiers-tiny-0"
STAGE = "finetune_backbone@tiers-tiny-0"
#: DVC, killed in the middle of its first write of the lock file.
KILLED = """
import io, os, signal, sys
from dvc.utils.serialize import _yaml
whole = _yaml._dump
def half(data, stream):
    if not stream.name.endswith("dvc.lock"):
        return whole(data, stream)
    whole(data, text := io.StringIO())
    stream.write(text.getvalue()[: text.getvalue().rindex("path:") + 2])
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
_yaml._dump = half
from dvc.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def project(fresh, tmp_path):
    """A project in which DVC alone ran a stage, and was killed as it wrote that down."""
    copy = fresh(tmp_path / "project")
    copy.environment = {"ADAPTIVE_INFERENCE_TRACKING": "off"}
    copy.run("dvc", "repro", BEFORE)
    assert f"Running stage '{STAGE}'" in copy.run(sys.executable, "-c", KILLED, "repro", STAGE, check=False)
    assert "dvc.lock' validation failed" in copy.run("dvc", "status", check=False)
    return copy


def test_the_same_snakemake_goes_on_and_runs_no_finished_stage_again(project):
    command = ("snakemake", "--cores", "1", f"receipts/{STAGE}.json")
    assert "dvc.lock was not whole" in project.run(*command)
    assert (project.root / f"receipts/{STAGE}.json").is_file()
    assert project.executed() == []
    lock = project.root / "dvc.lock"
    whole = lock.read_text()
    project.run("make", "clean")  # takes no copy away
    lock.write_text("")
    project.run(*command)
    assert lock.read_text() == whole
    assert project.executed() == []


def test_where_dvc_alone_is_used_one_command_mends_it(project):
    said = project.run("python", "-m", "adaptive_pipeline.dvc_graph")
    assert "dvc.lock was not whole" in said
    said = project.run("dvc", "repro", STAGE)
    assert f"Stage '{STAGE}' is cached - skipping run" in said
    assert "Running stage" not in said
