"""`mlflow models serve` runs the published model as it is: the library's answers over MLflow's own server."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from serving_http import ROOT, SAVED, STARTS, ask

from adaptive_inference import load_predictor
from adaptive_pipeline.serving.packaging import save_mlflow_model

pytestmark = pytest.mark.pipeline


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    home, number = tmp_path_factory.mktemp("mlflow") / "model", free_port()
    save_mlflow_model(SAVED, home)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(home), "--env-manager", "local"]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    log = home.with_name("log")
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [*command, "--port", str(number)], env=env, stdout=stream, stderr=subprocess.STDOUT
        ) as server,
    ):
        try:
            until = time.monotonic() + STARTS
            while b"Application startup complete" not in log.read_bytes():
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield number
        finally:
            server.terminate()
            server.wait(60)


@pytest.mark.parametrize("form", ["inputs", "instances", "dataframe_records", "dataframe_split"])
def test_mlflows_server_gives_the_answers_of_the_library(port, form):
    texts = ["a good film", "the plot was awful , but the music is lovely", "no"]
    rows = {"dataframe_records": [{"text": text} for text in texts]}
    rows["dataframe_split"] = {"columns": ["text"], "data": [[text] for text in texts]}
    for params in ({}, {"rule": "entropy", "threshold": 0.1}):
        status, body = ask(port, body={form: rows.get(form, texts), "params": params})
        wanted = load_predictor(SAVED, **params).predict(texts)
        assert status == 200, body
        assert [item["label"] for item in body["predictions"]] == wanted.labels
        assert [item["exit_layer"] for item in body["predictions"]] == wanted.exit_layers.tolist()


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"inputs": ["a film"], "params": {"threshold": 90}}, "lies outside 0 to 1.01"),
        ({"inputs": ["a film"], "params": {"threshold": "high"}}, "threshold"),
        ({"inputs": ["a"] * 5000}, "has 5000 texts"),
        ({"inputs": []}, "no texts"),
    ],
)
def test_what_the_model_can_refuse_there_is_a_400_and_the_server_lives(port, sent, told):
    status, body = ask(port, body=sent)
    assert (status, bool(re.search(told, body["message"]))) == (400, True)
    assert ask(port, body={"inputs": ["a film"]})[0] == 200
