r"""Run the benchmarks and write one table of ratios: `make bench`.

Every suite is a benchmark of this folder with a function ``groups(extent)`` that yields what it compares, see `paired`.
Finished groups are kept in ``measured.jsonl``, so a run that was killed goes on where it was; they are forgotten when the
code, the machine, a version or an option changes. Then ``benchmarks.json`` is written: a list of rows with `name`,
`baseline`, `shape`, `threads`, `ratio` (time of name over time of baseline, median over rounds), `ci_low`, `ci_high` (95 %
bootstrap interval) and, where a bar applies, `limit` (what the ratio may be at most) and `holds`; and ``machine.json``.

    python benchmarks/run_all.py
    python benchmarks/run_all.py --quick --suites batch1_latency --out /tmp/bench
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paired import CLOCKS, EFFORTS, Group, line, measure, rows

from adaptive_pipeline.runs.environment import environment

PROJECT = Path(__file__).resolve().parents[1]
#: In the order in which they run. Trainings come last: what they set for memory stays set in the process.
SUITES = (
    "batch1_latency",
    "onnx_engine",
    "throughput",
    "token_reduction",
    "decoding",
    "full_curve",
    "saliency",
    "autograd_memory",
    "train_step",
    "leebert_step",
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    extent = parser.add_mutually_exclusive_group()
    for name, told in (
        ("quick", "tiny shapes, two rounds: to see that all runs"),
        ("full", "more shapes and rounds"),
    ):
        extent.add_argument(
            f"--{name}", dest="extent", action="store_const", const=name, default="default", help=told
        )
    parser.add_argument("--suites", nargs="+", default=list(SUITES), choices=SUITES, help="default: all")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=tuple(CLOCKS),
        help="cpu: processor time, on a busy machine, one thread (default: wall)",
    )
    parser.add_argument("--out", type=Path, default=PROJECT / "bench", help="default: bench")
    return parser.parse_args(argv)


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    """Return all that kept groups must have been measured with."""
    code = hashlib.sha256()
    for folder in ("benchmarks", "src"):
        for file in sorted((PROJECT / folder).rglob("*.py")):
            code.update(file.relative_to(PROJECT).as_posix().encode() + b"\0" + file.read_bytes())
    machine = {key: value for key, value in environment("cpu").items() if key != "threads"}
    return {"extent": args.extent, "clock": args.clock, "code": code.hexdigest(), "machine": machine}


def kept(file: Path, now: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the groups of a file that were measured under these conditions; begin it anew where they were others."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    whole = [json.loads(item) for item in lines if item.endswith("\n")]  # a kill may leave half a line
    if whole and whole[0] == now:
        found = whole[1:]
    else:
        found = []
        if len(whole) > 1:
            print(f"code, machine or options have changed: {len(whole) - 1} kept groups are measured again")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(item) + "\n" for item in [now, *found]), encoding="utf-8")
    return found


def groups(suites: list[str], extent: str) -> Iterator[tuple[str, Group]]:
    """Yield the groups of some suites; a suite is imported when its turn comes."""
    for suite in suites:
        for group in importlib.import_module(suite).groups(extent):
            yield suite, group


def main() -> None:
    args = parse_args()
    file = args.out / "measured.jsonl"
    found = kept(file, conditions(args))
    done = {(item["suite"], item["shape"], item["threads"]) for item in found}
    measured = [item for item in found if item["suite"] in args.suites]
    begun = time.monotonic()
    for suite, group in groups(args.suites, args.extent):
        if (suite, str(group.shape), group.threads) in done:
            continue
        measured.append(measure(suite, group, EFFORTS[args.extent], args.clock))
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(measured[-1]) + "\n")
        for row in rows(measured[-1:]):
            if "rounds" in row:
                print(f"{time.monotonic() - begun:5.0f} s  {line(row)}", flush=True)
        gc.collect()
    table = rows(measured)
    machine = environment("cpu") | {"clock": args.clock, "extent": args.extent}
    for name, body in (("benchmarks", table), ("machine", machine)):
        (args.out / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    bars = [row for row in table if "limit" in row]
    missed = [row for row in bars if not row["holds"]]
    print(
        f"{len(table)} ratios in {args.out / 'benchmarks.json'}; {len(bars) - len(missed)} of {len(bars)} bars hold"
    )
    for row in missed:
        print(f"  {line(row)}")


if __name__ == "__main__":
    main()
