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
from adaptive_inference.cost.flops import flops_by_exit, flops_speedup
from adaptive_inference.evaluation.latency import time_interleaved
from adaptive_inference.exits import MultiExitModel
from adaptive_inference.exits.build import add_exits
from adaptive_inference.exits.forward import EncoderForward
from adaptive_inference.exits.outputs import pick_device
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.token_reduction.hard import HardRemoval
from adaptive_pipeline.runs.environment import environment

SCHEMA = Schema("benchmark", "classification", ("no", "yes"), "accuracy", 512)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=768, help="hidden width; 64 to a head where it divides")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--shortest", type=int, default=10, help="tokens of a batch's rows are drawn from here"
    )
    parser.add_argument("--longest", type=int, default=127, help="to here")
    parser.add_argument("--batches", type=int, default=2, help="different batches")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128, 256], help="at batch 1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    return parser.parse_args()


class Rows(NamedTuple):
    """A batch and its rows' lengths; what is kept before some layers, and the tokens of each row at each layer, (B, L)."""

    batch: dict[str, Tensor]
    alone: list[dict[str, Tensor]]
    lengths: np.ndarray
    keep: Mapping[int, Tensor]
    survivors: np.ndarray


class Drawn:
    """A removal that runs as the model's own, but keeps what was drawn."""

    def __init__(self, removal: HardRemoval, keep: Mapping[int, Tensor]) -> None:
        self._removal, self._keep = removal, keep
        self.context: Context
        self.hidden_BNH: Tensor

    def before_layer(self, index: int, forward: EncoderForward) -> None:
        """See `exits.forward.Removal`."""
        self._index, self._forward = index, forward
        self.context, self.hidden_BNH = forward.context, forward.hidden_BNH
        self._removal.before_layer(index, self)

    def keep_tokens(self, keep_BN: Tensor) -> None:
        """Keep what was drawn, or where nothing was what the rule says."""
        self._forward.keep_tokens(self._keep.get(self._index, keep_BN))

    def detach(self) -> None:
        """See `exits.forward.Removal`."""
        self._removal.detach()


class Models(NamedTuple):
    """One encoder, plain and with predictors whose own rule drops nothing."""

    plain: MultiExitModel
    reduced: MultiExitModel


def make_models(args: argparse.Namespace) -> Models:
    """Return the models, of random weights."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.width // 64 if args.width % 64 == 0 else 4,
        intermediate_size=4 * args.width,
    )
    backbone = BertBackbone(BertModel(config, add_pooling_layer=False))
    plain, reduced = (
        add_exits(backbone, [args.layers], SCHEMA, 0, reduces=reduces).eval() for reduces in (False, True)
    )
    reduced.reduction.eta.data.zero_()
    return Models(plain, reduced)


def draw_rows(
    lengths: np.ndarray, layers: int, vocabulary: int, draw: np.random.Generator, device: torch.device
) -> Rows:
    """Return rows of random tokens, and the survivors that the schedule draws."""
    first = np.maximum(1, np.round(lengths * draw.uniform(0.25, 0.75, len(lengths)))).astype(int)
    second = np.maximum(1, first // 2)
    turn = -(-layers // 3)
    keep = {0: _drawn(lengths, first, draw), turn: _drawn(first, second, draw)}
    survivors = np.stack([first if layer < turn else second for layer in range(layers)], axis=1)
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = torch.from_numpy(draw.integers(5, vocabulary, mask.shape) * mask).to(device)
    batch = {"input_ids": ids}
    if not mask.all():
        batch["attention_mask"] = torch.from_numpy(mask).long().to(device)
    alone = [{"input_ids": ids[[row], :length].clone()} for row, length in enumerate(lengths)]
    kept = {at: torch.from_numpy(item).to(device) for at, item in keep.items()}
    return Rows(batch, alone, lengths, kept, survivors)


def _drawn(lengths: np.ndarray, kept: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return which tokens of each row stay: the first, and others at random."""
    keep = np.zeros((len(lengths), lengths.max()), dtype=bool)
    for row, length, count in zip(keep, lengths, kept, strict=True):
        row[0] = True
        row[1 + draw.permutation(length - 1)[: count - 1]] = True
    return keep


