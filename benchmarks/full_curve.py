r"""Measure what a whole curve costs beyond the forward pass that it is made from.

Compares, on the same rows, one full-depth pass of the model (tokens to the last exit's logits, the early heads left out)
with the whole of an evaluation curve: the pass that keeps all exits' logits, calibration of the logits, and every rule at
every threshold of its grid with quality, layers and FLOPs (no intervals). Asked: at most 1.10 times the pass. The last line
is one JSON object.

    python benchmarks/full_curve.py
    python benchmarks/full_curve.py --rows 2000 --exits 2 4 6 --rounds 5
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from encoders import SCHEMA
from paired import Group, Pair, Work, parser, run_alone

from adaptive_inference.by_name import module_names
from adaptive_inference.calibration.curves import calibrate
from adaptive_inference.calibration.fit import fit_calibrator
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.exit_rules import load_rules
from adaptive_inference.exits import MultiExitModel, build_model
from adaptive_inference.exits.outputs import ExitOutputs, collect_outputs
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.encode import Feature, collate

LIMIT = 1.10


def groups(extent: str) -> Iterator[Group]:
    """Yield all that `make bench` measures of this."""
    if extent == "quick":
        yield group("random:bert", [1, 2], 40, 8.0, 5, 16, 1)
    else:
        yield group("packaged", [1, 2, 3, 4, 5, 6], 872, 25.0, 100, 64, 1)


def group(
    weights: str, exits: list[int], rows: int, length: float, thresholds: int, batch_size: int, threads: int
) -> Group:
    """Return the only group; SST-2's validation split has 872 rows of 25 tokens in the mean."""
    shape = f"{weights}, {len(exits)} exits, {rows} rows of {length:g} tokens, {thresholds} thresholds a rule"
    return Group(shape, threads, partial(make, weights, exits, rows, length, thresholds, batch_size))


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


def make(weights: str, exits: list[int], rows: int, length: float, thresholds: int, batch_size: int) -> Work:
    """Return the ways."""
    model = build_model(Backbone(weights=weights, exits=exits), SCHEMA, 0, certainty=True).eval()
    full = build_model(Backbone(weights=weights, exits=exits[-1:]), SCHEMA, 0).eval()
    features = draw_features(rows, length, model.backbone.config.vocab_size)
    rules = load_rules(module_names("exit_rules"))
    outputs = collect_outputs(model, features, batch_size)
    calibrator = fit_calibrator(outputs, SCHEMA.kind, temperature=True)

    def sweep(outputs: ExitOutputs) -> int:
        yardstick = Yardstick.of(SCHEMA, full, model, outputs)
        candidate = Candidate("benchmark", model, calibrate(outputs, calibrator), calibrator, yardstick)
        return sum(len(curve.thresholds) for curve in candidate.curves(rules, thresholds).values())

    ways = {
        "pass": lambda: full_depth_pass(model, features, batch_size),
        "all_exits": lambda: collect_outputs(model, features, batch_size),
        "curve": lambda: sweep(collect_outputs(model, features, batch_size)),
    }
    pairs = [Pair("all_exits", "pass"), Pair("curve", "pass", LIMIT)]
    return Work(ways, pairs, {"rules": list(rules), "points": sweep(outputs)})


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--weights", default="packaged", help="as in params: backbones.NAME.weights")
    options.add_argument("--exits", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6], help="exit layers")
    options.add_argument("--rows", type=int, default=872, help="rows of the split (SST-2: 872)")
    options.add_argument("--length", type=float, default=25.0, help="mean tokens per row (SST-2's: 25)")
    options.add_argument("--thresholds", type=int, default=100, help="thresholds of every rule")
    options.add_argument("--batch-size", type=int, default=64)
    args = options.parse_args()
    only = group(
        args.weights, args.exits, args.rows, args.length, args.thresholds, args.batch_size, args.threads
    )
    run_alone(__file__, iter([only]), args)


if __name__ == "__main__":
    main()
