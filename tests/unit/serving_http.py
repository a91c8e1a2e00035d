"""A server of its own process on a free port of this machine, and what a client needs to ask it."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAVED = ROOT / "tests/unit/saved_models/format1/model"
STARTS = 300  # seconds that a busy machine may take to load torch


@contextlib.contextmanager
def serving(folder, *more):
    """Serve a folder; give the port."""
    command = [sys.executable, "-m", "adaptive_pipeline.serving", str(folder), "--port", "0", *more]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as server:
        try:
            said = server.stdout.readline()
            yield int(re.search(r"http://127\.0\.0\.1:(\d+)", said)[1])
            assert server.poll() is None, "the server has ended"
        finally:
            server.terminate()
            server.wait(60)


def ask(port, path="/invocations", body=None, kind="application/json", raw=None):
    """Send one request; return its status and the JSON of the answer."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(link):
        if body is None and raw is None:
            link.request("GET", path)
        else:
            sent = json.dumps(body).encode() if raw is None else raw
            link.request("POST", path, sent, {"Content-Type": kind})
        reply = link.getresponse()
        return reply.status, json.loads(reply.read())
