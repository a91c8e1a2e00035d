"""TEST FIXTURE: an OpenAI-compatible endpoint on loopback that answers by a script, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-stub-0123456789"
#: An answer to a question for marks by the four default criteria.
MARKS = {"relevance": 4, "informativeness": 3, "fluency": 5, "coherence": 1}
GOOD = json.dumps(MARKS)


def by_length(prompt: str, before: int) -> str:
    """Prefer the longer output, whatever the order."""
    first, second = (prompt.split(f"<output {name}>\n")[1].split("\n</output")[0] for name in "AB")
    return "A" if len(first) > len(second) else "B"


@dataclass
class Reply:
    """What the endpoint says: the words of the judge, or a raw body, with a status and headers."""

    words: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    hold: threading.Event | None = None  #: nothing is sent before it is set

    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"error": {"message": self.words}}).encode()
        return json.dumps({"choices": [{"message": {"content": self.words}}]}).encode()


@dataclass
class Judge:
    """A running endpoint. ``answer`` gets the prompt and how often it was asked before, from 0."""

    answer: Callable[[str, int], Reply | str] = lambda prompt, before: "A"
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    lock: Any = field(default_factory=threading.Lock)

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]


@contextmanager
def stub_judge() -> Iterator[Judge]:
    judge = Judge()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][0]["content"]
            with judge.lock:
                before = judge.prompts.count(prompt)
                judge.bodies.append(body)
                judge.headers.append(dict(self.headers))
                judge.paths.append(self.path)
                judge.running += 1
                judge.most_running = max(judge.most_running, judge.running)
            try:
                if self.headers["Authorization"] != f"Bearer {KEY}":
                    given = self.headers["Authorization"]
                    reply: Reply | str = Reply(f"Incorrect API key provided: {given}", 401)
                else:
                    reply = judge.answer(prompt, before)
                reply = Reply(reply) if isinstance(reply, str) else reply
                if reply.hold is not None:
                    reply.hold.wait(30)
            finally:
                with judge.lock:
                    judge.running -= 1
            try:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body())
            except OSError:  # who asked has gone
                pass

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        judge.url = f"http://127.0.0.1:{server.server_port}/v1"
        yield judge
        server.shutdown()
