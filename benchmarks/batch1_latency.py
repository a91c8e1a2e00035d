r"""Measure what a layer that is not run saves at batch 1, and what asking at every exit costs.

Interleaved in one process, against the full model (one exit, at the last layer) on the same rows:

* `all_exits`: every head run and every exit asked, nobody leaves before the last (confidence, threshold 2): the price of
  adaptivity where it saves nothing;
* `exit_K`: everybody leaves at exit K; beside the wall-clock ratio the layers ratio that it falls short of.

The last line is one JSON object.

    python benchmarks/batch1_latency.py
    python benchmarks/batch1_latency.py --weights random:bert --exits 1 2 3 4 --examples 20
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from adaptive_inference.engine import Engine
from adaptive_inference.evaluation.latency import Timing, summarise, time_interleaved
from adaptive_inference.exits import build_model
from adaptive_inference.exits.outputs import pick_device
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.runs.environment import environment

SCHEMA = Schema("benchmark", "classification", ("no", "yes"), "accuracy", 128)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="packaged", help="as in params: backbones.NAME.weights")
    parser.add_argument("--exits", type=int, nargs="+", default=[1, 2, 4, 6], help="exit layers")
    parser.add_argument("--length", type=int, default=25, help="tokens per row (SST-2's validation: 25)")
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    model = build_model(Backbone(weights=args.weights, exits=args.exits), SCHEMA, 0).to(device)
    full = build_model(Backbone(weights=args.weights, exits=args.exits[-1:]), SCHEMA, 0).to(device)
    tokens = np.random.default_rng(0).integers(5, 150, (args.examples, args.length))
    examples = [{"input_ids": torch.tensor(row[None], device=device)} for row in tokens]
    baseline = Engine(full, "fixed", None)
    engines = {"all_exits": (Engine(model, "confidence", 2.0), args.exits[-1])}
    engines |= {f"exit_{layer}": (Engine(model, "fixed", k), layer) for k, layer in enumerate(args.exits)}
    rows = {}
    print(f"{'variant':<12}{'layers x':>10}{'wall-clock x':>14}{'interval':>18}{'ms':>8}{'full ms':>9}")
    for name, (engine, layer) in engines.items():
        wait = torch.cuda.synchronize if device.type == "cuda" else None
        spent = time_interleaved([baseline.run, engine.run], examples, args.repeats, 10, 0, wait)
        row = summarise(Timing(*spent), 1000, 0) | {"layers_speedup": args.exits[-1] / layer}
        interval = f"{row['wallclock_low']:.3f}-{row['wallclock_high']:.3f}"
        speed = f"{row['layers_speedup']:>10.2f}{row['wallclock_speedup']:>14.3f}{interval:>18}"
        print(f"{name:<12}{speed}{row['median_ms']:>8.2f}{row['full_median_ms']:>9.2f}")
        rows[name] = row
    body = {
        "benchmark": Path(__file__).stem,
        "rows": rows,
        "settings": vars(args),
        "environment": environment(device.type),
    }
    print(json.dumps(body, sort_keys=True))


if __name__ == "__main__":
    main()
