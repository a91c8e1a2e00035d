r"""Measure what removed tokens save on the clock, in batches and at batch 1, beside what they save in FLOPs.

BERT with random weights; predictors and the keep rule run before each layer, and what stays is drawn in their place: of
each row between a quarter and three quarters of its tokens in the first third of the layers, half of that from the second
third on. Interleaved in one process; ratios are medians over rounds, with their 5 and 95 % points.

Batches, rows of drawn lengths: `each_row_alone` (no padding, nothing removed: the baseline), `padded` and `packed` (nothing
removed), `longest_survivor` (removed, padded to the longest row), `packed_survivors`. The project asks of the last: at least
0.70 of the speed-up in FLOPs over each row alone, and at least 1.25 times the speed of `longest_survivor`.
Batch 1: `nothing_dropped` is the price of predictors (asked: at most 1.10 times the plain model at 128 and 256 tokens),
`drawn` the schedule above. The last line is one JSON object.

    python benchmarks/token_reduction.py
    python benchmarks/token_reduction.py --width 32 --layers 3 --batch-size 3 --rounds 2 --lengths 8
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from adaptive_inference.backbones.base import Context
from adaptive_inference.backbones.bert import BertBackbone
from adaptive_inference.evaluation.latency import time_interleaved
from adaptive_inference.exits import MultiExitModel
from adaptive_inference.exits.build import add_exits
from adaptive_inference.exits.forward import EncoderForward
from adaptive_inference.exits.outputs import pick_device
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.token_reduction.hard import HardRemoval
from adaptive_inference.token_reduction.predictor import WIDTH
from adaptive_inference.token_reduction.reduction import TokenReduction
from adaptive_pipeline.runs.environment import environment

SCHEMA = Schema("benchmark", "classification", ("no", "yes"), "accuracy", 512)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=768, help="hidden width; 64 to a head where it divides")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--shortest", type=int, default=10, help="tokens of a batch's rows are drawn from here")
    parser.add_argument("--longest", type=int, default=127, help="to here")
    parser.add_argument("--batches", type=int, default=2, help="different batches")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128, 256], help="at batch 1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    return parser.parse_args()


class Rows(NamedTuple):
    """A batch, and what is kept of it: the keep mask of some layers, and the tokens of each row at each layer (L, B)."""

    batch: dict[str, Tensor]
    alone: list[dict[str, Tensor]]
    keep: Mapping[int, Tensor]
    survivors: np.ndarray


class Drawn:
    """A removal that runs as the model's own, but keeps what was drawn."""

    def __init__(self, removal: HardRemoval, keep: Mapping[int, Tensor]) -> None:
        self._removal, self._keep = removal, keep
        self.context: Context
        self.hidden_BNH: Tensor

    def before_layer(self, index: int, forward: EncoderForward) -> None:
        self._index, self._forward = index, forward
        self.context, self.hidden_BNH = forward.context, forward.hidden_BNH
        self._removal.before_layer(index, self)

    def keep_tokens(self, keep_BN: Tensor) -> None:
        self._forward.keep_tokens(self._keep.get(self._index, keep_BN))

    def detach(self) -> None:
        self._removal.detach()


def make_model(args: argparse.Namespace) -> tuple[MultiExitModel, TokenReduction]:
    """Return a plain model, and predictors whose own rule drops nothing."""
    heads = args.width // 64 if args.width % 64 == 0 else 4
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=heads,
        intermediate_size=4 * args.width,
    )
    backbone = BertBackbone(BertModel(config, add_pooling_layer=False))
    model = add_exits(backbone, [args.layers], SCHEMA, 0)
    reduction = TokenReduction(args.layers, args.width)
    reduction.eta.data.zero_()
    return model.eval(), reduction.eval()


