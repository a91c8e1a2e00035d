"""No secret of the tracking store is printed, whoever prints."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from adaptive_pipeline.tracking import publish
from adaptive_pipeline.tracking.secrets import masked
from adaptive_pipeline.tracking.store import reason

ROOT = Path(__file__).parents[2]
RUN = {"run_id": "0" * 32, "experiment_id": "1", "run_name": "name", "status": "FINISHED"}
STAGE = """
import logging, os
from adaptive_pipeline.stage import run_stage

def main(stage):
    from mlflow.tracking import MlflowClient

    address = os.environ["MLFLOW_TRACKING_URI"]
    MlflowClient(address).set_terminated("0" * 32)
    logging.getLogger("mlflow").warning("no answer from %s", address)
    raise RuntimeError(f"cannot reach {address}")

run_stage(main, "")
"""


class Server(http.server.BaseHTTPRequestHandler):
    """As much of MLflow's server as the end of a run asks for."""

    def do_GET(self):
        body = json.dumps({"run": {"info": RUN, "data": {}}, "run_info": RUN}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def test_no_password_reaches_what_a_stage_prints_or_its_traceback(tmp_path):
    """MLflow's client prints the address of a run when it ends."""
    script = tmp_path / "finetune_backbone.py"
    script.write_text(STAGE)
    cell = ("--task", "tiers", "--backbone", "tiny", "--seed", "0", "--out", "out")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"127.0.0.1:{server.server_port}"
        done = subprocess.run(
            [sys.executable, script, "--params", ROOT / "presets/smoke.yaml", *cell],
            cwd=tmp_path,
            env=os.environ
            | {"MLFLOW_TRACKING_URI": f"http://user:top%40secret@{there}", "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
    printed = done.stdout + done.stderr
    assert f"View run name at: http://{there}/#/" in printed
    assert f"no answer from http://{there}" in printed
    assert f"RuntimeError: cannot reach http://{there}" in printed
    assert "secret" not in printed


def test_no_password_reaches_what_publish_prints(monkeypatch, capsys):
    address = "http://user:secret@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.delenv("ADAPTIVE_INFERENCE_TRACKING", raising=False)
    monkeypatch.setattr(sys, "argv", ["publish"])
    monkeypatch.setattr(publish, "publish", lambda *_: print(f"to {address}") or (1, 1))
    publish.main()
    assert capsys.readouterr().out == "to http://127.0.0.1:9\nMLflow has 1 runs, 1 of them new\n"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://ghp_secret@host/x", "https://host/x"),
        ("http://user:pa/secret@host:5", "http://host:5"),
        ("http://user:top%40secret@host", "http://host"),
        ("http://[::1?token=secret", "http://[::1?token=***"),
        ("https://host/?token=long-secret&timeout=30", "https://host/?token=***&timeout=***"),
        ("https://host/?token=pa%20secret", "https://host/?token=***"),
        ("postgresql://name:secret@db/runs", "postgresql://db/runs"),
        ("postgresql://db/runs?password=secret", "postgresql://db/runs?password=***"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("postgresql://name@db/runs", "postgresql://db/runs"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address, shown, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert masked(address) == shown
    assert reason(OSError(f"no answer from {address}\nmore")) == f"no answer from {shown}"


@pytest.mark.parametrize(
    ("address", "told", "shown"),
    [
        ("http://user:top%40secret@host", "as user:top@secret or top%40secret", "as user:*** or ***"),
        ("https://ghp_secret@host", "no such user ghp_secret", "no such user ***"),
        ("https://host?token=long-secret", "invalid long-secret", "invalid ***"),
        ("https://host?timeout=30", "after 30 s, timeout=30", "after 30 s, timeout=***"),
        ("http://user:pa/ss+secret@host", "/login?p=pa%2Fss%2Bsecret", "/login?p=***"),
        ("https://host?token=pa/ss+word", "?token=pa%2Fss%2Bword or pa%2Fss%2Bword", "?token=*** or ***"),
        ("http://user:1@host", "epoch 1 of 10 as user:1@host", "epoch 1 of 10 as user:***@host"),
        ("http://mlflow:mlflow@host", "mlflow run, mlflow:mlflow@host", "mlflow run, mlflow:***@host"),
        ("https://host?t=&x", "t=5 x=5", "t=5 x=5"),
        ("sqlite:////home/me@corp/mlflow.db", "/home/you", "/home/you"),
        ("postgresql://name@db/runs", "a name", "a name"),
    ],
)
def test_a_secret_is_masked_wherever_it_stands_and_nothing_else_is(address, told, shown, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert masked(told) == shown


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"])
def test_what_the_client_reads_from_the_environment_is_masked_too(name, monkeypatch):
    monkeypatch.setenv(name, "open sesame")
    assert masked("Bearer open sesame") == "Bearer ***"
