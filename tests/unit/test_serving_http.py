"""The server over real HTTP: the library's answers under many clients, clear refusals, counts that add up, and it lives."""

import asyncio
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_http import SAVED, ask, serving

from adaptive_inference import load_predictor
from adaptive_inference.files import read_json, write_json
from adaptive_inference.serving.confidences import Confidences
from adaptive_pipeline.serving.__main__ import hold
from adaptive_pipeline.serving.counters import WINDOW
from adaptive_pipeline.serving.request import MAX_BYTES, MAX_TEXTS

WORDS = ["the", "a", "good", "bad", "film", "plot", "music", "lovely", "awful", "but", "very", "slow", "fast"]
DRAW = random.Random(0)
TEXTS = [" ".join(DRAW.choices(WORDS, k=DRAW.randint(0, 40))) for _ in range(200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model whose calibration knows the confidences of texts such as these."""
    home = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(SAVED, home)
    answers = load_predictor(home).predict(TEXTS)
    body = read_json(home / "calibration.json")
    body["confidences"] = Confidences.of(answers.probabilities.max(axis=1)).to_json()
    write_json(home / "calibration.json", body)
    return home


@pytest.fixture(scope="module")
def port(folder):
    with serving(folder) as found:
        yield found


@pytest.fixture(scope="module")
def predictor(folder):
    return load_predictor(folder)


def test_replies_are_sent_at_once():
    """Else the second packet of a reply waits for what acknowledges the first, which takes 40 ms."""
    at_once = []

    async def answer(reader, writer):
        link = writer.get_extra_info("socket")
        at_once.append(link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def meet():
        server = await asyncio.start_server(answer, sock=hold(0))
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await reader.read()
            writer.close()

    asyncio.run(meet())
    assert at_once == [1]


def expected(predictor, text):
    answer = predictor.answer(text)
    row = answer.probabilities.tolist()
    return {
        "label": answer.label,
        "probability": max(row),
        "probabilities": dict(zip(predictor.schema.labels, row, strict=True)),
        "exit_layer": answer.exit_layer,
        "cut": answer.cut,
        "flops": answer.flops,
    }


def same(found, wanted):
    """Whether two answers are equal, up to the rounding of another process."""
    plain = [{**item, "probability": 0, "probabilities": 0} for item in (found, wanted)]
    figures = [[item["probability"], *item["probabilities"].values()] for item in (found, wanted)]
    return plain[0] == plain[1] and np.abs(np.subtract(*figures)).max() < 1e-6


def answers(port, texts, **params):
    status, body = ask(port, body={"inputs": texts, "params": params})
    assert status == 200, body
    return body["predictions"]


def test_eight_clients_at_once_get_the_answers_of_the_library(port, predictor):
    groups = [TEXTS[start : start + size] for start, size in zip(range(0, 200, 4), [1, 4] * 25, strict=True)]
    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda group: answers(port, group), groups))
    for group, got in zip(groups, found, strict=True):
        assert all(same(item, expected(predictor, text)) for item, text in zip(got, group, strict=True))
    assert len({item["exit_layer"] for got in found for item in got}) == 3


def test_rule_and_threshold_are_those_of_the_request_alone(port, predictor):
    text = TEXTS[0]
    for params in ({"rule": "fixed"}, {"threshold": 0.99}, {"rule": "entropy", "threshold": 0.1}):
        (found,) = answers(port, [text], **params)
        assert same(found, expected(predictor.under(**params), text))
    assert same(answers(port, [text])[0], expected(predictor, text))


def test_a_greatest_latency_holds_texts_at_an_exit_that_fits_or_is_refused(port, predictor):
    table = ask(port, "/metrics")[1]["latency_table"]
    shortest = table[min(table, key=int)]
    assert list(shortest.values()) == sorted(shortest.values())
    (found,) = answers(port, ["a film"], rule="fixed", max_latency_ms=shortest["1"] + 0.001)
    fitting = max(int(layer) for layer, ms in shortest.items() if ms <= shortest["1"] + 0.001)
    assert same(found, expected(predictor.under("fixed", deepest=fitting - 1), "a film"))
    (found,) = answers(port, ["a film"], rule="fixed", max_latency_ms=1e6)
    assert found["exit_layer"] == 3
    status, body = ask(port, body={"inputs": ["a film"], "params": {"max_latency_ms": 1e-6}})
    assert (status, "to the first exit; ask for no less" in body["message"]) == (400, True)


@pytest.mark.parametrize(
    ("sent", "status", "told"),
    [
        ({"body": {"inputs": ["a"], "parms": {}}}, 400, "unknown field: 'parms'"),
        ({"body": {"inputs": ["a"], "params": {"treshold": 1}}}, 400, "did you mean 'threshold'"),
        ({"body": {"inputs": [3]}}, 400, "text 0 is 3"),
        ({"body": {"inputs": []}}, 400, "no texts"),
        ({"body": {"inputs": ["a"], "params": {"rule": "nerve"}}}, 400, "nerve"),
        ({"body": {"inputs": ["a"], "params": {"rule": "oracle", "threshold": 1}}}, 400, "true labels"),
        ({"body": {"inputs": ["a"], "params": {"rule": "../engine/engine"}}}, 400, "../engine/engine"),
        ({"body": {"inputs": ["a"], "params": {"threshold": 90}}}, 400, "lies outside 0 to 1.01"),
        ({"body": {"inputs": ["a" * 1_000_000]}}, 413, "1000000 characters"),
        ({"body": {"inputs": ["a"] * 5000}}, 413, f"at most {MAX_TEXTS}"),
        ({"raw": b" " * (MAX_BYTES + 1)}, 413, f"more than {MAX_BYTES} bytes"),
        ({"raw": b'{"inputs": ['}, 400, "not JSON"),
        ({"raw": b"\xff\xfe"}, 400, "not JSON"),
        ({"raw": b"text\na film\n", "kind": "text/csv"}, 415, "as JSON"),
        ({"path": "/models"}, 404, "GET /models is not answered here"),
        ({"path": "/metrics", "body": {}}, 405, "POST /metrics is not answered here"),
    ],
)
def test_what_cannot_be_answered_is_refused_shortly_and_the_server_lives(port, sent, status, told):
    found, body = ask(port, **sent)
    assert (found, told in body["message"]) == (status, True), body
    assert len(body["message"]) < 300
    assert ask(port, "/health") == (200, {"status": "ok"})
    assert answers(port, ["a good film"])


def test_clients_that_hang_up_leave_the_server_as_it_was(port):
    for part in (b"", b"POST /invoc", b"POST /invocations HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"):
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.sendall(part)
    assert answers(port, ["a good film"])


def test_hundreds_of_requests_at_once_are_answered_or_told_to_come_back(port):
    with ThreadPoolExecutor(64) as clients:
        found = list(clients.map(lambda text: ask(port, body={"inputs": [text] * 3})[0], TEXTS * 2))
    assert set(found) <= {200, 503}
    assert found.count(200) >= 64
    assert answers(port, ["a good film"])


def test_a_request_of_many_texts_does_not_hold_up_one_of_one(port):
    done = []
    many = threading.Thread(target=lambda: (answers(port, TEXTS * 2, rule="fixed"), done.append("many")))
    many.start()
    while ask(port, "/metrics")[1]["waiting"] == 0 and many.is_alive():
        time.sleep(0.001)
    answers(port, ["a good film"])
    done.append("one")
    many.join()
    assert done == ["one", "many"]


def send(port, texts, **params):
    for start in range(0, len(texts), 100):
        answers(port, texts[start : start + 100], **params)


def test_the_counts_add_up_and_texts_unlike_those_of_the_calibration_raise_an_alarm(port):
    before = ask(port, "/metrics")[1]
    send(
        port, DRAW.choices(TEXTS, k=-sum(before["confidence"]["served"]) % WINDOW)
    )  # so that a window is full
    before = ask(port, "/metrics")[1]
    send(port, DRAW.choices(TEXTS, k=WINDOW))
    like = ask(port, "/metrics")[1]
    assert like["texts"] == sum(like["exits"].values()) == before["texts"] + WINDOW
    assert like["status"]["200"] == before["status"]["200"] + WINDOW // 100
    assert sum(like["confidence"]["served"]) == sum(before["confidence"]["served"]) + WINDOW
    assert 0 < like["answer_ms"]["p50"] <= like["answer_ms"]["p99"]
    told, drift = before["confidence"]["drift"], like["confidence"]["drift"]
    assert (drift["windows"], drift["alarms"], drift["alarm"]) == (told["windows"] + 1, told["alarms"], False)

    send(port, ["a film"] * 10, threshold=0.9)  # not as recommended: says nothing of the texts
    assert ask(port, "/metrics")[1]["confidence"] == like["confidence"]
    send(port, ["a film"] * WINDOW)
    drift = ask(port, "/metrics")[1]["confidence"]["drift"]
    assert (drift["windows"], drift["alarms"], drift["alarm"]) == (
        told["windows"] + 2,
        told["alarms"] + 1,
        True,
    )
    assert drift["distance"] > drift["limit"]


def test_a_model_without_confidences_says_nothing_of_drift_and_ctrl_c_ends_it(tmp_path):
    command = [sys.executable, "-m", "adaptive_pipeline.serving", str(SAVED), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        said = server.stdout.readline()
        port = int(said.split("127.0.0.1:")[1].split(";")[0])
        assert ask(port, "/metrics")[1]["confidence"] is None
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert server.stderr.read() == ""


@pytest.mark.parametrize("port", ["-1", "70000", "taken"])
def test_a_port_that_cannot_be_used_is_one_sentence_and_a_status(port):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1]) if port == "taken" else port
        command = [sys.executable, "-m", "adaptive_pipeline.serving", str(SAVED), "--port", number]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: port {number} cannot be used")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_without_a_model_is_one_sentence_and_a_status(tmp_path):
    command = [sys.executable, "-m", "adaptive_pipeline.serving", str(tmp_path), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "holds no saved model" in done.stderr
