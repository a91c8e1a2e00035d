"""``adaptive-inference export``: gather a run into one folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from adaptive_inference.cli.options import add_command, add_own_code
from adaptive_inference.errors import UserError

TEXT = """Gather a method's run into one folder that can be loaded, copied and published: weights, tokenizer,
calibration and a model card with thresholds and quality. Classifiers and decoders alike.

With --deployment onnx_fp32 or onnx_int8, a classifier is written as graphs for ONNX Runtime in place of weights, one for
each segment between the exits at which its recommended rule can decide: it predicts with
`pip install 'adaptive-inference[onnx]'`, without PyTorch, and several times faster. In int8 confidences move, so that
the thresholds are worth what calibration of the exported model says."""

EXAMPLES = """examples:
  adaptive-inference export runs/tiers/minilm/seed0/sweet exported/
  adaptive-inference export runs/tiers/minilm/seed0/sweet fast/ --deployment onnx_int8
  adaptive-inference export runs/transduce/t5_small/seed0/free writer/"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "export", _export, "gather a run into one folder", TEXT, EXAMPLES)
    parser.add_argument(
        "run_folder", metavar="RUN_DIR", type=Path, help="e.g. runs/TASK/BACKBONE/seed0/METHOD"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; must not exist or be empty")
    parser.add_argument(
        "--deployment",
        metavar="NAME",
        default="torch",
        help="torch (default), onnx_fp32 or onnx_int8; of a decoder torch alone",
    )
    add_own_code(parser)


def _export(args: argparse.Namespace) -> None:
    from adaptive_inference.exits.deployment import check_deployment
    from adaptive_inference.serving.export import export
    from adaptive_inference.serving.generator_dir import is_generator

    check_deployment(args.deployment)
    if is_generator(args.run_folder):
        if args.deployment != "torch":
            raise UserError(
                f"{args.run_folder} is a decoder, which {args.deployment} does not run; leave --deployment out"
            )
        from adaptive_inference.serving.generator_export import export_generator

        export_generator(args.run_folder, args.out)
        print(f"wrote {args.out}; try: echo 'a text' | adaptive-inference generate {args.out}")
        return
    export(args.run_folder, args.out, args.deployment)
    print(f"wrote {args.out}; try: echo 'a text' | adaptive-inference predict {args.out}")
