"""What a DVC leaves that was killed while it wrote, and what is known while another one works."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adaptive_pipeline import dvc_graph

STAGES = """
stages:
  first: {cmd: "cp given first", deps: [given], outs: [first]}
  second: {cmd: "cp first second", deps: [first], outs: [second]}
"""
DVC = [sys.executable, "-m", "dvc"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two stages that DVC built."""
    root = tmp_path_factory.mktemp("built")
    (root / "given").write_text("given")
    (root / "dvc.yaml").write_text(STAGES)
    for arguments in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([*DVC, *arguments], cwd=root, check=True)
    return root


@pytest.fixture
def project(built, tmp_path, monkeypatch):
    """A copy that was read once by us, which is when the lock file is kept."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    dvc_graph.read_graph()
    return tmp_path


def dvc(*arguments):
    return subprocess.run([*DVC, *arguments], check=True, capture_output=True, text=True).stdout


def stale():
    return {node.name: node.stale for node in dvc_graph.read_graph()}


@pytest.mark.parametrize("left", [0.0, 0.3, 0.6, 0.95])
def test_a_lock_file_that_a_kill_cut_is_brought_back_in_one_sentence(project, left, capsys):
    lock = Path("dvc.lock")
    whole = lock.read_text()
    lines = whole[: int(left * len(whole))].splitlines()
    lock.write_text("\n".join([*lines[:-1], lines[-1][:-2] if lines else ""]))
    assert stale() == {"first": False, "second": False}
    assert lock.read_text() == whole
    (said,) = capsys.readouterr().err.splitlines()
    assert "dvc.lock was not whole" in said
    assert stale() == {"first": False, "second": False}
    assert capsys.readouterr().err == ""


def test_a_cut_at_any_place_within_a_line_is_mended(project):
    from adaptive_pipeline import killed_dvc

    lock = Path("dvc.lock")
    whole = lock.read_text()
    cuts = {length for length in range(len(whole)) if not whole[:length].endswith("\n")}
    for length in cuts:
        lock.write_text(whole[:length])
        killed_dvc.mend_lock_files(project)
        assert lock.read_text() == whole, length


def test_a_lock_file_that_lacks_only_its_last_newline_is_kept_with_what_it_says(project, capsys):
    lock = Path("dvc.lock")
    edited = lock.read_text().replace("  first:", "  third:\n    cmd: touch third\n  first:")
    lock.write_text(edited.rstrip())
    dvc_graph.mend_lock_files()
    assert lock.read_text() == edited
    assert Path(".pipeline/whole/dvc.lock").read_text() == edited
    assert capsys.readouterr().err == ""


def test_a_readable_lock_file_that_may_be_cut_is_told_of_where_no_copy_was_kept(project, capsys):
    lock = Path("dvc.lock")
    text = lock.read_text().rstrip()
    lock.write_text(text)
    shutil.rmtree(".pipeline")
    dvc_graph.mend_lock_files()
    (said,) = capsys.readouterr().err.splitlines()
    assert "dvc.lock does not end with a newline" in said
    assert "`git checkout dvc.lock`" in said
    assert lock.read_text() == text
    assert not Path(".pipeline/whole/dvc.lock").exists()


def test_the_command_that_mends_does_so_whatever_is_wrong_with_the_params(project):
    lock = Path("dvc.lock")
    whole = lock.read_text()
    lock.write_text(whole[:-9])
    Path("params.yaml").write_text("tasks: {\n")
    with pytest.raises(SystemExit, match=r"^error: params\.yaml"):
        dvc_graph.main()
    assert lock.read_text() == whole


def test_a_stage_that_stands_twice_is_not_whole_either(project):
    lock = Path("dvc.lock")
    whole = lock.read_text()
    lock.write_text(whole + whole[whole.index("  first:") :])
    assert stale() == {"first": False, "second": False}
    assert lock.read_text() == whole


def test_what_ended_after_the_copy_is_restored_and_not_run_again(project):
    whole = Path("dvc.lock").read_text()
    Path("given").write_text("changed")
    dvc("repro", "-q")
    Path("dvc.lock").write_text("")
    assert stale() == {"first": True, "second": True}
    assert Path("dvc.lock").read_text() == whole
    said = dvc("repro")
    assert "Stage 'second' is cached - skipping run" in said
    assert "Running stage" not in said


def test_the_lock_file_of_a_search_is_kept_likewise(project):
    Path("search").mkdir()
    Path("search/dvc.yaml").write_text("stages: {tried: {cmd: touch tried, outs: [tried]}}\n")
    dvc("repro", "-q", "search/dvc.yaml")
    dvc_graph.mend_lock_files()
    whole = Path("search/dvc.lock").read_text()
    Path("search/dvc.lock").write_text(whole[:-4])
    dvc_graph.mend_lock_files()
    assert Path("search/dvc.lock").read_text() == whole


@pytest.mark.parametrize(
    ("text", "copied", "remedy"),
    [
        ("<<<<<<< ours\nschema: '2.0'\n=======\nschema: '2.0'\n>>>>>>> theirs\n", True, "git checkout --ours dvc.lock"),
        ("schema: '2.0'\nstages:\n  fir", False, "git checkout dvc.lock"),
    ],
)  # fmt: skip
def test_a_lock_file_that_cannot_be_mended_is_one_sentence_with_the_remedy(project, text, copied, remedy):
    lock = Path("dvc.lock")
    lock.write_text(text)
    if not copied:
        shutil.rmtree(".pipeline", ignore_errors=True)
    with pytest.raises(SystemExit, match=f"^error: dvc.lock .*{remedy}.* start again: .* DVC's cache"):
        dvc_graph.read_graph()
    assert lock.read_text() == text


def test_a_whole_lock_file_of_another_branch_is_taken_as_it_is(project, capsys):
    lock = Path("dvc.lock")
    lock.write_text("schema: '2.0'\nstages: {}\n")
    assert stale() == {"first": True, "second": True}
    assert capsys.readouterr().err == ""
    assert lock.read_text() == "schema: '2.0'\nstages: {}\n"


def in_use(pid, command):
    """Note a process as one that writes an output."""
    write = {str(Path("first").resolve()): {"pid": pid, "cmd": command}}
    Path(".dvc/tmp/rwlock").write_text(json.dumps({"write": write, "read": {}}))


def receipts():
    for node in dvc_graph.read_graph():
        dvc_graph.write_receipt(node.name, Path(node.receipt), node.signature)


def test_a_number_that_another_process_has_by_now_hides_no_deleted_output_and_stops_no_run(project):
    receipts()
    in_use(os.getpid(), "/bin/dvc repro --single-item first")
    Path("first").unlink()
    dvc_graph.drop_false_receipts(nodes := dvc_graph.read_graph())
    assert {node.name: node.outs_gone for node in nodes} == {"first": True, "second": False}
    assert [path.stem for path in Path("receipts").iterdir()] == ["second"]
    assert "first" in dvc("repro")


def test_while_a_dvc_works_deleted_outputs_are_seen_all_the_same(project):
    receipts()
    program = "import time; time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", program, "repro", "first"])
    try:
        in_use(other.pid, "/bin/dvc repro first")
        Path("second").unlink()
        nodes = dvc_graph.read_graph()
        assert {node.name: node.stale for node in nodes} == {"first": None, "second": None}
        assert {node.name: node.outs_gone for node in nodes} == {"first": False, "second": True}
        dvc_graph.drop_false_receipts(nodes)
        assert [path.stem for path in Path("receipts").iterdir()] == ["first"]
        assert str(other.pid) in Path(".dvc/tmp/rwlock").read_text()
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    "left",
    [
        '{"write": {"/',
        "[]",
        '{"write": {"/a": {"pid": 1}}}',
        '{"read": {"/a": 1}}',
        '{"write": []}',
        '{"write": {"/a": {"pid": "1", "cmd": ""}}}',
    ],
)
def test_a_list_of_paths_in_use_that_was_cut_or_is_none_stops_nothing(left, project):
    Path(".dvc/tmp/rwlock").write_text(left)
    assert stale() == {"first": False, "second": False}
