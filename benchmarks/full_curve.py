r"""Measure what a whole curve costs beyond the forward pass that it is made from.

Compares, on the same rows, one full-depth pass of the model (tokens to the last exit's logits, the early heads left out)
with the whole of an evaluation curve: the pass that keeps all exits' logits, calibration of the logits, and every rule at
every threshold of its grid with quality, layers and FLOPs (no intervals). The bound of the project is 1.10. Rounds are
interleaved in one process, in random order; the ratio is the median of theirs, in CPU time, which other processes disturb
less. The last line is one JSON object.

    python benchmarks/full_curve.py
    python benchmarks/full_curve.py --rows 2000 --exits 2 4 6 --threads 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from adaptive_inference.by_name import module_names
from adaptive_inference.calibration.curves import calibrate
from adaptive_inference.calibration.fit import fit_calibrator
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.exit_rules import load_rules
from adaptive_inference.exits import MultiExitModel, build_model
from adaptive_inference.exits.outputs import collect_outputs
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.encode import Feature, collate
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.runs.environment import environment

SCHEMA = Schema("benchmark", "classification", ("no", "yes"), "accuracy", 128)
LIMIT = 1.10


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="packaged", help="as in params: backbones.NAME.weights")
    parser.add_argument("--exits", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6], help="exit layers")
    parser.add_argument("--rows", type=int, default=872, help="rows of the split (SST-2: 872)")
    parser.add_argument(
        "--length", type=float, default=25.0, help="mean tokens per row (SST-2's validation: 25)"
    )
    parser.add_argument("--thresholds", type=int, default=100, help="thresholds of every rule")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def draw_features(rows: int, length: float, vocabulary: int) -> list[Feature]:
    """Draw rows of random tokens with lengths around a mean."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.normal(length, length / 3, rows).astype(int), 4, SCHEMA.max_length)
    return [
        {
            "input_ids": generator.integers(5, vocabulary, n).tolist(),
            "attention_mask": [1] * int(n),
            "label": int(generator.integers(0, 2)),
            "id": i,
            "length": int(n),
        }
        for i, n in enumerate(lengths)
    ]


def full_depth_pass(model: MultiExitModel, features: list[Feature], batch_size: int) -> np.ndarray:
    """Return the last exit's logits (N, C) by the plainest pass over rows sorted by length, without early heads."""
    order = sorted(range(len(features)), key=lambda i: -features[i]["length"])
    answers = []
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = collate([features[i] for i in order[start : start + batch_size]], 0)
            hidden, context = model.backbone.embed(batch)
            for layer in range(model.backbone.num_layers):
                hidden = model.backbone.run_layer(layer, hidden, context)
            head = model.heads[-1]
            answers.append(head.classifier(head.features(hidden, context.tokens_BN, model.pooler)).numpy())
    return np.concatenate(answers)[np.argsort(order)]


def clocked(work: Callable[[], object]) -> float:
    """Return the CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    model = build_model(Backbone(weights=args.weights, exits=args.exits), SCHEMA, 0, certainty=True).eval()
    full = build_model(Backbone(weights=args.weights, exits=args.exits[-1:]), SCHEMA, 0).eval()
    features = draw_features(args.rows, args.length, model.backbone.config.vocab_size)
    rules = load_rules(module_names("exit_rules"))
    calibrator = fit_calibrator(
        collect_outputs(model, features, args.batch_size), SCHEMA.kind, temperature=True
    )
    points = [0]

    def sweep_only(outputs: object) -> None:
        yardstick = Yardstick.of(SCHEMA, full, model, outputs)
        candidate = Candidate("benchmark", model, calibrate(outputs, calibrator), calibrator, yardstick)
        points[0] = sum(len(c.thresholds) for c in candidate.curves(rules, args.thresholds).values())

    outputs = collect_outputs(model, features, args.batch_size)
    work: dict[str, Callable[[], object]] = {
        "pass": lambda: full_depth_pass(model, features, args.batch_size),
        "all_exits": lambda: collect_outputs(model, features, args.batch_size),
        "sweep": lambda: sweep_only(outputs),
    }
    parts: dict[str, list[float]] = {name: [] for name in work}
    generator = np.random.default_rng(0)
    for _ in range(args.repeats):
        for name in generator.permutation(list(work)):
            parts[name].append(clocked(work[name]))
    plain, all_exits, sweep = (statistics.median(parts[name]) for name in ("pass", "all_exits", "sweep"))
    rounds = zip(parts["pass"], parts["all_exits"], parts["sweep"], strict=True)
    ratio = statistics.median((curve + points_cost) / alone for alone, curve, points_cost in rounds)
    print(f"one full-depth pass over {args.rows} rows   {plain:8.3f} s")
    print(f"the pass that keeps all exits' logits  {all_exits:8.3f} s")
    print(f"{len(rules)} rules, {points[0]} points in all        {sweep:8.3f} s")
    print(f"curve / pass                           {ratio:8.3f}   (limit {LIMIT})")
    body = {
        "benchmark": Path(__file__).stem,
        "ratio": ratio,
        "limit": LIMIT,
        "seconds": parts,
        "points": points[0],
        "rules": list(rules),
        "settings": vars(args),
        "environment": environment("cpu"),
    }
    print(json.dumps(body, sort_keys=True))


if __name__ == "__main__":
    main()
