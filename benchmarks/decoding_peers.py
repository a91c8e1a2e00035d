r"""Measure our decoding beside the early exits of transformers and of economize, on the same weights, in one process.

A Llama shape of random weights whose blocks above the exit write nothing into the stream: shallow and deep model agree on
every token, nothing is ever taken back, and what is measured is the machinery. Same exit, same confidence bound (0: a draft
goes on as long as it may), same number of tokens N to a pass of the blocks above.

* batch 1, lossless: `verify_N` against `assistant_early_exit` of ``generate`` with N - 1 drafts a time (default: 20) and
  economize's `early_exit` with cycles of N; batch 8: `verify_N`, and in lock step, against economize.
* not verified: `keep_N` against economize with ``lossless=False``.

Asked: each of ours at least as fast. Ratios are medians over rounds with their 5 and 95 % points; `plain` is ``generate``.
Every way must write the same text, and the benchmark ends with an error where one does not. economize is needed by this
benchmark alone (PyPI; `pip install economize`, or its folder on PYTHONPATH); without it, its ways are left out and
`economize` is null in the last line, which is one JSON object.

    python benchmarks/decoding_peers.py
    python benchmarks/decoding_peers.py --new-tokens 64 --cycles 8 --rounds 3
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from decoding import CLOCKS, Writer, let_all_agree, make_model, spread, time_ways
from torch import Tensor

from adaptive_inference.decoding import DecodingPolicy
from adaptive_inference.errors import UserError
from adaptive_pipeline.runs.environment import environment


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--exit-layer", type=int, default=3)
    parser.add_argument("--width", type=int, default=512, help="64 to a head where it divides")
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--cycles", type=int, nargs="+", default=[8, 16, 21], help="N")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", default="cpu", choices=tuple(CLOCKS))
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


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


def measure(rows: int, args: argparse.Namespace, with_economize: bool) -> dict[str, Any]:
    """Return what one batch size gives."""
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
    spent = time_ways(ways, args.rounds, args.clock)
    tokens = rows * args.new_tokens
    return {
        "rows": rows,
        "ms_per_token": {name: 1000 * float(np.median(s)) / tokens for name, s in spent.items()},
        "speedup": {name: spread(spent["plain"] / seconds) for name, seconds in spent.items()},
        "ours_over_peer": {f"{ours} / {peer}": spread(spent[peer] / spent[ours]) for ours, peer in pairs},
    }


def show(found: dict[str, Any]) -> None:
    """Print a table."""
    print(f"batch {found['rows']}")
    for name, ratio in found["speedup"].items():
        print(
            f"  {name:28}{found['ms_per_token'][name]:8.2f} ms a token{ratio['median']:7.2f} x plain"
            f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
        )
    for pair, ratio in found["ours_over_peer"].items():
        print(f"  {pair:44}{ratio['median']:7.2f} x ({ratio['low']:.2f} to {ratio['high']:.2f}), asked 1")


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    with_economize = importlib.util.find_spec("economize") is not None
    if not with_economize:
        print("economize is not installed: its ways are left out (pip install economize)")
    found = [measure(rows, args, with_economize) for rows in args.batch_sizes]
    for row in found:
        show(row)
    body = {
        "benchmark": Path(__file__).stem,
        "economize": importlib.metadata.version("economize") if with_economize else None,
        "batches": found,
        "settings": vars(args),
        "environment": environment("cpu"),
    }
    print(json.dumps(body, sort_keys=True))


if __name__ == "__main__":
    main()
