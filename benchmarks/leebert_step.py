r"""Time a step of the network by PABEE and LeeBERT, 12 exits, against plain fine-tuning of the same encoder.

LeeBERT's weights are learned with forward passes alone: two per update, one update in each group of C = 4 steps under
CLO-v2 and one in each step under CLO-v1. So blocks of 4 steps are timed. Asked: PABEE at most 1.15 times as long, LeeBERT
(all exits teach) with CLO-v2 1.5, with CLO-v1 2.1. The last line is one JSON object.

    python benchmarks/leebert_step.py
    python benchmarks/leebert_step.py --width 768 --length 64 --rounds 5
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from functools import partial

from encoders import SCHEMA, backbone
from paired import Group, Pair, Work, parser, run_alone
from train_step import batches, on_batches, plain_step, trainer_step

from adaptive_inference.exits.build import add_exits
from adaptive_inference.settings.training import MethodTraining, WeightLearning

LAYERS, BLOCK = 12, 4
METHODS = {
    "pabee": (MethodTraining(weights="depth"), 1.15),
    "leebert_uniform": (MethodTraining(objective="distill"), None),
    "leebert_clo_v2": (
        MethodTraining(
            objective="weight_learning", weight_learning=WeightLearning(scheme="clo_v2", group=BLOCK)
        ),
        1.5,
    ),
    "leebert_clo_v1": (
        MethodTraining(objective="weight_learning", weight_learning=WeightLearning(scheme="clo_v1")),
        2.1,
    ),
}


def groups(extent: str) -> Iterator[Group]:
    """Yield all that `make bench` measures of this."""
    yield group(32, 2, 8) if extent == "quick" else group(384, 16, 32)


def group(width: int, batch_size: int, length: int) -> Group:
    """Return the only group."""
    shape = f"{LAYERS} x {width}, {length} tokens, batch {batch_size}, {BLOCK} steps"
    return Group(shape, 1, partial(make, width, batch_size, length))


def make(width: int, batch_size: int, length: int) -> Work:
    """Return the ways: each block takes the next of the same batches."""
    logging.getLogger("adaptive_inference").setLevel(logging.ERROR)
    encoder = backbone(LAYERS, width)
    one = add_exits(copy.deepcopy(encoder), (LAYERS,), SCHEMA, 0, "none")
    every = add_exits(encoder, range(1, LAYERS + 1), SCHEMA, 0, "none")
    vocabulary = encoder.config.vocab_size
    other = next(batches(batch_size, length, vocabulary))
    steps = {"plain": plain_step(one)}
    for name, (method, _) in METHODS.items():
        steps[name] = trainer_step(copy.deepcopy(every), method, [other])
    ways = {
        name: on_batches(step, batches(batch_size, length, vocabulary), BLOCK) for name, step in steps.items()
    }
    return Work(ways, [Pair(name, "plain", limit) for name, (_, limit) in METHODS.items()])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--width", type=int, default=384, help="of the 12-layer random encoder")
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--length", type=int, default=32, help="tokens per row")
    args = options.parse_args()
    run_alone(__file__, iter([group(args.width, args.batch_size, args.length)]), args)


if __name__ == "__main__":
    main()
