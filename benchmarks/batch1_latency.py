r"""Measure at batch 1 what a layer that is not run saves, and what asking at every exit costs, in PyTorch.

Against stock classifiers of transformers, interleaved in one process, on BERT's shapes with random weights:

* `torch_leaves_third`, `torch_leaves_half`: the rule (confidence) is asked at each exit and fires after that part of the
  layers. Asked: at most 1.03 times a stock model of so many layers in the median over shapes, nowhere above 1.08.
* `torch_never`: all exits of the presets are evaluated and none fires. Asked: at most 1.05 times the stock full model.
* `torch_patience`: an exit (linear heads) after every layer, patience of half the layers, all agree: so one layer more
  than half is run, and its every head is asked. Asked: at most 2 % above the same layers with the one head that answers
  (`torch_one_head`); told too is the ratio to these layers with no head and no engine (`layers_alone`).

The last line is one JSON object.

    python benchmarks/batch1_latency.py
    python benchmarks/batch1_latency.py --sizes 12 768 --lengths 16 128 --threads 2
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from encoders import EXITS, SCHEMA, backbone, chosen, leave_at, shapes, size_options, stock, tokens
from paired import Group, Pair, Shape, Work, parser, run_alone

from adaptive_inference.backbones.base import Backbone
from adaptive_inference.engine import Engine
from adaptive_inference.exits.build import add_exits

#: Above what confidence can be.
NEVER = 1.1


def groups(extent: str) -> Iterator[Group]:
    """Yield all that `make bench` measures of this."""
    for shape, threads in shapes(extent, (1,)):
        yield Group(shape, threads, partial(make, shape))


def make(shape: Shape) -> Work:
    """Return the ways of one shape."""
    (batch,), layers = tokens(shape), shape.layers
    encoder = backbone(layers, shape.width)
    half, third = max(1, layers // 2), max(1, layers // 3)
    ways = {"stock": partial(stock(layers, shape.width), batch)}
    pairs = [Pair("torch_leaves_half", "stock"), Pair("torch_never", "stock", 1.05)]
    thirds = sorted({third, half, layers})
    model = add_exits(encoder, thirds, SCHEMA, 0)
    for part, depth in (("third", third), ("half", half)):
        ways[f"stock_{part}"] = partial(stock(depth, shape.width), batch)
        at = leave_at(thirds.index(depth), len(thirds))
        ways[f"torch_leaves_{part}"] = partial(Engine(model, "confidence", 0.9, at).run, batch)
        pairs.append(Pair(f"torch_leaves_{part}", f"stock_{part}", 1.08, 1.03))
    ways["torch_never"] = partial(
        Engine(add_exits(encoder, EXITS[layers], SCHEMA, 0), "confidence", NEVER).run, batch
    )
    every = add_exits(encoder, range(1, layers + 1), SCHEMA, 0, pooler="none")
    with torch.no_grad():
        for head in every.heads:  # all agree
            head.classifier.bias[1] = 10.0
    ways["torch_patience"] = partial(Engine(every, "patience", float(half)).run, batch)
    one = add_exits(encoder, [half + 1], SCHEMA, 0, pooler="none")
    ways["torch_one_head"] = partial(Engine(one, "fixed").run, batch)
    ways["layers_alone"] = partial(layers_alone, encoder, half + 1, batch)
    pairs += [Pair("torch_patience", "torch_one_head", 1.02), Pair("torch_patience", "layers_alone")]
    return Work(ways, pairs)


def layers_alone(encoder: Backbone, layers: int, batch: dict[str, torch.Tensor]) -> np.ndarray:
    """Run the first layers as the engine does, without any head."""
    with torch.inference_mode():
        hidden, context = encoder.embed(batch)
        for layer in range(layers):
            hidden = encoder.run_layer(layer, hidden, context)
        return hidden.numpy()


def main() -> None:
    args = size_options(parser(__doc__)).parse_args()
    run_alone(__file__, (Group(shape, args.threads, partial(make, shape)) for shape in chosen(args)), args)


if __name__ == "__main__":
    main()
