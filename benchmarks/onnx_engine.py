r"""Measure the ONNX engine at batch 1: what a layer that is not run saves, and what asking at every exit costs.

Interleaved in one process, on BERT's shapes with random weights, in fp32 and in int8:

* `onnx_fp32`, `onnx_int8`: the full model as one graph with its last head, called without the engine: the best that a
  static export does.
* `..._leaves_half`: the rule (confidence) is asked at each exit and fires after half of the layers. Asked: at most 1.08
  times a graph of so many layers (`..._first_half`).
* `..._never`: all exits of the presets are evaluated and none fires. Asked: at most 1.12 times the full model's graph.
* `openvino_int8`: the full model in OpenVINO, where it is installed (`pip install openvino nncf`).
* `stock`: the classifier of transformers, what all of it is compared with.

The last line is one JSON object.

    python benchmarks/onnx_engine.py
    python benchmarks/onnx_engine.py --sizes 12 768 --lengths 16 128 --clock cpu
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino_int8
import torch
from encoders import EXITS, SCHEMA, backbone, chosen, leave_at, shapes, size_options, stock, tokens
from paired import Group, Pair, Shape, Work, parser, run_alone

from adaptive_inference.engine import Engine
from adaptive_inference.engine.onnx_graphs import IDS, MASK, TYPES
from adaptive_inference.engine.onnx_runner import OnnxRunner
from adaptive_inference.exits import MultiExitModel
from adaptive_inference.exits.build import add_exits
from adaptive_inference.exits.deployment import Deployment, Quantisation, Tokens
from adaptive_inference.machine import has_vnni
from adaptive_inference.serving.onnx_export import cut_layers, write_segments

#: Above what confidence can be.
NEVER = 1.1


def groups(extent: str) -> Iterator[Group]:
    """Yield all that `make bench` measures of this."""
    for shape, threads in shapes(extent, (1,)):
        yield Group(shape, threads, partial(make, shape, threads))
    graphs.cache_clear()


def make(shape: Shape, threads: int) -> Work:
    """Return the ways of one shape."""
    (batch,), layers = tokens(shape), shape.layers
    batch = {name: item.numpy() for name, item in batch.items()}
    half, size = max(1, layers // 2), (layers, shape.width)
    halves = tuple(sorted({max(1, layers // 3), half, layers}))
    ways = {"stock": partial(stock(layers, shape.width), tokens(shape)[0])}
    pairs = []
    for name in ("onnx_fp32", "onnx_int8"):
        for depth, way in ((layers, name), (half, f"{name}_first_half")):
            ways[way] = static(graphs(*size, (depth,), name, threads)[1], batch)
        model, runner = graphs(*size, halves, name, threads)
        at = leave_at(halves.index(half), len(halves))
        ways[f"{name}_leaves_half"] = partial(Engine(model, "confidence", 0.9, at, runner=runner).run, batch)
        model, runner = graphs(*size, EXITS[layers], name, threads)
        ways[f"{name}_never"] = partial(Engine(model, "confidence", NEVER, runner=runner).run, batch)
        pairs += [
            Pair(name, "stock"),
            Pair(f"{name}_leaves_half", "stock"),
            Pair(f"{name}_leaves_half", f"{name}_first_half", 1.08),
            Pair(f"{name}_never", name, 1.12),
        ]
    if openvino_int8.installed():
        ways["openvino_int8"] = openvino_int8.static(*size, threads, batch[IDS])
        pairs += [Pair("openvino_int8", "stock"), Pair("onnx_int8", "openvino_int8")]
    return Work(ways, pairs)


@lru_cache(maxsize=8)  # those of all lengths of a size: to write them takes longer than to measure them
def graphs(
    layers: int, width: int, exits: tuple[int, ...], name: str, threads: int
) -> tuple[MultiExitModel, OnnxRunner]:
    """Return a model with fresh exits and the runner of its graphs, cut at each."""
    model = add_exits(backbone(layers, width), exits, SCHEMA, 0)
    with torch.no_grad():  # equal weights would be kept once in a graph, and read once
        for seed, head in enumerate(model.heads):
            head.dense.weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(seed))
    return model, exported(model, name, threads)


def exported(model: MultiExitModel, name: str, threads: int) -> OnnxRunner:
    """Return the runner of a model's graphs, cut at each exit."""
    cuts, segments = cut_layers(model.exits, range(len(model.exits) - 1))
    deployment = Deployment(
        deployment=name,
        weights="",
        rule="confidence",
        threshold=NEVER,
        cuts=cuts,
        exits=segments,
        certainty=False,
        tokens=Tokens(names=[IDS, MASK, TYPES], pad=0, cut="right"),
        quantisation=Quantisation(reduce_range=not has_vnni()) if name == "onnx_int8" else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        write_segments(model, deployment, Path(folder))
        return OnnxRunner(Path(folder), deployment, threads)


def static(runner: OnnxRunner, batch: dict[str, np.ndarray]) -> Callable[[], Any]:
    """Return a call of a model's only graph as any user of ONNX Runtime makes it."""
    session = runner.segments[0].session
    ids = batch[IDS]
    given = {IDS: ids, MASK: np.ones_like(ids), TYPES: np.zeros_like(ids)}
    given = {item.name: given[item.name] for item in session.get_inputs()}
    return partial(session.run, None, given)


def main() -> None:
    args = size_options(parser(__doc__)).parse_args()
    made = (Group(shape, args.threads, partial(make, shape, args.threads)) for shape in chosen(args))
    run_alone(__file__, made, args)


if __name__ == "__main__":
    main()
