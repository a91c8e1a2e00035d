"""One question to a judge on loopback: what is sent, what is tried again, what ends a run, and that the key stays secret."""

import socket
import threading
import time
from email.utils import formatdate

import pytest
from stub_judge import KEY, Reply, stub_judge

from adaptive_inference.errors import UserError
from adaptive_inference.generation import judge_endpoint
from adaptive_inference.generation.judge_endpoint import Endpoint, QuestionRefused, Stopped


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with stub_judge() as running:
        yield running


class Clock(threading.Event):
    """Notes how long is waited for, and does not wait."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return self.is_set()


def endpoint(judge, **changed):
    given = {"url": judge.url, "model": "some-model", "key": KEY, "timeout": 10.0}
    return Endpoint(**(given | changed))


def test_a_question_is_one_chat_completion_with_the_key_in_its_header_alone(judge):
    assert endpoint(judge, temperature=0.5).ask("hé\u2028llo?", Clock()) == "A"
    assert judge.paths == ["/v1/chat/completions"]
    assert judge.bodies == [
        {"model": "some-model", "temperature": 0.5, "messages": [{"role": "user", "content": "hé\u2028llo?"}]}
    ]
    assert judge.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(endpoint(judge))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 529])
def test_a_busy_endpoint_is_asked_again(judge, status):
    judge.answer = lambda prompt, before: Reply("later", status) if before < 3 else "B"
    clock = Clock()
    assert endpoint(judge).ask("?", clock) == "B"
    assert [1 <= wait / 2**place <= 1.5 for place, wait in enumerate(clock.waits)] == [True] * 3


def test_attempts_are_counted_and_the_last_word_is_told(judge):
    judge.answer = lambda prompt, before: Reply(f"quota {before}", 429)
    with pytest.raises(UserError, match=r"no answer in 3 attempts \(the last: status 429: quota 2\)"):
        endpoint(judge, attempts=3).ask("?", Clock())
    assert len(judge.bodies) == 3


def test_what_the_endpoint_asks_to_wait_is_waited(judge):
    later = formatdate(time.time() + 100, usegmt=True)
    headers = [{"Retry-After": "37"}, {"Retry-After": later}, {"Retry-After": "soon"}, {"Retry-After": "²"}]
    judge.answer = lambda prompt, before: Reply("", 503, headers[before]) if before < 4 else "A"
    clock = Clock()
    endpoint(judge).ask("?", clock)
    assert clock.waits[0] == 37
    assert 90 < clock.waits[1] <= 100
    assert 4 <= clock.waits[2] <= 6, "what cannot be read is not there"
    assert 8 <= clock.waits[3] <= 12


def test_who_asks_to_wait_too_long_ends_the_run(judge):
    judge.answer = lambda prompt, before: Reply("tomorrow", 429, {"Retry-After": "86400"})
    with pytest.raises(UserError, match=r"asks to wait 86400 s \(status 429: tomorrow\)"):
        endpoint(judge).ask("?", Clock())
    assert len(judge.bodies) == 1


def test_a_silent_endpoint_is_asked_again(judge):
    hold = threading.Event()
    judge.answer = lambda prompt, before: Reply("A", hold=hold) if before == 0 else "B"
    assert endpoint(judge, timeout=0.2).ask("?", Clock()) == "B"
    hold.set()


@pytest.mark.parametrize(
    "raw", [b"<html>", b"", b"[]", b"null", b"{}", b'{"choices": []}', b"[" * 100_000, b"\xff"]
)
def test_what_is_no_chat_completion_is_tried_again_and_then_told(judge, raw):
    judge.answer = lambda prompt, before: Reply(raw=raw) if before == 0 else "A"
    assert endpoint(judge).ask("?", Clock()) == "A"
    judge.answer = lambda prompt, before: Reply(raw=raw)
    with pytest.raises(UserError, match="no chat completion"):
        endpoint(judge, attempts=2).ask("?", Clock())


def test_half_a_character_in_an_answer_is_a_question_mark(judge):
    judge.answer = lambda prompt, before: "A\ud800"
    assert endpoint(judge).ask("?", Clock()) == "A?"


def test_an_answer_without_words_is_empty(judge):
    judge.answer = lambda prompt, before: Reply(raw=b'{"choices": [{"message": {"content": null}}]}')
    assert endpoint(judge).ask("?", Clock()) == ""


def test_a_connection_that_breaks_off_is_tried_again():
    """The first caller is cut off before a status line, the second one within the body."""
    begun = [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"]
    good = b'{"choices": [{"message": {"content": "A"}}]}'
    begun.append(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(good), good))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for said in begun:
                caller, _ = server.accept()
                with caller:
                    caller.recv(1 << 16)
                    caller.sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        clock = Clock()
        asked = Endpoint(f"http://127.0.0.1:{server.getsockname()[1]}", "m", KEY, timeout=10.0)
        assert asked.ask("?", clock) == "A"
    assert len(clock.waits) == 2


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_that_is_refused_is_not_asked_again(judge, status):
    judge.answer = lambda prompt, before: Reply("too  long\n", status)
    with pytest.raises(QuestionRefused, match=f"^status {status}: too long$"):
        endpoint(judge).ask("?", Clock())
    assert len(judge.bodies) == 1


def test_a_wrong_key_ends_the_run_and_is_not_repeated(judge):
    with pytest.raises(UserError, match=r"does not accept the judge's key \(status 401\)") as told:
        endpoint(judge, key="sk-wrong-987654").ask("?", Clock())
    assert "987654" not in str(told.value), "the endpoint repeats it; we do not"
    with pytest.raises(UserError, match="none was given"):
        endpoint(judge, key="").ask("?", Clock())
    assert len(judge.bodies) == 2
    assert "Authorization" not in judge.headers[1]


@pytest.mark.parametrize("status", [404, 405, 418])
def test_a_wrong_address_or_model_ends_the_run(judge, status):
    judge.answer = lambda prompt, before: Reply(f"no such model for {KEY}", status)
    with pytest.raises(UserError, match="'some-model' one of its models") as told:
        endpoint(judge).ask("?", Clock())
    assert "no such model for ***" in str(told.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(judge, status):
    with stub_judge() as thief:
        judge.answer = lambda prompt, before: Reply("", status, {"Location": f"{thief.url}/chat/completions"})
        with pytest.raises(UserError, match=f"status {status}"):
            endpoint(judge).ask("?", Clock())
        assert thief.headers == []


def test_no_judge_at_the_address_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    clock = Clock()
    with pytest.raises(UserError, match="cannot be reached"):
        Endpoint(f"http://127.0.0.1:{port}/v1", "m").ask("?", clock)
    assert clock.waits == []


def test_a_run_that_ends_does_not_wait_for_the_next_attempt(judge):
    judge.answer = lambda prompt, before: Reply("", 503)
    clock = Clock()
    clock.set()
    with pytest.raises(Stopped):
        endpoint(judge).ask("?", clock)


def test_a_reply_without_end_is_cut(judge, monkeypatch):
    monkeypatch.setattr(judge_endpoint, "_LONGEST_REPLY", 1000)
    judge.answer = lambda prompt, before: "A" * 2000
    with pytest.raises(UserError, match="no chat completion"):
        endpoint(judge, attempts=1).ask("?", Clock())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "judge",
        "ftp://host/v1",
        "http://",
        "http://host:no/v1",
        "http://[/v1",
        "https://a b/v1",
        "http://h/\n",
        "http://h..i/v1",
        "http://h/é",
    ],
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(UserError, match="must be like https://HOST/v1"):
        Endpoint(url, "m")


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@h/v1", "https://h/v1?key=hunter2", "https://h/v1#hunter2"]
)
def test_an_address_that_holds_a_secret_is_refused_and_not_shown(url):
    with pytest.raises(UserError, match="not shown") as told:
        Endpoint(url, "m")
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("key", ["sk abc", "sk-abc\nX-Evil: 1", "clé"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(key):
    with pytest.raises(UserError, match="not shown") as told:
        Endpoint("https://h/v1", "m", key)
    assert key not in str(told.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("timeout", 0.0),
        ("attempts", 0),
        ("first_wait", -1.0),
    ],
)
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(UserError, match=f"the judge's {name} {value}"):
        Endpoint("https://h/v1", "m", **{name: value})
    with pytest.raises(UserError, match="has no name"):
        Endpoint("https://h/v1", " ")
