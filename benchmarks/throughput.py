r"""Measure batches: rows that leave at different exits against full models on the same batches.

BERT's shapes with random weights, the exits of the presets. Heads are random, so the threshold is the one that comes
nearest to a wanted speed-up in layers (told as a fact). A row of a batch that leaves saves its part of the layers above, and
the smaller batch that runs on is less well used.

* `torch`, `onnx_fp32_leaves`, `onnx_int8_leaves`: batches from which rows leave. In int8 each row runs by itself.
* `torch_stream`, `onnx_fp32_stream`: rows that stay wait for others, so that every segment runs on a full batch; of small
  encoders alone, since it needs many batches.
* `onnx_fp32`, `onnx_int8`: the full model as one graph, called without the engine. `stock`: the classifier of transformers.

Asked of batch 32, at 2 times fewer layers: 1.7 times the rows a second of `stock`, that is at most 1 / 1.7 of the time;
of the stream in PyTorch, 1.85 times. `wait`: of a row, its mean wait for an answer where all rows are there at the start,
over that which it has with `stock`. The last line is one JSON object.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --sizes 6 384 --lengths 16 --batch-sizes 8 32 --rule patience
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from encoders import EXITS, SCHEMA, backbone, chosen, shapes, size_options, stock, tokens
from onnx_engine import exported, static
from paired import Group, Pair, Shape, Work, parser, run_alone
from torch import Tensor

from adaptive_inference.engine import Engine, Stream
from adaptive_inference.engine.onnx_runner import OnnxRunner
from adaptive_inference.engine.runner import Runner
from adaptive_inference.engine.torch_runner import TorchRunner
from adaptive_inference.evaluation.latency import without_collection
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits import MultiExitModel
from adaptive_inference.exits.build import add_exits

BATCHES, STREAM = {32: 1 / 1.7}, {32: 1 / 1.85}  #: Limits by batch.
#: Batches and tokens of one round, at most, of encoders up to `STREAMED` wide; others run one batch.
MOST_BATCHES, ROUND = 8, 8192
#: Wider encoders take too long for a stream of many batches.
STREAMED = 384

Batch = dict[str, Tensor]


def groups(extent: str) -> Iterator[Group]:
    """Yield all that `make bench` measures of this."""
    for shape, threads in shapes(extent, (8, 32, 128)):
        yield Group(shape, threads, partial(make, shape, threads))
    graphs.cache_clear()


def make(shape: Shape, threads: int, rule: str = "confidence", layers_speedup: float = 2.0) -> Work:
    """Return the ways of one shape, each at the threshold whose speed-up in layers is nearest to the wanted one."""
    streams = shape.width <= STREAMED
    fitting = max(1, ROUND // (shape.batch * shape.length))
    batches = tokens(shape, min(MOST_BATCHES, fitting) if streams else 1)
    size = shape.layers, shape.width
    model = fresh_model(*size, EXITS[shape.layers])
    facts: dict[str, Any] = {"rule": rule, "rows": len(batches) * shape.batch}

    def engine(name: str, runner: Runner) -> Engine:
        threshold, reached = pick_threshold(model, runner, rule, batches, layers_speedup)
        facts[name] = {"threshold": threshold, "fewer_layers": reached}
        return Engine(model, rule, threshold, runner=runner)

    full, adaptive = stock(*size), engine("torch", TorchRunner(model, False))
    ways: dict[str, Callable[[], Any]] = {
        "stock": each([partial(full, batch) for batch in batches]),
        "torch": each([partial(adaptive.run, batch) for batch in batches]),
    }
    pairs = [Pair("torch", "stock", BATCHES.get(shape.batch))]
    if streams:
        stream = Stream(adaptive, shape.batch, collated)
        rows = [{"row": row, "length": shape.length} for batch in batches for row in batch["input_ids"]]
        ways["torch_stream"] = streaming(stream, rows)
        pairs += [Pair("torch_stream", "stock", STREAM.get(shape.batch)), Pair("torch_stream", "torch")]
        facts["wait"] = waits(ways, stream, rows, len(batches))
    arrays = [{name: item.numpy() for name, item in batch.items()} for batch in batches]
    for name in ("onnx_fp32", "onnx_int8"):
        only = graphs(*size, EXITS[shape.layers][-1:], name, threads)
        ways[name] = each([static(only, batch) for batch in arrays])
        adaptive = engine(f"{name}_leaves", graphs(*size, EXITS[shape.layers], name, threads))
        ways[f"{name}_leaves"] = each([partial(adaptive.run, batch) for batch in arrays])
        pairs += [Pair(name, "stock"), Pair(f"{name}_leaves", "stock"), Pair(f"{name}_leaves", name)]
        if streams and adaptive.runner.merges:
            ways[f"{name}_stream"] = streaming(Stream(adaptive, shape.batch, collated), rows)
            pairs += [Pair(f"{name}_stream", "stock"), Pair(f"{name}_stream", f"{name}_leaves")]
    return Work(ways, pairs, facts)


@lru_cache(maxsize=4)  # those of all batches of a size: to write them takes longer than to measure them
def graphs(layers: int, width: int, exits: tuple[int, ...], name: str, threads: int) -> OnnxRunner:
    """Return the runner of a model's graphs."""
    return exported(fresh_model(layers, width, exits), name, threads)


