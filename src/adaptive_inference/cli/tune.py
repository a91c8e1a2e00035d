"""``adaptive-inference tune``: find the deployment of a model that is fastest on this machine."""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.cli.options import add_column, add_command, add_own_code
from adaptive_inference.errors import UserError
from adaptive_inference.machine import usable_cores

if TYPE_CHECKING:
    from adaptive_inference.serving.tuning import Candidate

TEXT = """Time the deployments of a model on your texts and this processor, and write the fastest one: PyTorch, and graphs
for ONNX Runtime in fp32 and int8, each with one thread and with one for each core. Which is fastest differs from
processor to processor, and with the length of texts.

All answer the same text one after the other, at batch 1, from its characters to the answer. A deployment is chosen only
where it answers like the model as it came: in int8 confidences move, so that some texts leave at another exit. OUT gets
the chosen model and tuning.json: all that was measured, and the machine that it was measured on.

A folder that holds graphs, as a run hands out, is timed with different threads alone; give the run's folder to have all
deployments tried. Making graphs needs `pip install 'adaptive-inference[train]'`, timing them `[onnx]`."""

EXAMPLES = """examples:
  adaptive-inference tune runs/tiers/minilm/seed0/sweet texts.txt --out fast/
  adaptive-inference tune exported/ tickets.csv --column message --out fast/ --threads 1 --threads 4
  adaptive-inference tune results/model texts.txt --out fast/ --rows 500 --agreement 0.995"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "tune", _tune, "find the deployment that is fastest on this machine", TEXT, EXAMPLES
    )
    parser.add_argument(
        "model", metavar="MODEL_DIR", type=Path, help="exported folder, or a method's run folder"
    )
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="texts like those to come: a table, or one per line"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="folder to make; must not exist or be empty"
    )
    add_column(parser)
    parser.add_argument(
        "--rows", metavar="N", type=int, default=200, help="texts that are timed, the first (default: 200)"
    )
    parser.add_argument(
        "--rounds", metavar="N", type=int, default=3, help="how often each is timed (default: 3)"
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        action="append",
        help="threads to try graphs with; repeat for more (default: 1, and one for each core)",
    )
    parser.add_argument(
        "--agreement",
        metavar="SHARE",
        type=float,
        default=0.99,
        help="share of the texts that must be answered like the model as it came (default: 0.99)",
    )
    add_own_code(parser)


def _tune(args: argparse.Namespace) -> None:
    from adaptive_inference.cli.rows import open_rows
    from adaptive_inference.exits.layout import open_model
    from adaptive_inference.serving.generator_dir import is_generator
    from adaptive_inference.serving.tuning import Trial, tune
    from adaptive_inference.tasks.schema import Schema

    if is_generator(args.model):
        raise UserError(f"{args.model} is a decoder, which PyTorch alone runs; there is nothing to tune")
    if args.rows < 1:
        raise UserError(f"--rows {args.rows} must be a whole number from 1, e.g. 200")
    schema = Schema.load(open_model(args.model).home)
    with open_rows(args.file, args.column, schema) as rows:
        texts = [row.texts for row in islice(rows.found, args.rows)]
    threads = args.threads or sorted({1, usable_cores()})
    trial = Trial(texts, list(dict.fromkeys(threads)), args.rounds, args.agreement)
    found = tune(args.model, args.out, trial, lambda told: print(told, file=sys.stderr, flush=True))
    print(_report(found, trial.agreement))
    (chosen,) = (row for row in found if row.chosen)
    option = "" if chosen.deployment == "torch" else f" --threads {chosen.threads}"
    print(f"wrote {args.out}: {chosen.deployment}; try: adaptive-inference predict {args.out} FILE{option}")


def _report(rows: list[Candidate], least: float) -> str:
    """Return the table: one line for each candidate, the fastest first."""
    lines = [
        f"{'deployment':12}{'threads':>8}{'median ms':>11}{'95 % ms':>9}{'times faster':>14}{'interval':>16}{'answers':>9}"
    ]
    for row in sorted(rows, key=lambda item: -(item.speedup or 0)):
        if row.why is not None:
            lines.append(f"{row.deployment:12} not made: {row.why}")
            continue
        interval = f"{row.low:.2f} to {row.high:.2f}"
        note = (
            "  <- chosen"
            if row.chosen
            else f"  (under {least:g})"
            if row.agreement is not None and row.agreement < least
            else ""
        )
        lines.append(
            f"{row.deployment:12}{row.threads:8}{row.median_ms:11.2f}{row.p95_ms:9.2f}{row.speedup:14.2f}{interval:>16}"
            f"{row.agreement:9.3f}{note}"
        )
    return "\n".join(lines)
