"""Options that several commands share, and how a command is added."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from adaptive_inference.errors import UserError


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], short: str, text: str, examples: str
) -> argparse.ArgumentParser:
    """Add a command whose help is printed as it is written."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=short,
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, command=name, own_code=[])
    return parser


def add_own_code(parser: argparse.ArgumentParser) -> None:
    """Let a command run code of the user's own first."""
    parser.add_argument(
        "--own-code",
        metavar="FILE",
        action="append",
        default=[],
        help="run a file of your own (or package.module) that has the model's exit rule or encoder; repeat for more",
    )


def add_column(parser: argparse.ArgumentParser) -> None:
    """Let a user name the text columns."""
    parser.add_argument(
        "--column",
        metavar="NAME",
        action="append",
        help="column of the text; default: the one the model was trained on; repeat it for a task of two texts",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Let a user say where the model answers."""
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda", "auto"],
        default="cpu",
        help="where the model answers; auto: CUDA where there is one (default: cpu)",
    )


def add_batch_size(parser: argparse.ArgumentParser, default: int, why: str) -> None:
    """Let a user say how many rows go through the model at once."""
    parser.add_argument("--batch-size", metavar="N", type=int, default=default, help=why)


def check_batch_size(given: int) -> None:
    """Refuse what is no number of rows, before a model is loaded."""
    if given < 1:
        raise UserError(f"--batch-size {given} must be a whole number from 1, e.g. 32")
