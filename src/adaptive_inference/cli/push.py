"""``adaptive-inference push``: publish an exported model on a hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from adaptive_inference.cli.options import add_command

TEXT = """Publish an exported model's folder (weights, tokenizer, calibration, card) as a model of a hub. Log in first:
`hf auth login`, or the variable HF_TOKEN. A model that is there gets a new commit."""

EXAMPLES = """example:
  adaptive-inference push results/model my-name/tickets --private"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "push", _push, "publish a model on a hub", TEXT, EXAMPLES)
    parser.add_argument("model", metavar="MODEL_DIR", type=Path, help="exported folder, with its card")
    parser.add_argument("repo_id", metavar="REPO_ID", help="OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="readable for its owner alone")


def _push(args: argparse.Namespace) -> None:
    from adaptive_inference.serving.hub import push_to_hub

    print(push_to_hub(args.model, args.repo_id, args.private))
