r"""Measure the server against the library: what HTTP adds to an answer, and what clients wait for when several ask at once.

* `http`: one client, one text a request, in turns with the library in this process on the same texts; with `--mlflow` the
  same model behind `mlflow models serve` takes its turn too. Ratios to the library.
* `clients`: so many clients at once, one text a request: milliseconds from sending to having the answer, and texts in a
  second. Clients and server share the machine's cores. All answers are compared with the library's.

Without `--model`, the packaged encoder with an untrained head after each layer and the threshold at which half of the texts
leave before the last. The last line is one JSON object; `equal` must be `texts`.

    python benchmarks/serving.py
    python benchmarks/serving.py --model results/model --texts 1000 --clients 8
    python benchmarks/serving.py --weights random:bert --exits 1 2 4 --texts 100 --mlflow
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaptive_inference import load_predictor
from adaptive_inference.data.generated_words import CUES, NOUNS, PEOPLE
from adaptive_inference.evaluation.latency import Timing, summarise, time_interleaved
from adaptive_inference.serving.predictor import Predictor
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.runs.environment import environment
from adaptive_pipeline.serving.service import told

SCHEMA = Schema("benchmark", "classification", ("no", "yes"), "accuracy", 128)
STARTS = 300.0  #: seconds that a server may take to load


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a model folder; default: an untrained one of --weights")
    parser.add_argument("--weights", default="packaged", help="as in params: backbones.NAME.weights")
    parser.add_argument("--exits", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6], help="exit layers")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--turns", type=int, default=100, help="texts of the comparison in turns")
    parser.add_argument("--mlflow", action="store_true", help="compare with `mlflow models serve` too")
    return parser.parse_args()


def make_texts(count: int) -> list[str]:
    """Return texts of 1 to 30 words."""
    draw, words = (
        np.random.default_rng(0),
        [*CUES[0], *CUES[1], *NOUNS, *PEOPLE, "the", "was", "and", "but", "."],
    )
    return [" ".join(draw.choice(words, draw.integers(1, 31))) for _ in range(count)]


def save_untrained(args: argparse.Namespace, texts: Sequence[str], folder: Path) -> None:
    """Write a model that leaves before its last exit for half of the texts."""
    from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Seen, Setting
    from adaptive_inference.exits import build_model
    from adaptive_inference.settings.inputs import Backbone

    model = build_model(Backbone(weights=args.weights, exits=args.exits), SCHEMA, 0).eval()
    sure = Predictor(model, "fixed", 0.0).predict(texts[:200]).probabilities.max(axis=1)
    point = OperatingPoint(Goal("whole"), Setting("confidence", float(np.median(sure))), True, Seen(0.5, 1.0))
    model.calibration = {
        "temperatures": [1.0] * len(args.exits),
        "operating_points": [point.to_json()],
        "recommended": point.to_json(),
    }
    model.save_pretrained(folder)


@contextlib.contextmanager
def started(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """Run a server until the block ends; it has answered once when the block begins."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with (
        log.open("wb") as stream,
        subprocess.Popen(command, env=env, stdout=stream, stderr=subprocess.STDOUT) as server,
    ):
        try:
            until = time.monotonic() + STARTS
            while True:
                with contextlib.suppress(OSError), contextlib.closing(Client(port)) as client:
                    client.get("/ping")
                    break
                if server.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"the server does not answer:\n{log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield
        finally:
            server.terminate()


class Client:
    """A connection that stays open."""

    def __init__(self, port: int) -> None:
        self._link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._link.connect()
        self._link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, text: Any) -> dict[str, Any]:
        """Return the answer to a text."""
        body = json.dumps({"inputs": [text]}).encode()
        self._link.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        reply = self._link.getresponse()
        read = reply.read()
        if reply.status != 200:
            raise SystemExit(f"status {reply.status}: {read.decode()[:500]}")
        return json.loads(read)["predictions"][0]

    def get(self, path: str) -> bytes:
        """Return a page."""
        self._link.request("GET", path)
        return self._link.getresponse().read()

    def close(self) -> None:
        """Hang up."""
        self._link.close()


