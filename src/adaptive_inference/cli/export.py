"""``adaptive-inference export``: gather a run into one folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from adaptive_inference.cli.options import add_command, add_own_code

TEXT = """Gather a method's run into one folder that can be loaded, copied and published: weights, tokenizer,
calibration and a model card with thresholds and quality."""

EXAMPLES = """example:
  adaptive-inference export runs/tiers/minilm/seed0/sweet exported/"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "export", _export, "gather a run into one folder", TEXT, EXAMPLES)
    parser.add_argument(
        "run_folder", metavar="RUN_DIR", type=Path, help="e.g. runs/TASK/BACKBONE/seed0/METHOD"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; must not exist or be empty")
    add_own_code(parser)


def _export(args: argparse.Namespace) -> None:
    from adaptive_inference.serving.export import export

    export(args.run_folder, args.out)
    print(f"wrote {args.out}; try: echo 'a text' | adaptive-inference predict {args.out}")
