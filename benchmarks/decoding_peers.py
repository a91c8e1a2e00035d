r"""Measure our decoding beside the early exits of transformers and of economize, on the same weights, in one process.

A Llama shape of random weights whose blocks above the exit write nothing into the stream: shallow and deep model agree on
every token, nothing is ever taken back, and what is measured is the machinery. Same exit, same confidence bound (0: a draft
goes on as long as it may), same number of tokens N to a pass of the blocks above.

* batch 1, lossless: `verify_N` against `assistant_early_exit` of ``generate`` with N - 1 drafts a time (default: 20) and
  economize's `early_exit` with cycles of N; batch 8: `verify_N`, and in lock step, against economize.
* not verified: `keep_N` against economize with ``lossless=False``.

Asked: each of ours at least as fast; `plain` is ``generate``. Every way must write the same text, and the benchmark ends
with an error where one does not. economize is needed by this benchmark alone (PyPI; `pip install economize`, or its folder
on PYTHONPATH); without it, its ways are left out and the fact `economize` is null. The last line is one JSON object.

    python benchmarks/decoding_peers.py
    python benchmarks/decoding_peers.py --new-tokens 64 --cycles 8 --rounds 3
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from decoding import Writer, let_all_agree, make_model
from paired import Group, Pair, Work, parser, run_alone
from torch import Tensor

from adaptive_inference.decoding import DecodingPolicy
from adaptive_inference.errors import UserError


def own_ways(writer: Writer, exit_layer: int, cycle: int) -> dict[str, Callable[[], Tensor]]:
    """Return our ways that take ``cycle`` tokens through the blocks above at once."""

    def way(kind: str, together: bool = False) -> Callable[[], Tensor]:
        policy = DecodingPolicy(
            kind, exit_layer=exit_layer, threshold=0.0, max_pending=cycle - 1, together=together
        )
        return lambda: writer.ours(policy)[0]

    ways = {f"verify_{cycle}": way("verify"), f"keep_{cycle}": way("keep")}
    if len(writer.inputs["input_ids"]) > 1:
        ways[f"verify_together_{cycle}"] = way("verify", together=True)
    return ways


def assistant_way(writer: Writer, exit_layer: int, drafts: int) -> Callable[[], Tensor]:
    """Return transformers' way with a number of drafts a time."""

    def write() -> Tensor:
        config = writer.model.generation_config
        config.num_assistant_tokens, config.num_assistant_tokens_schedule = drafts, "constant"
        config.assistant_confidence_threshold = 0.0
        return writer.plain(assistant_early_exit=exit_layer)

    return write


def economize_ways(writer: Writer, model: Any, cycle: int) -> dict[str, Callable[[], Tensor]]:
    """Return economize's ways with a cycle."""
    from economize import DecodeConfig

    def way(lossless: bool) -> Callable[[], Tensor]:
        how = DecodeConfig(cycle_length=cycle, lossless=lossless)
        return lambda: model.generate(**writer.inputs, max_new_tokens=writer.new_tokens, decoding=how)

    return {f"economize_{cycle}": way(True), f"economize_unverified_{cycle}": way(False)}


def make(rows: int, args: argparse.Namespace, with_economize: bool) -> Work:
    """Return the ways of one batch size."""
    model = make_model("llama", args.blocks, args.width, args.vocabulary)
    let_all_agree(model, args.exit_layer)
    writer = Writer(model, rows, args.prompt, args.new_tokens)
    ways: dict[str, Callable[[], Tensor]] = {"plain": writer.plain}
    pairs = []
    attached = None
    if with_economize:
        import economize
        from economize.techniques.early_exit import EarlyExitConfig

        attached = economize.apply(model, EarlyExitConfig(exit_layer=args.exit_layer, head="shared"))
    for cycle in args.cycles:
        ours = own_ways(writer, args.exit_layer, cycle)
        ways |= ours
        lossless = [name for name in ours if name.startswith("verify")]
        if rows == 1:
            ways[f"assistant_{cycle - 1}"] = assistant_way(writer, args.exit_layer, cycle - 1)
            pairs.append((lossless[0], f"assistant_{cycle - 1}"))
        if attached is not None:
            ways |= economize_ways(writer, attached, cycle)
            pairs += [(name, f"economize_{cycle}") for name in lossless]
            pairs.append((f"keep_{cycle}", f"economize_unverified_{cycle}"))
    expected = ways["plain"]()
    for name, way in ways.items():
        if not torch.equal(way(), expected):
            raise UserError(f"{name} does not write what plain generate writes, so its time says nothing")
    told = [Pair(name, "plain") for name in ways if name != "plain"]
    return Work(
        ways, told + [Pair(ours, peer, 1.0) for ours, peer in pairs], {"economize": _version(with_economize)}
    )


def _version(with_economize: bool) -> str | None:
    return importlib.metadata.version("economize") if with_economize else None


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--blocks", type=int, default=12)
    options.add_argument("--exit-layer", type=int, default=3)
    options.add_argument("--width", type=int, default=512, help="64 to a head where it divides")
    options.add_argument("--vocabulary", type=int, default=8000)
    options.add_argument("--prompt", type=int, default=16)
    options.add_argument("--new-tokens", type=int, default=128)
    options.add_argument("--cycles", type=int, nargs="+", default=[8, 16, 21], help="N")
    options.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    options.set_defaults(rounds=5)
    args = options.parse_args()
    with_economize = importlib.util.find_spec("economize") is not None
    if not with_economize:
        print("economize is not installed: its ways are left out (pip install economize)")
    made = (
        Group(f"batch {rows}", args.threads, partial(make, rows, args, with_economize))
        for rows in args.batch_sizes
    )
    run_alone(__file__, made, args)


if __name__ == "__main__":
    main()
