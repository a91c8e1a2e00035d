"""Console command ``adaptive-inference``: use a saved model, fit it to rows of your own, look at the machine.

One module per command. Loads no torch until a model is really needed, so that ``--help`` and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from adaptive_inference.cli import calibrate, doctor, export, generate, judge, predict, push, tune
from adaptive_inference.errors import UserError
from adaptive_inference.machine import installed
from adaptive_inference.own_code import load_own_code

#: A package that may be missing -> the extra that brings it.
_EXTRAS = {
    "onnx": "train",
    "onnxruntime": "onnx",
    "pyarrow": "train",
    "scipy": "train",
    "torch": "torch",
    "tqdm": "torch",
    "transformers": "torch",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (0, or 2 for a user's mistake)."""
    args = _parser().parse_args(argv)
    try:
        for file in args.own_code:
            load_own_code(file)
        args.run(args)
        sys.stdout.flush()
    except UserError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        return _refuse(
            f"{args.command} needs {error.name}; pip install 'adaptive-inference[{_EXTRAS[error.name]}]'"
        )
    except BrokenPipeError:  # the reader (`head`) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _refuse(f"{error.filename or 'output'}: {error.strerror}" if error.strerror else str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _refuse(told: str) -> int:
    print(f"error: {told}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="adaptive-inference",
        description="Use a saved early-exit model, fit it to rows of your own, look at the machine.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (predict, generate, calibrate, export, tune, push, judge, doctor):
        command.add(commands)
    return parser


class _Version(argparse.Action):
    """Looks the version up when it is asked for: that loads what no command needs."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"adaptive-inference {installed('adaptive-inference') or 'not installed'}")
        parser.exit()
