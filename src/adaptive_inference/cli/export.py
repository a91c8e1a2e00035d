"""``adaptive-inference export``: gather a run into one folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from adaptive_inference.cli.options import add_command, add_own_code

TEXT = """Gather a method's run into one folder that can be loaded, copied and published: weights, tokenizer,
calibration and a model card with thresholds and quality. Classifiers and decoders alike."""

EXAMPLES = """examples:
  adaptive-inference export runs/tiers/minilm/seed0/sweet exported/
  adaptive-inference export runs/transduce/t5_small/seed0/free writer/"""


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
    from adaptive_inference.serving.generator_dir import is_generator

    if is_generator(args.run_folder):
        from adaptive_inference.serving.generator_export import export_generator

        export_generator(args.run_folder, args.out)
        print(f"wrote {args.out}; try: echo 'a text' | adaptive-inference generate {args.out}")
        return
    export(args.run_folder, args.out)
    print(f"wrote {args.out}; try: echo 'a text' | adaptive-inference predict {args.out}")