def draw_rows(
    lengths: np.ndarray, layers: int, vocabulary: int, draw: np.random.Generator, device: torch.device
) -> Rows:
    """Return rows of random tokens, and the survivors that the schedule draws."""
    first = np.maximum(1, np.round(lengths * draw.uniform(0.25, 0.75, len(lengths)))).astype(int)
    second = np.maximum(1, first // 2)
    turn = -(-layers // 3)
    keep = {0: _drawn(lengths, first, draw), turn: _drawn(first, second, draw)}
    survivors = np.stack([first if layer < turn else second for layer in range(layers)])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = torch.from_numpy(draw.integers(5, vocabulary, mask.shape) * mask).to(device)
    batch = {"input_ids": ids}
    if not mask.all():
        batch["attention_mask"] = torch.from_numpy(mask).long().to(device)
    alone = [{"input_ids": ids[[row], :length].clone()} for row, length in enumerate(lengths)]
    return Rows(batch, alone, {at: torch.from_numpy(item).to(device) for at, item in keep.items()}, survivors)


def _drawn(lengths: np.ndarray, kept: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return which tokens of each row stay: the first, and others at random."""
    keep = np.zeros((len(lengths), lengths.max()), dtype=bool)
    for row, length, count in zip(keep, lengths, kept, strict=True):
        row[0] = True
        row[1 + draw.permutation(length - 1)[: count - 1]] = True
    return keep


def flops(model: MultiExitModel, lengths: np.ndarray, survivors: np.ndarray | None = None) -> int:
    """Return the FLOPs of matrix products: of all layers on all tokens, or with predictors and on the survivors (L, B)."""
    width, layers = model.backbone.hidden_size, model.backbone.num_layers
    inner = model.backbone.config.intermediate_size
    run = np.tile(lengths, (layers, 1)) if survivors is None else survivors
    total = (run * (8 * width**2 + 4 * width * inner) + run**2 * 4 * width).sum()
    if survivors is not None:
        entering = np.concatenate([lengths[None], survivors[:-1]])
        total += (entering * (2 * width * WIDTH + 2 * WIDTH)).sum()
    return int(total + len(lengths) * 2 * width * (width + len(SCHEMA.labels)))


def spread(values: np.ndarray) -> dict[str, float]:
    """Return the median of rounds, and their 5 and 95 % points."""
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return {"median": median, "low": low, "high": high}


def answer(model: MultiExitModel, batch: dict[str, Tensor], **how: Any) -> Tensor:
    with torch.inference_mode():
        return model.start(batch, **how).answers()[-1].logits


def time_all(
    ways: Mapping[str, Callable[[Rows], Any]], examples: list[Rows], rounds: int, device: torch.device
) -> dict[str, np.ndarray]:
    """Return seconds of each way in each round."""
    wait = torch.cuda.synchronize if device.type == "cuda" else None
    spent = time_interleaved(list(ways.values()), examples, rounds, len(examples), 0, wait)
    return dict(zip(ways, spent.sum(-1) / 1e9, strict=True))


def in_batches(
    model: MultiExitModel, reduction: TokenReduction, args: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Return the ratios of batches."""
    draw, vocabulary = np.random.default_rng(0), model.vocabulary
    sizes = [
        np.linspace(args.shortest, args.longest, args.batch_size).round().astype(int),
        *(draw.integers(args.shortest, args.longest + 1, (args.batches - 1, args.batch_size))),
    ]
    examples = [draw_rows(lengths, args.layers, vocabulary, draw, device) for lengths in sizes]

    def removed(rows: Rows, packed: bool) -> Tensor:
        return answer(model, rows.batch, removal=Drawn(reduction.hard(), rows.keep), packed=packed)

    ways = {
        "each_row_alone": lambda rows: torch.cat([answer(model, row) for row in rows.alone]),
        "padded": lambda rows: answer(model, rows.batch),
        "packed": lambda rows: answer(model, rows.batch, packed=True),
        "longest_survivor": lambda rows: removed(rows, packed=False),
        "packed_survivors": lambda rows: removed(rows, packed=True),
    }
    differs = {
        name: max(float((ways[name](rows) - ways[other](rows)).abs().max()) for rows in examples)
        for name, other in (("packed", "padded"), ("packed_survivors", "longest_survivor"))
    }
    spent = time_all(ways, examples, args.rounds, device)
    full = sum(flops(model, lengths) for lengths in sizes)
    ideal = full / sum(
        flops(model, lengths, rows.survivors) for lengths, rows in zip(sizes, examples, strict=True)
    )
    ours = spent["packed_survivors"]
    return {
        "seconds": {name: spread(seconds) for name, seconds in spent.items()},
        "flops_speedup": ideal,
        "speedup": {name: spread(seconds / ours) for name, seconds in spent.items()},
        "of_ideal": {name: spread(spent[name] / ours / ideal) for name in ("each_row_alone", "packed")},
        "largest_difference": differs,
    }


def at_batch_1(
    model: MultiExitModel, reduction: TokenReduction, args: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Return the ratios of each length at batch 1."""
    draw, found = np.random.default_rng(1), {}
    ways = {
        "plain": lambda rows: answer(model, rows.batch),
        "nothing_dropped": lambda rows: answer(model, rows.batch, removal=reduction.hard()),
        "drawn": lambda rows: answer(model, rows.batch, removal=Drawn(reduction.hard(), rows.keep)),
    }
    for length in args.lengths:
        sizes = [np.array([length])] * 4
        examples = [draw_rows(item, args.layers, model.vocabulary, draw, device) for item in sizes]
        spent = time_all(ways, examples, args.rounds, device)
        ideal = sum(flops(model, item) for item in sizes) / sum(
            flops(model, item, rows.survivors) for item, rows in zip(sizes, examples, strict=True)
        )
        found[str(length)] = {
            "plain_ms": spread(spent["plain"] * 1000 / len(sizes)),
            "overhead": spread(spent["nothing_dropped"] / spent["plain"]),
            "flops_speedup": ideal,
            "speedup": spread(spent["plain"] / spent["drawn"]),
        }
    return found


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    model, reduction = (item.to(device) for item in make_model(args))
    batches = in_batches(model, reduction, args, device)
    print(f"batches of {args.batch_size}: {batches['flops_speedup']:.2f} x fewer FLOPs")
    for name, ratio in batches["speedup"].items():
        seconds = batches["seconds"][name]["median"]
        print(
            f"  {name:18}{seconds:8.3f} s{ratio['median']:8.2f} x packed_survivors"
            f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
        )
    for name, share in batches["of_ideal"].items():
        print(
            f"  of the ideal speed-up over {name}: {share['median']:.2f} ({share['low']:.2f} to {share['high']:.2f})"
        )
    single = at_batch_1(model, reduction, args, device)
    for length, row in single.items():
        over, speed = row["overhead"], row["speedup"]
        print(
            f"batch 1, {length} tokens: {row['plain_ms']['median']:.1f} ms, nothing dropped {over['median']:.3f}"
            f" ({over['low']:.3f} to {over['high']:.3f}) of the time; {row['flops_speedup']:.2f} x fewer FLOPs,"
            f" {speed['median']:.2f} x ({speed['low']:.2f} to {speed['high']:.2f}) faster"
        )
    body = {
        "benchmark": Path(__file__).stem,
        "batches": batches,
        "batch_1": single,
        "settings": vars(args),
        "environment": environment(device.type),
    }
    print(json.dumps(body, sort_keys=True))


if __name__ == "__main__":
    main()