def fresh_model(layers: int, width: int, exits: tuple[int, ...]) -> MultiExitModel:
    """Return a model whose scores differ from row to row; fresh heads are all but undecided."""
    model = add_exits(backbone(layers, width), exits, SCHEMA, 0).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in model.heads:
            head.classifier.weight.copy_(torch.randn(head.classifier.weight.shape, generator=draw))
    return model


def each(answers: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    """Return a way that does one thing after the other."""
    return lambda: [answer() for answer in answers]


def streaming(stream: Stream, rows: Sequence[Any]) -> Callable[[], Any]:
    """Return a way that answers rows as a stream."""
    return lambda: list(stream.run(rows))


def collated(rows: Sequence[dict[str, Any]]) -> Batch:
    """Return a batch of rows of one length."""
    return {"input_ids": torch.stack([item["row"] for item in rows])}


def pick_threshold(
    model: MultiExitModel, runner: Runner, rule: str, batches: Sequence[Batch], wanted: float
) -> tuple[float, float]:
    """Return the threshold whose speed-up in layers is nearest to the wanted one, and that speed-up."""
    definition, last, logits = load_rule(rule), len(model.exits) - 1, []
    for batch in batches:
        with runner.inference():
            run = runner.start(batch)
            found = {}
            for cut in runner.cuts:
                found |= run.advance(cut, [cut])
        logits.append(np.stack([found[index].logits for index in range(last + 1)], axis=1))
    every = np.concatenate(logits)
    grid = definition.grid(every.shape[-1], 400, len(model.exits))
    exits = definition.exit_indices(every, None, None, grid)
    speedups = model.exits[-1] / np.array(model.exits)[exits].mean(1)
    best = int(np.abs(np.log(speedups / wanted)).argmin())
    return float(grid[best]), float(speedups[best])


def waits(
    ways: dict[str, Callable[[], Any]], stream: Stream, rows: Sequence[Any], batches: int
) -> dict[str, float]:
    """Return the mean wait of a row in batches and in a stream, over that in the stock model's batches.

    Medians of three passes after one that does not count: batches take their even share of a pass, a stream tells when
    it answers.
    """
    spent: dict[str, list[float]] = {"stock": [], "torch": [], "torch_stream": []}
    with without_collection():
        for _ in range(4):
            for name in ("stock", "torch"):
                since = time.perf_counter()
                ways[name]()
                spent[name].append((time.perf_counter() - since) * (batches + 1) / (2 * batches))
            since, total = time.perf_counter(), 0.0
            for answered in stream.run(rows):
                total += (time.perf_counter() - since) * len(answered.places)
            spent["torch_stream"].append(total / len(rows))
    stock, *others = (np.median(item[1:]) for item in spent.values())
    return {
        name: round(float(wait / stock), 2)
        for name, wait in zip(("torch", "torch_stream"), others, strict=True)
    }


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
        Group(shape, args.threads, partial(make, shape, args.threads, args.rule, args.layers_speedup))
        for shape in wanted
    )
    run_alone(__file__, made, args)


if __name__ == "__main__":
    main()
