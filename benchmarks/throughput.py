r"""Measure rows per second in batches and in a stream: rows that leave at different exits against the full model.

The full model (one exit, at the last layer) answers the same rows, all interleaved in one process, so ratios compare.
`batches` are the engine's: rows that leave are taken out, and a smaller batch runs on. `stream` brings rows that stay
together, so that every segment runs on a full batch. Heads are random, so the threshold is the one that comes nearest to a
wanted speed-up in layers; rows of like length share a batch, as when predicting. Printed are medians over rounds, the 5 and
95 % points, and how long a row waits for its answer when all are there at the start. Then when cutting a batch down pays:
what it costs, and what the rows that left cost in the next layer if they stay. The last line is one JSON object, with the
bars of batch 32.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --weights random:bert --exits 1 2 3 4 --rows 64 --rule patience
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaptive_inference.engine import Compaction, Decisions, Engine, Stream
from adaptive_inference.evaluation.latency import time_interleaved
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits import MultiExitModel, build_model
from adaptive_inference.exits.outputs import collect_outputs, pick_device
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.encode import Feature, collate
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.runs.environment import environment

SCHEMA = Schema("benchmark", "classification", ("no", "yes"), "accuracy", 128)
#: Rows per second over the full model's at batch 32, at least, where rows need half of the layers.
LIMITS = {"batches": 1.7, "stream": 1.85}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="packaged", help="as in params: backbones.NAME.weights")
    parser.add_argument("--exits", type=int, nargs="+", default=[1, 2, 4, 6], help="exit layers")
    parser.add_argument("--rule", default="confidence")
    parser.add_argument("--layers-speedup", type=float, default=2.0, help="wanted of the rule's threshold")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument(
        "--length", type=int, default=25, help="mean tokens per row, drawn between 0.4 and 1.6 of it"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    return parser.parse_args()


def make_rows(count: int, length: int) -> list[Feature]:
    """Return rows of random tokens, shortest first."""
    draw = np.random.default_rng(0)
    low, high = max(1, round(0.4 * length)), round(1.6 * length)
    lengths = sorted(draw.integers(low, high + 1, count).tolist())
    return [
        {"input_ids": draw.integers(5, 150, n).tolist(), "attention_mask": [1] * n, "length": n}
        | {"label": 0, "id": row}
        for row, n in enumerate(lengths)
    ]


def pick_threshold(
    model: MultiExitModel, rule: str, rows: list[Feature], wanted: float
) -> tuple[float, float]:
    """Return the threshold whose speed-up in layers is nearest to the wanted one, and that speed-up."""
    outputs, definition = collect_outputs(model, rows, 32), load_rule(rule)
    grid = definition.grid(outputs.logits.shape[-1], 20_000, len(model.exits))
    exits = definition.exit_indices(outputs.logits, outputs.certainty, None, grid)
    speedups = model.exits[-1] / np.array(model.exits)[exits].mean(1)
    best = int(np.abs(np.log(speedups / wanted)).argmin())
    return float(grid[best]), float(speedups[best])


def spread(values: np.ndarray) -> dict[str, float]:
    """Return the median, and the 5 and 95 % points."""
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return {"median": median, "low": low, "high": high}


class Answering:
    """Answers all rows, and remembers after how many seconds each was answered."""

    def __init__(self, engine: Engine, rows: list[Feature], size: int, streams: bool) -> None:
        self.waits: list[float] = []
        self.engine, self.rows = engine, rows
        self.batches = [_collate(rows[at : at + size]) for at in range(0, len(rows), size)]
        self.stream = Stream(engine, size, _collate) if streams else None

    def __call__(self, _: None) -> None:
        """Answer them once."""
        since = time.perf_counter()
        if self.stream is None:
            for batch in self.batches:
                self._note(self.engine.run(batch), since)
        else:
            for answered in self.stream.run(self.rows):
                self._note(answered.decisions, since)

    def _note(self, decisions: Decisions, since: float) -> None:
        self.waits += [time.perf_counter() - since] * len(decisions.exit_indices)


def _collate(rows: Sequence[Feature]) -> dict[str, Any]:
    batch = collate(rows, 0)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def measure(
    engines: list[Engine], rows: list[Feature], size: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Return rows per second of full model, engine and stream, their ratios to the full model, and the waits for answers."""
    full, method = engines
    runs = {"full": Answering(full, rows, size, False), "batches": Answering(method, rows, size, False)}
    if size > 1:
        runs["stream"] = Answering(method, rows, size, True)
    wait = torch.cuda.synchronize if device.type == "cuda" else None
    spent = time_interleaved(list(runs.values()), [None], repeats, 1, 0, wait)[:, :, 0] / 1e9
    seconds = dict(zip(runs, spent, strict=True))
    return {
        name: {
            "rows_per_second": spread(len(rows) / seconds[name]),
            "ratio": spread(seconds["full"] / seconds[name]),
            "wait_seconds": spread(np.array(run.waits)),
        }
        for name, run in runs.items()
    }


