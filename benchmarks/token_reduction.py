r"""Measure what removed tokens save on the clock, in batches and at batch 1, beside what they save in FLOPs.

BERT with random weights; predictors and the keep rule run before each layer, and what stays is drawn in their place: of
each row between a quarter and three quarters of its tokens in the first third of the layers, half of that from the second
third on. Facts: how many times fewer FLOPs that is, predictors included.

Batches, rows of drawn lengths: `each_row_alone` (no padding, nothing removed: the baseline), `padded` and `packed` (nothing
removed), `longest_survivor` (removed, padded to the longest row), `packed_survivors`. Asked of the last: at least 0.70 of
the speed-up in FLOPs over each row alone, and at least 1.25 times the speed of `longest_survivor`; limits are the inverse.
Batch 1: `nothing_dropped` is the price of predictors (asked: at most 1.10 times the plain model at 128 and 256 tokens),
`drawn` the schedule above. The last line is one JSON object.

    python benchmarks/token_reduction.py
    python benchmarks/token_reduction.py --width 32 --layers 3 --batch-size 3 --rounds 2 --lengths 8
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from encoders import LENGTHS, SCHEMA, backbone
from paired import Group, Pair, Shape, Work, parser, run_alone
from torch import Tensor

from adaptive_inference.backbones.base import Context
from adaptive_inference.cost.flops import flops_by_exit, flops_speedup
from adaptive_inference.exits import MultiExitModel
from adaptive_inference.exits.build import add_exits
from adaptive_inference.exits.forward import EncoderForward
from adaptive_inference.exits.outputs import pick_device
from adaptive_inference.token_reduction.hard import HardRemoval

#: Lengths at which the price of predictors has a bar.
LONG = (128, 256)


def groups(extent: str) -> Iterator[Group]:
    """Yield all that `make bench` measures of this."""
    if extent == "quick":
        yield in_batches(3, 32, (2, 5), 3, 1)
        yield at_batch_1(3, 32, 8)
        return
    yield in_batches(12, 768, (10, 127), 16, 2)
    yield from (at_batch_1(12, 768, length) for length in LENGTHS)


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


def make_models(layers: int, width: int, device: str) -> Models:
    """Return the models, of random weights."""
    encoder = backbone(layers, width)
    plain, reduced = (
        add_exits(encoder, [layers], SCHEMA, 0, reduces=reduces).eval().to(pick_device(device))
        for reduces in (False, True)
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


def on_all(examples: Sequence[Rows], way: Callable[[Rows], Any]) -> Callable[[], list[Any]]:
    """Return a way that answers all examples."""
    return lambda: [way(rows) for rows in examples]


def in_batches(
    layers: int,
    width: int,
    lengths: tuple[int, int],
    batch_size: int,
    batches: int,
    threads: int = 1,
    device: str = "cpu",
) -> Group:
    """Return the comparison in batches of rows from the shortest to the longest length."""
    shape = f"{layers} x {width}, {lengths[0]} to {lengths[1]} tokens, batch {batch_size}"
    return Group(shape, threads, partial(_make_batches, layers, width, lengths, batch_size, batches, device))


def _make_batches(
    layers: int, width: int, lengths: tuple[int, int], batch_size: int, batches: int, device: str
) -> Work:
    draw, (plain, reduced) = np.random.default_rng(0), make_models(layers, width, device)
    sizes = [
        np.linspace(*lengths, batch_size).round().astype(int),
        *(draw.integers(lengths[0], lengths[1] + 1, (batches - 1, batch_size))),
    ]
    examples = [draw_rows(size, layers, plain.vocabulary, draw, plain.device) for size in sizes]

    def drawn(rows: Rows, packed: bool) -> Tensor:
        return answer(reduced, rows.batch, removal=Drawn(reduced.reduction.hard(), rows.keep), packed=packed)

    ways: dict[str, Callable[[Rows], Tensor]] = {
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
    fewer = flops_ratio(Models(plain, reduced), examples)
    pairs = [
        Pair("packed_survivors", "each_row_alone", 1 / (0.70 * fewer)),
        Pair("packed_survivors", "longest_survivor", 1 / 1.25),
        Pair("packed_survivors", "packed"),
        Pair("packed", "padded"),
    ]
    timed = {name: on_all(examples, way) for name, way in ways.items()}
    return Work(timed, pairs, {"fewer_flops": fewer, "largest_difference": differs})


def at_batch_1(layers: int, width: int, length: int, threads: int = 1, device: str = "cpu") -> Group:
    """Return the comparison at batch 1."""
    return Group(
        Shape(layers, width, length, 1), threads, partial(_make_single, layers, width, length, device)
    )


def _make_single(layers: int, width: int, length: int, device: str) -> Work:
    draw, (plain, reduced) = np.random.default_rng(1), make_models(layers, width, device)
    examples = [draw_rows(np.array([length]), layers, plain.vocabulary, draw, plain.device) for _ in range(4)]
    ways: dict[str, Callable[[Rows], Tensor]] = {
        "plain": lambda rows: answer(plain, rows.batch),
        "nothing_dropped": lambda rows: answer(reduced, rows.batch),
        "drawn": lambda rows: answer(reduced, rows.batch, removal=Drawn(reduced.reduction.hard(), rows.keep)),
    }
    pairs = [Pair("nothing_dropped", "plain", 1.10 if length in LONG else None), Pair("drawn", "plain")]
    timed = {name: on_all(examples, way) for name, way in ways.items()}
    return Work(timed, pairs, {"fewer_flops": flops_ratio(Models(plain, reduced), examples)})


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--width", type=int, default=768)
    options.add_argument("--layers", type=int, default=12)
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument(
        "--shortest", type=int, default=10, help="tokens of a batch's rows are drawn from here"
    )
    options.add_argument("--longest", type=int, default=127, help="to here")
    options.add_argument("--batches", type=int, default=2, help="different batches")
    options.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128, 256], help="at batch 1")
    options.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    args = options.parse_args()
    size, how, drawn_from = (
        (args.layers, args.width),
        (args.threads, args.device),
        (args.shortest, args.longest),
    )
    made = [in_batches(*size, drawn_from, args.batch_size, args.batches, *how)]
    made += [at_batch_1(*size, length, *how) for length in args.lengths]
    run_alone(__file__, iter(made), args)


if __name__ == "__main__":
    main()