def in_turns(ways: dict[str, Callable[[Any], Any]], texts: Sequence[Any]) -> dict[str, Any]:
    """Return what each way takes on the same texts, as a ratio to the first."""
    spent = time_interleaved(list(ways.values()), texts, 3, 10, 0)
    rows = {}
    for name, own in zip(list(ways)[1:], spent[1:], strict=True):
        row = summarise(Timing(own, spent[0]), 1000, 0)  # the other way round: how many times the library
        ratio = {
            "ratio": row["wallclock_speedup"],
            "low": row["wallclock_low"],
            "high": row["wallclock_high"],
        }
        added = float(np.median(own - spent[0]) / 1e6)
        rows[name] = ratio | {
            "median_ms": row["full_median_ms"],
            "library_ms": row["median_ms"],
            "added_ms": added,
        }
        print(
            f"{name:<12}{ratio['ratio']:>8.3f} x the library ({ratio['low']:.3f}-{ratio['high']:.3f})"
            f"{rows[name]['median_ms']:>9.2f} ms{added:>+8.2f} ms"
        )
    return rows


def at_once(port: int, texts: Sequence[Any], clients: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the answers to all texts by so many clients, and what they waited for."""
    own = threading.local()

    def ask(text: Any) -> tuple[dict[str, Any], float]:
        if not hasattr(own, "client"):
            own.client = Client(port)
        start = time.perf_counter()
        answer = own.client.ask(text)
        return answer, 1000 * (time.perf_counter() - start)

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(ask, texts))
    seconds = time.perf_counter() - start
    p50, p99 = np.quantile([taken for _, taken in found], (0.5, 0.99))
    return [answer for answer, _ in found], {
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "texts_per_second": len(texts) / seconds,
    }


def equal(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether two answers are the same: all fields, probabilities up to the parity tolerance."""
    figures = [(item["probability"], *item["probabilities"].values()) for item in (found, wanted)]
    rest = [{k: v for k, v in item.items() if not k.startswith("prob")} for item in (found, wanted)]
    return rest[0] == rest[1] and float(np.abs(np.subtract(*figures)).max()) <= 1e-5


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as servers:
        home, texts = Path(temporary), make_texts(args.texts)
        folder = args.model or home / "untrained"
        if args.model is None:
            save_untrained(args, texts, folder)
        predictor = load_predictor(folder)
        if predictor.schema.labels is None or len(predictor.schema.text) > 1:
            raise SystemExit("this benchmark asks a classifier of one text")
        own, ways = free_port(), {"library": predictor.answer}
        command = [sys.executable, "-m", "adaptive_pipeline.serving", str(folder), "--port", str(own)]
        servers.enter_context(started(command, own, home / "log"))
        ways["http"] = servers.enter_context(contextlib.closing(Client(own))).ask
        if args.mlflow:
            from adaptive_pipeline.serving.packaging import save_mlflow_model

            port, saved = free_port(), home / "mlflow"
            save_mlflow_model(folder, saved)
            command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(saved)]
            command += ["--env-manager", "local", "--port", str(port)]
            servers.enter_context(started(command, port, home / "mlflow_log"))
            ways["mlflow"] = servers.enter_context(contextlib.closing(Client(port))).ask
        rows = in_turns(ways, texts[: args.turns])
        answers, waited = at_once(own, texts, args.clients)
        served = json.loads(Client(own).get("/metrics"))
        wanted = [told(predictor.answer(text), predictor.schema) for text in texts]
        agreeing = sum(map(equal, answers, wanted))
    print(
        f"{args.clients} clients: p50 {waited['p50_ms']:.1f} ms, p99 {waited['p99_ms']:.1f} ms, "
        f"{waited['texts_per_second']:.0f} texts/s; {agreeing} of {len(texts)} answers are the library's"
    )
    body = {
        "benchmark": Path(__file__).stem,
        "in_turns": rows,
        "clients": waited | {"clients": args.clients},
        "texts": len(texts),
        "equal": agreeing,
        "exits": served["exits"],
        "settings": {name: str(value) for name, value in vars(args).items()},
        "environment": environment("cpu"),
    }
    print(json.dumps(body, sort_keys=True))
    if agreeing < len(texts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
