"""A script that hands itself over is, to whoever started it, the script that ran itself."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from adaptive_pipeline import prefork

SCRIPT = """
import atexit, os, signal, sys, time
from pathlib import Path
from adaptive_pipeline import prefork
prefork.hand_over()
Path(os.environ["SEEN"]).write_text(f"{os.getpid()} {'torch' in sys.modules} {os.environ.get(prefork.ADDRESS)}")
own = sorted(name for name in sys.modules if name.startswith("adaptive_"))
how = sys.argv[1]
if how == "say":
    print(Path.cwd(), sys.argv[1:], os.environ["GIVEN"], own, sys.stdin.read())
    print("to the other stream", file=sys.stderr)
    atexit.register(print, "at the end")
elif how == "raise":
    raise ValueError("a reason")
elif how == "status":
    sys.exit(int(sys.argv[2]))
elif how == "sentence":
    sys.exit("a sentence")
elif how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif how == "wait":
    time.sleep(300)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Start processes of a run, as Snakemake's would be: the one that forks, and a function that starts a script."""
    folder = tmp_path_factory.mktemp("run")
    script = folder / "stage.py"
    script.write_text(SCRIPT)
    before = Path.cwd()
    os.chdir(folder)
    process = prefork.start(1)
    os.chdir(before)
    address = os.environ.pop(prefork.ADDRESS)

    def command(*arguments, forked=True, where=folder, address=address):
        given = {"GIVEN": "here", "SEEN": str(folder / "seen")} | (
            {prefork.ADDRESS: address} if forked else {}
        )
        pipe = subprocess.PIPE
        (folder / "seen").unlink(missing_ok=True)
        return subprocess.Popen(
            [sys.executable, script, *arguments],
            stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=where, env=os.environ | given,
        )  # fmt: skip

    command.process, command.address, command.seen = process, Path(address), folder / "seen"
    yield command
    process.stdin.close()
    assert process.wait(60) == 0
    assert not command.address.parent.exists()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def copy_of(seen):
    return psutil.Process(int(wait_for(lambda: seen.is_file() and seen.read_text()).split()[0]))


@pytest.mark.parametrize(
    "arguments", [("say", "an argument"), ("status", "0"), ("status", "3"), ("sentence",), ("killed",)]
)
def test_it_says_and_ends_as_without(run, tmp_path, arguments):
    alone, forked = (run(*arguments, forked=way, where=tmp_path) for way in (False, True))
    said = [process.communicate("from outside") for process in (alone, forked)]
    assert said[0] == said[1]
    assert alone.returncode == forked.returncode
    assert said[0][0] or arguments[0] != "say"


def test_an_exception_is_told_as_without(run):
    process = run("raise")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.strip().endswith("ValueError: a reason")
    assert "stage.py" in errors


def test_the_copy_has_the_libraries_and_does_not_hand_itself_over_again(run):
    process = run("say")
    process.communicate("")
    pid, loaded, address = run.seen.read_text().split()
    assert (int(pid) != process.pid, loaded, address) == (True, "True", "None")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_who_kills_the_script_kills_its_copy(run, how):
    process = run("wait")
    copy = copy_of(run.seen)
    assert copy.ppid() == run.process.pid
    process.send_signal(how)
    process.communicate()
    assert process.returncode == -how
    wait_for(lambda: not copy.is_running())


def test_an_interrupt_reaches_the_copy(run):
    process = run("wait")
    copy = copy_of(run.seen)
    time.sleep(1)  # until it sleeps
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.strip().endswith("KeyboardInterrupt")
    wait_for(lambda: not copy.is_running())


def test_who_asks_and_falls_silent_keeps_nobody_waiting_for_long(run):
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(str(run.address))
    silent.send(b"\0\0")
    process = run("status", "4")
    process.communicate()
    silent.close()
    assert process.returncode == 4
    assert run.seen.read_text().split()[1] == "True"  # by a copy


def test_a_script_runs_itself_where_the_process_ends_before_it_answers(run, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    process = run("status", "5", address=tmp_path / "socket")
    listener.accept()[0].close()
    listener.close()
    process.communicate()
    assert process.returncode == 5
    assert run.seen.read_text().split()[1] == "False"


def test_where_there_can_be_no_socket_there_is_no_process(tmp_path, monkeypatch):
    (tmp_path / ("long" * 30)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 30)))
    monkeypatch.chdir(tmp_path)
    assert prefork.start(1) is None
    assert prefork.ADDRESS not in os.environ
    assert not list((tmp_path / ("long" * 30)).iterdir())


def test_scripts_run_side_by_side(run):
    first = run("wait")
    wait_for(run.seen.is_file)
    second = run("status", "0")
    second.communicate()
    assert second.returncode == 0
    assert first.poll() is None
    first.kill()
    first.communicate()


def test_a_script_runs_itself_where_the_run_has_ended(run, tmp_path, monkeypatch):
    monkeypatch.setenv(prefork.ADDRESS, str(tmp_path / "gone"))
    assert prefork.hand_over() is None
    assert prefork.ADDRESS not in os.environ


def test_a_stage_outlives_the_run_and_the_process_that_forked_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    process = prefork.start(1)
    script, seen = tmp_path / "stage.py", tmp_path / "seen"
    script.write_text(SCRIPT)
    environment = os.environ | {"SEEN": str(seen)}
    stage = subprocess.Popen(
        [sys.executable, script, "wait"], env=environment, stderr=subprocess.PIPE, text=True
    )
    copy = copy_of(seen)
    process.stdin.close()  # as when Snakemake was killed
    time.sleep(0.5)
    assert (process.poll(), stage.poll(), copy.is_running()) == (None, None, True)
    process.kill()
    process.wait(60)
    time.sleep(0.5)
    assert (stage.poll(), copy.is_running()) == (None, True)
    copy.kill()
    assert "was killed" in stage.communicate()[1]
    assert stage.returncode == 1
