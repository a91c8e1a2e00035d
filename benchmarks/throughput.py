r"""Measure batches: an engine whose rows leave at different exits against the stock full model on the same batches.

BERT's shapes with random weights, the exits of the presets. Heads are random, so the threshold is the one that comes
nearest to a wanted speed-up in layers (told as a fact). A row of a batch that leaves saves its part of the layers above, and
the smaller batch that runs on is less well used. Asked of batch 32, at 2 times fewer layers: 1.7 times the rows a second,
that is at most 1 / 1.7 of the time. The last line is one JSON object.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --sizes 6 384 --lengths 16 --batch-sizes 8 32 --rule patience
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from encoders import EXITS, SCHEMA, backbone, chosen, shapes, size_options, stock, tokens
from paired import Group, Pair, Shape, Work, parser, run_alone
from torch import Tensor

from adaptive_inference.engine import Engine
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits import MultiExitModel
from adaptive_inference.exits.build import add_exits

LIMITS = {32: 1 / 1.7}
#: Batches of one round.
BATCHES = 2


def groups(extent: str) -> Iterator[Group]:
    """Yield all that `make bench` measures of this."""
    for shape, threads in shapes(extent, (8, 32, 128)):
        yield Group(shape, threads, partial(make, shape))


def make(shape: Shape, rule: str = "confidence", layers_speedup: float = 2.0) -> Work:
    """Return the ways of one shape at the threshold whose speed-up in layers is nearest to the wanted one."""
    batches = tokens(shape, BATCHES)
    full = stock(shape.layers, shape.width)
    model = add_exits(backbone(shape.layers, shape.width), EXITS[shape.layers], SCHEMA, 0).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():  # fresh heads are all but undecided: make scores differ from row to row
        for head in model.heads:
            head.classifier.weight.copy_(torch.randn(head.classifier.weight.shape, generator=draw))
    threshold, reached = pick_threshold(model, rule, batches, layers_speedup)
    engine = Engine(model, rule, threshold)
    ways = {
        "stock": lambda: [full(batch) for batch in batches],
        "torch": lambda: [engine.run(batch) for batch in batches],
    }
    facts = {"rule": rule, "threshold": threshold, "fewer_layers": reached, "rows": BATCHES * shape.batch}
    return Work(ways, [Pair("torch", "stock", LIMITS.get(shape.batch))], facts)


def pick_threshold(
    model: MultiExitModel, rule: str, batches: list[dict[str, Tensor]], wanted: float
) -> tuple[float, float]:
    """Return the threshold whose speed-up in layers is nearest to the wanted one, and that speed-up."""
    definition = load_rule(rule)
    with torch.inference_mode():
        outputs = [model(**batch) for batch in batches]
    logits = torch.cat([item.logits for item in outputs]).numpy()
    certainty = torch.cat([item.certainty for item in outputs]).numpy() if model.has_certainty else None
    grid = definition.grid(logits.shape[-1], 400, len(model.exits))
    exits = definition.exit_indices(logits, certainty, None, grid)
    speedups = model.exits[-1] / np.array(model.exits)[exits].mean(1)
    best = int(np.abs(np.log(speedups / wanted)).argmin())
    return float(grid[best]), float(speedups[best])


def main() -> None:
    options: Any = size_options(parser(__doc__))
    options.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32])
    options.add_argument("--rule", default="confidence")
    options.add_argument(
        "--layers-speedup", type=float, default=2.0, help="wanted of the rule's threshold (default: 2)"
    )
    args = options.parse_args()
    wanted = chosen(args, args.batch_sizes)
    made = (
        Group(shape, args.threads, partial(make, shape, args.rule, args.layers_speedup)) for shape in wanted
    )
    run_alone(__file__, made, args)


if __name__ == "__main__":
    main()