def spread(values: np.ndarray) -> dict[str, float]:
    """Return the median of rounds, and their 5 and 95 % points."""
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return {"median": median, "low": low, "high": high}


def answer(model: MultiExitModel, batch: dict[str, Tensor], **how: Any) -> Tensor:
    """Return the logits."""
    with torch.inference_mode():
        return model.start(batch, **how).answers()[-1].logits


def flops_ratio(models: Models, examples: list[Rows]) -> float:
    """Return how many times fewer FLOPs the survivors cost, predictors included, than all tokens without padding."""
    lengths = np.concatenate([rows.lengths for rows in examples])
    survivors = np.concatenate([rows.survivors for rows in examples])
    full, left = flops_by_exit(models.plain, lengths), flops_by_exit(models.reduced, lengths, survivors)
    return float(flops_speedup(full[:, -1], left[:, -1]))


def time_all(
    ways: Mapping[str, Callable[[Rows], Any]], examples: list[Rows], rounds: int, device: torch.device
) -> dict[str, np.ndarray]:
    """Return seconds of each way in each round."""
    wait = torch.cuda.synchronize if device.type == "cuda" else None
    spent = time_interleaved(list(ways.values()), examples, rounds, len(examples), 0, wait)
    return dict(zip(ways, spent.sum(-1) / 1e9, strict=True))


def in_batches(models: Models, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the ratios of batches."""
    draw, (plain, reduced) = np.random.default_rng(0), models
    sizes = [
        np.linspace(args.shortest, args.longest, args.batch_size).round().astype(int),
        *(draw.integers(args.shortest, args.longest + 1, (args.batches - 1, args.batch_size))),
    ]
    examples = [draw_rows(lengths, args.layers, plain.vocabulary, draw, device) for lengths in sizes]

    def drawn(rows: Rows, packed: bool) -> Tensor:
        return answer(reduced, rows.batch, removal=Drawn(reduced.reduction.hard(), rows.keep), packed=packed)

    ways = {
        "each_row_alone": lambda rows: torch.cat([answer(plain, row) for row in rows.alone]),
        "padded": lambda rows: answer(plain, rows.batch),
        "packed": lambda rows: answer(plain, rows.batch, packed=True),
        "longest_survivor": lambda rows: drawn(rows, packed=False),
        "packed_survivors": lambda rows: drawn(rows, packed=True),
    }
    differs = {
        name: max(float((ways[name](rows) - ways[other](rows)).abs().max()) for rows in examples)
        for name, other in (("packed", "padded"), ("packed_survivors", "longest_survivor"))
    }
    spent = time_all(ways, examples, args.rounds, device)
    ideal = flops_ratio(models, examples)
    ours = spent["packed_survivors"]
    return {
        "seconds": {name: spread(seconds) for name, seconds in spent.items()},
        "flops_speedup": ideal,
        "speedup": {name: spread(seconds / ours) for name, seconds in spent.items()},
        "of_ideal": {name: spread(spent[name] / ours / ideal) for name in ("each_row_alone", "packed")},
        "largest_difference": differs,
    }


def at_batch_1(models: Models, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the ratios of each length at batch 1."""
    draw, found, (plain, reduced) = np.random.default_rng(1), {}, models
    ways = {
        "plain": lambda rows: answer(plain, rows.batch),
        "nothing_dropped": lambda rows: answer(reduced, rows.batch),
        "drawn": lambda rows: answer(reduced, rows.batch, removal=Drawn(reduced.reduction.hard(), rows.keep)),
    }
    for length in args.lengths:
        examples = [
            draw_rows(np.array([length]), args.layers, plain.vocabulary, draw, device) for _ in range(4)
        ]
        spent = time_all(ways, examples, args.rounds, device)
        found[str(length)] = {
            "plain_ms": spread(spent["plain"] * 1000 / len(examples)),
            "overhead": spread(spent["nothing_dropped"] / spent["plain"]),
            "flops_speedup": flops_ratio(models, examples),
            "speedup": spread(spent["plain"] / spent["drawn"]),
        }
    return found


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    models = Models(*(model.to(device) for model in make_models(args)))
    batches = in_batches(models, args, device)
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
    single = at_batch_1(models, args, device)
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
