"""Stages that start at once: each is forked from one process of the run, which has the libraries loaded.

Loading torch, transformers and MLflow takes five to eight seconds of a core, which a run of many short stages spends again
and again. So the run starts `serve` in a process of its own and names its socket in `ADDRESS`; a stage's script, started by
DVC as ever, hands its arguments, environment and streams over (`hand_over`), waits for the forked copy of itself, and ends
as that does. Without such a process (``dvc repro`` alone, a cluster's job) a script runs itself. Results are the same.

Who kills the script kills its copy. Who kills Snakemake or DVC alone kills neither, as without all this. What the process
itself has to say is in ``.pipeline/prefork.log``.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
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
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from adaptive_pipeline.one_run import STATE
from adaptive_pipeline.tracking.secrets import mask_output

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
#: What the process itself says.
LOG = STATE / "prefork.log"
_STREAMS = (0, 1, 2)
_LENGTH = 8  #: bytes before a message that say how long it is


def start(threads: int) -> subprocess.Popen[bytes] | None:
    """Start the process, which loads the libraries while the first scripts wait for it; name its socket in `ADDRESS`.

    It ends when this process has, and no stage runs any more. None where there can be none: scripts then run themselves.

    Parameters
    ----------
    threads
        Intra-op threads of every stage; numerical libraries read them when they are loaded.
    """
    if sys.platform != "linux":  # elsewhere a process that has loaded system libraries may not be forked
        return None
    folder = Path(tempfile.mkdtemp(prefix="adaptive-inference-"))  # nobody else may look into it
    path = folder / "socket"
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    given = dict.fromkeys(names, str(threads)) | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    try:
        STATE.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as listener, LOG.open("wb") as log:
            listener.bind(str(path))
            listener.listen(64)
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listener.fileno()), str(folder)],
                stdin=subprocess.PIPE,  # closed when this process ends, however it does
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                env=os.environ | given,
            )
    except OSError:  # a temporary folder of a long name, or one that can hold no socket; another user's log
        shutil.rmtree(folder, ignore_errors=True)
        return None
    os.environ[ADDRESS] = str(path)
    return process


def hand_over() -> None:
    """Run this script in a copy of the run's process and exit with its status; return where there is no such process."""
    path = os.environ.pop(ADDRESS, None)
    if not path:
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    heeds = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    request = {
        "argv": sys.argv,
        "path": sys.path,
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "heeds": heeds,
    }
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(path)
            _send(line, request)
        except OSError:  # of a run that has ended, or on another machine
            return
        if _receive(line) is None:  # it ended before there was a copy
            return
        if heeds:  # what a terminal sends does not reach the copy, which is of a group of its own
            signal.signal(signal.SIGINT, lambda *_: line.send(b"!"))
        answer = _receive(line)
    if answer is None:
        print(f"error: the process that runs stages was killed; see {LOG}", file=sys.stderr)
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is for the scripts
    mask_output()  # what libraries write to from the start, too
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except Exception:  # whatever it is: a stage that needs it will say so
            traceback.print_exc()
    gc.freeze()  # a copy's collector leaves alone what it shares
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
                request = _receive(line, streams=True, seconds=5)
                pid = _fork() if request else None
                if pid == 0 and request:
                    for other in running.values():
                        other.close()
                    return request | {"line": line}
                if pid:
                    running[pid] = line
                else:  # who asked has gone, or does not get a copy, and runs itself
                    line.close()
                for stream in request["streams"] if request else []:
                    os.close(stream)
    return None


def _fork() -> int | None:
    """Fork; None where the machine has no room for another process."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    try:
        return os.fork()
    except OSError:
        traceback.print_exc()
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


def _become(request: dict[str, Any]) -> NoReturn:
    """Be the script that was asked for, and end with its status: at once, since taking down what is loaded takes seconds."""
    status = 1
    try:
        _set_up(request)
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    # As an interpreter does that ends, without taking down every module: wait for threads, call what was registered.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def _set_up(request: dict[str, Any]) -> None:
    """Take streams, folder, environment and arguments of a script, and follow it from now on."""
    os.setpgid(0, 0)
    if request["heeds"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, own in zip(request["streams"], _STREAMS, strict=True):
        os.dup2(stream, own)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:], sys.path[:] = request["argv"], request["path"]
    _send(request["line"], {"pid": os.getpid()}, streams=False)
    threading.Thread(target=_follow, args=(request["line"],), daemon=True).start()


def _follow(line: socket.socket) -> None:
    """Be interrupted when the script that asked was, and killed when it is gone."""
    with contextlib.suppress(OSError):
        while line.recv(1):
            os.kill(os.getpid(), signal.SIGINT)
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


def _receive(
    line: socket.socket, streams: bool = False, seconds: float | None = None
) -> dict[str, Any] | None:
    """Return a message, with the descriptors of the streams that came with it; None if the other side has gone."""
    descriptors: list[int] = []
    line.settimeout(seconds)
    try:
        head, descriptors, _, _ = socket.recv_fds(line, _LENGTH, len(_STREAMS) if streams else 0)
        length = int.from_bytes(head, "big") if len(head) == _LENGTH else 0
        text = b""
        while len(text) < length and (part := line.recv(length - len(text))):
            text += part
        message = {"streams": list(descriptors), **json.loads(text)}
    except (OSError, ValueError):
        for descriptor in descriptors:
            os.close(descriptor)
        return None
    line.settimeout(None)
    return message


def _main() -> None:
    request = None
    try:
        request = serve(socket.socket(fileno=int(sys.argv[1])))
    finally:
        if request is None:
            shutil.rmtree(sys.argv[2], ignore_errors=True)
    if request:
        _become(request)


if __name__ == "__main__":
    _main()
