"""Show the runs in MLflow, on this machine only: a server where there is none, and the address of the page of runs.

    python -m adaptive_pipeline.tracking.ui --port 5000

MLflow 3 opens on a page for language-model applications and starts workers for jobs that nothing here needs; this prints
the address of the runs, and starts one worker without them.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_pipeline.one_run import STATE
from adaptive_pipeline.tracking.secrets import mask_output, masked
from adaptive_pipeline.tracking.store import MODELS, RESULTS, Store, default_uri
from adaptive_pipeline.tracking.view import file_page, runs_page

HOST = "127.0.0.1"
START_SECONDS = 120.0  #: how long the server may take; on a busy machine its imports take half a minute
SHOWN_LINES = 12  #: of the server's log where it failed


def pages(server: str) -> dict[str, str]:
    """Return what there is to see -> its address: the runs of each task, that of the newest run first; then the results."""
    store, newest, results = Store(), {}, {}
    with store.speaks():
        for experiment in store.client.search_experiments():
            identity = experiment.experiment_id
            runs = store.client.search_runs([identity])
            if experiment.name == RESULTS:
                results = {
                    run.info.run_name: file_page(server, identity, run.info.run_id, "recommendation.md")
                    for run in runs
                }
            elif runs and experiment.name != MODELS:
                newest[runs[0].info.start_time, experiment.name] = runs_page(server, identity)
    return {name: newest[when, name] for when, name in sorted(newest, reverse=True)} | results


def refuse_busy(port: int) -> None:
    """Refuse a port that another program listens on, and one that there is not.

    Raises
    ------
    UserError
        Names the port, and how to take another one.
    """
    if not 1 <= port <= 65535:  # 0 binds, but to a port that nobody is told
        raise UserError(f"port {port} cannot be used: ports are 1 to 65535; for example make ui PORT=5000")
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the server does: a port just left is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used ({error.strerror or error}); stop what listens "
                f"there, or take another one: make ui PORT={port + 1 if port < 65535 else 5001}"
            ) from error


def serve(uri: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start MLflow's server; the address of the store goes by the environment, for it may hold a password."""
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    given = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as stream:
        return subprocess.Popen(command, env=os.environ | given, stdout=stream, stderr=subprocess.STDOUT)


def wait_for(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Return once the server answers.

    Raises
    ------
    UserError
        It ended, or does not answer in time.
    """
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            raise _failed(f"ended with status {server.returncode}", log)
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise _failed(f"did not answer within {START_SECONDS:.0f} s", log)


def _failed(how: str, log: Path) -> UserError:
    """Return the error that tells how the server failed, and the last lines of its log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
    said = "\n".join(["; its last lines:", *lines]) if lines else ", and is empty"
    return UserError(f"MLflow's server {how}. What it said is in {log}{said}")


def show(found: Mapping[str, str]) -> None:
    """Print the addresses, and open the first one where there is a desktop."""
    if not found:
        print(
            "The store has no runs yet: `make run` logs them, `make publish` adds those of finished stages."
        )
        return
    width = max(map(len, found))
    for name, address in found.items():
        print(f"{name:{width}}  {masked(address)}")
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(next(iter(found.values())))


def run(port: int) -> int:
    """Show the runs; return 0 when the server ends or is stopped.

    Raises
    ------
    UserError
        The port cannot be used, or the server failed.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_uri(Path.cwd())
    if uri.startswith(("http://", "https://")):
        show(pages(uri))
        return 0
    refuse_busy(port)
    address = f"http://{HOST}:{port}"
    with ProcessPoolExecutor(
        1, get_context("spawn")
    ) as apart:  # what only waits need not hold MLflow's client
        found = apart.submit(pages, address).result()
    log = STATE / "mlflow_server.log"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the server ends with this process
    server = serve(uri, port, log)
    try:
        wait_for(server, address, log)
        show(found)
        print("Stop it with Ctrl-C.", flush=True)
        if status := server.wait():
            raise _failed(f"ended with status {status}", log)
        return 0
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Read the command line and show the runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=5000, help="where the server listens (default: 5000)")
    args = parser.parse_args()
    mask_output()
    try:
        raise SystemExit(run(args.port))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