def bars(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return whether the bars of batch 32 hold; none where it was not measured."""
    return [
        {
            "name": name,
            "ratio": found["32"][name]["ratio"]["median"],
            "limit": limit,
            "holds": found["32"][name]["ratio"]["median"] >= limit,
        }
        for name, limit in LIMITS.items()
        if "32" in found
    ]


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    model = build_model(Backbone(weights=args.weights, exits=args.exits), SCHEMA, 0).to(device)
    full = build_model(Backbone(weights=args.weights, exits=args.exits[-1:]), SCHEMA, 0).to(device)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # fresh heads are all but undecided: make scores differ from row to row
        for head in model.heads:
            head.classifier.weight.copy_(torch.randn(head.classifier.weight.shape, generator=generator))
    rows = make_rows(args.rows, args.length)
    threshold, layers_speedup = pick_threshold(model, args.rule, rows, args.layers_speedup)
    engines = [Engine(full, "fixed"), Engine(model, args.rule, threshold)]
    print(f"{args.rule} at {threshold:.4g}: {layers_speedup:.2f} x fewer layers")
    print(f"{'batch':<7}{'':<9}{'rows/s':>9}{'ratio':>8}{'5 to 95 %':>13}{'median wait':>14}{'95 %':>9}")
    found = {}
    for size in args.batch_sizes:
        found[str(size)] = measure(engines, rows, size, args.repeats, device)
        for name, row in found[str(size)].items():
            ratio, wait = row["ratio"], row["wait_seconds"]
            interval = f"{ratio['low']:.2f}-{ratio['high']:.2f}"
            speed = f"{row['rows_per_second']['median']:>9.1f}{ratio['median']:>8.2f}{interval:>13}"
            print(f"{size:<7}{name:<9}{speed}{wait['median']:>12.2f} s{wait['high']:>7.2f} s")
    for bar in bars(found):
        told = "holds" if bar["holds"] else "is missed"
        print(f"bar: {bar['name']} at batch 32 at least {bar['limit']} x the full model's rows/s: {told}")
    size, runner = max(args.batch_sizes), engines[1].runner
    costs = Compaction.measure(runner, model.layers_cost, size, args.length, args.repeats)
    print(f"{'rows left of ' + str(size):<16}{'cutting down':>14}{'the others, one layer':>23}")
    for tokens, cut, layer in zip(costs.tokens, costs.select_seconds, costs.layer_seconds, strict=True):
        dead = (costs.layer_seconds[-1] - layer) * 1e3
        print(f"{tokens // args.length:<16}{cut * 1e3:>11.2f} ms{dead:>20.2f} ms")
    body = {
        "benchmark": Path(__file__).stem,
        "batches": found,
        "bars": bars(found),
        "compaction": asdict(costs),
        "threshold": threshold,
        "layers_speedup": layers_speedup,
        "settings": vars(args),
        "environment": environment(device.type),
    }
    print(json.dumps(body, sort_keys=True))


if __name__ == "__main__":
    main()
