r"""Measure rows per second at batch 1, 8 and 32: an engine whose rows leave at different exits against the full model.

The full model (one exit, at the last layer) answers the same batches, interleaved in one process, so ratios compare; a row
of a batch that leaves saves its part of the layers above, and the smaller batch that runs on is less well used. Heads are
random, so the threshold is the one that comes nearest to a wanted speed-up in layers; rows of like length share a batch, as
when predicting. Printed are medians over rounds and the 5 and 95 % points. The last line is one JSON object.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --weights random:bert --exits 1 2 3 4 --rows 64 --rule patience
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaptive_inference.engine import Engine
from adaptive_inference.evaluation.latency import time_interleaved
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits import MultiExitModel, build_model
from adaptive_inference.exits.outputs import collect_outputs, pick_device
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.encode import Feature, collate
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.runs.environment import environment

SCHEMA = Schema("benchmark", "classification", ("no", "yes"), "accuracy", 128)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="packaged", help="as in params: backbones.NAME.weights")
    parser.add_argument("--exits", type=int, nargs="+", default=[1, 2, 4, 6], help="exit layers")
    parser.add_argument("--rule", default="confidence")
    parser.add_argument("--layers-speedup", type=float, default=2.0, help="wanted of the rule's threshold")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rows", type=int, default=128)
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
    grid = definition.grid(outputs.logits.shape[-1], 400, len(model.exits))
    exits = definition.exit_indices(outputs.logits, outputs.certainty, None, grid)
    speedups = model.exits[-1] / np.array(model.exits)[exits].mean(1)
    best = int(np.abs(np.log(speedups / wanted)).argmin())
    return float(grid[best]), float(speedups[best])


def spread(values: np.ndarray) -> dict[str, float]:
    """Return the median of rounds, and their 5 and 95 % points."""
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return {"median": median, "low": low, "high": high}


def measure(
    engines: list[Engine], rows: list[Feature], size: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Return rows per second of full model and method, and the ratio, of batches of one size."""
    batches = [collate(rows[at : at + size], 0) for at in range(0, len(rows), size)]
    names = ("input_ids", "attention_mask")
    examples = [{name: batch[name] for name in names} for batch in batches]
    wait = torch.cuda.synchronize if device.type == "cuda" else None
    spent = time_interleaved([engine.run for engine in engines], examples, repeats, 5, 0, wait)
    full, method = spent.sum(-1) / 1e9
    found = {"full": len(rows) / full, "method": len(rows) / method, "ratio": full / method}
    return {name: spread(values) for name, values in found.items()}


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
    print(f"{'batch':<8}{'full rows/s':>14}{'engine rows/s':>16}{'ratio':>9}{'5 to 95 %':>16}")
    found = {}
    for size in args.batch_sizes:
        found[str(size)] = row = measure(engines, rows, size, args.repeats, device)
        ratio = row["ratio"]
        interval = f"{ratio['low']:.2f}-{ratio['high']:.2f}"
        speeds = f"{row['full']['median']:>14.1f}{row['method']['median']:>16.1f}"
        print(f"{size:<8}{speeds}{ratio['median']:>9.2f}{interval:>16}")
    body = {
        "benchmark": Path(__file__).stem,
        "rows_per_second": found,
        "threshold": threshold,
        "layers_speedup": layers_speedup,
        "settings": vars(args),
        "environment": environment(device.type),
    }
    print(json.dumps(body, sort_keys=True))


if __name__ == "__main__":
    main()
