"""Stages that start at once: each is forked from one process of the run, which has the libraries loaded.

Loading torch, transformers and MLflow takes five to eight seconds of a core, which a run of many short stages spends again
and again. So the run starts `serve` in a process of its own and names its socket in `ADDRESS`; a stage's script, started by
DVC as ever, hands its arguments, environment and streams over (`hand_over`), waits for the forked copy of itself, and ends
as that does. Without such a process (``dvc repro`` alone, a cluster's job) a script runs itself. Results are the same.

Who kills the script kills its copy. Who kills Snakemake or DVC alone kills neither, as without all this. What the process
itself has to say is in ``.pipeline/prefork.log``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from adaptive_pipeline.one_run import STATE

#: Environment variable: the path of the socket.
ADDRESS = "ADAPTIVE_INFERENCE_PREFORK"
#: What most stages load, slowest first. None of this project's own: a record's digest is of the modules that a stage loads.
LIBRARIES = (
    "torch",
    "transformers.trainer",
    "transformers.models.bert.modeling_bert",
    "transformers.models.t5.modeling_t5",
    "tokenizers",
    "safetensors.torch",
    "datasets",
    "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
)
_STREAMS = (0, 1, 2)
_LENGTH = 8  #: bytes before a message that say how long it is


def start(threads: int) -> subprocess.Popen[bytes]:
    """Start the process, which loads the libraries while the first scripts wait for it; name its socket in `ADDRESS`.

    It ends when this process has, and no stage runs any more.

    Parameters
    ----------
    threads
        Intra-op threads of every stage; numerical libraries read them when they are loaded.
    """
    folder = Path(tempfile.mkdtemp(prefix="adaptive-inference-"))  # nobody else may look into it
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listener, _log() as log:
        listener.bind(str(path))
        listener.listen(64)
        command = [sys.executable, "-m", __name__, str(listener.fileno()), str(folder)]
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        given = dict.fromkeys(names, str(threads)) | {"MLFLOW_DISABLE_TELEMETRY": "true"}
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # closed when this process ends, however it does
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            env=os.environ | given,
        )
    os.environ[ADDRESS] = str(path)
    return process


def hand_over() -> None:
    """Run this script in a copy of the run's process and exit with its status; return where there is no such process."""
    path = os.environ.pop(ADDRESS, None)
    if not path:
        return
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(path)
        except OSError:  # of a run that has ended, or on another machine
            return
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        request = {
            "argv": sys.argv,
            "path": sys.path,
            "folder": str(Path.cwd()),
            "environment": dict(os.environ),
        }
        _send(line, request)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the copy too, which then ends
        answer = _receive(line, streams=False)
    if answer is None:
        print(
            f"error: the process that runs stages was killed; see {STATE / 'prefork.log'}", file=sys.stderr
        )
        raise SystemExit(1)
    status = os.waitstatus_to_exitcode(answer["status"])
    if status < 0:
        with contextlib.suppress(OSError):  # of those that always end a process
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    raise SystemExit(status)


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Load the libraries, then fork a stage for each request, until standard input is closed and the last one has ended.

    Returns
    -------
    request
        In a forked process, what it was asked to become; None in this one.
    """
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):  # an extra that is not installed
            importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is for the stages
    running: dict[int, socket.socket] = {}
    with listener, _ended_children() as ended, selectors.DefaultSelector() as selector:
        for source in (sys.stdin, listener, ended):
            selector.register(source, selectors.EVENT_READ)
        open_for_more = True
        while open_for_more or running:
            ready = [key.fileobj for key, _ in selector.select()]
            if ended in ready:
                ended.recv(4096)
                _report(running)
            if sys.stdin in ready:
                selector.unregister(sys.stdin)
                open_for_more = False
            if listener in ready:
                line, _ = listener.accept()
                request = _receive(line, streams=True)
                if request is None:  # who asked has gone
                    line.close()
                elif pid := os.fork():
                    running[pid] = line
                    for stream in request["streams"]:
                        os.close(stream)
                else:
                    for other in running.values():
                        other.close()
                    return request | {"line": line}
    return None


@contextlib.contextmanager
def _ended_children() -> Iterator[socket.socket]:
    """Yield a socket that can be read from once a child has ended."""
    ended, wakeup = socket.socketpair()
    with ended, wakeup:
        wakeup.setblocking(False)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        yield ended
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _become(request: dict[str, Any]) -> None:
    """Be the script that was asked for."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, own in zip(request["streams"], _STREAMS, strict=True):
        os.dup2(stream, own)
        os.close(stream)
    threading.Thread(target=_end_with, args=(request["line"],), daemon=True).start()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:], sys.path[:] = request["argv"], request["path"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _end_with(line: socket.socket) -> None:
    """Wait until the script that asked is gone, which says nothing more before, and be killed as it was."""
    with contextlib.suppress(OSError):
        line.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _report(running: dict[int, socket.socket]) -> None:
    """Tell each script whose stage has ended how it did."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with running.pop(pid) as line, contextlib.suppress(OSError):  # who asked may be gone
            _send(line, {"status": status}, streams=False)


def _send(line: socket.socket, message: dict[str, Any], streams: bool = True) -> None:
    """Send a message, and this process's standard streams with it."""
    text = json.dumps(message).encode()
    head = len(text).to_bytes(_LENGTH, "big")
    if streams:
        socket.send_fds(line, [head], list(_STREAMS))
    else:
        line.sendall(head)
    line.sendall(text)


def _receive(line: socket.socket, streams: bool) -> dict[str, Any] | None:
    """Return a message, with the descriptors of the streams that came with it; None if the other side has gone."""
    try:
        head, descriptors, _, _ = socket.recv_fds(line, _LENGTH, len(_STREAMS) if streams else 0)
        if len(head) < _LENGTH:
            return None
        with line.makefile("rb") as reader:
            text = reader.read(int.from_bytes(head, "big"))
    except OSError:
        return None
    return {"streams": list(descriptors), **json.loads(text)}


@contextlib.contextmanager
def _log() -> Iterator[IO[bytes]]:
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "prefork.log").open("wb") as log:
        yield log


def _main() -> None:
    if request := serve(socket.socket(fileno=int(sys.argv[1]))):
        _become(request)
    else:
        shutil.rmtree(sys.argv[2], ignore_errors=True)


if __name__ == "__main__":
    _main()
