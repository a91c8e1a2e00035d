"""Bring one stage up to date: what a Snakemake job does.

``dvc --wait-for-lock repro --single-item STAGE``, in this process, then the stage's receipt. Everything that DVC and the
stage print goes to the log. A lock that lives as long as this process keeps a rerun after ``kill -9`` of Snakemake from
colliding with it: DVC itself would refuse with "busy" instead of waiting.

    python workflow/run_stage.py make_tables receipts/make_tables.json logs/make_tables.log SIGNATURE
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptive_pipeline import dvc_graph, progress
from adaptive_pipeline.one_run import lock_file

_STREAMS = (1, 2)


@contextmanager
def only_one(stage: str) -> Iterator[None]:
    """Hold the lock of a stage."""
    descriptor = lock_file(f"stages/{stage}")
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"{stage} is still running from a run that was killed; waiting for it to end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def run_stage(stage: str, receipt: Path, log: Path, signature: str) -> int:
    """Run a stage if DVC finds it stale, and write its receipt; return DVC's exit status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with only_one(stage):
        with printing_to(log):
            dvc_graph.mend_lock_files()  # another job's DVC may have been killed since the run began
            status = dvc_graph.reproduce(stage)
        if status == 0:
            dvc_graph.write_receipt(stage, receipt, signature)
    return status


@contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """Let all that this process and its children print go to a file."""
    terminal = [os.dup(stream) for stream in _STREAMS]
    with log.open("wb") as file:
        for stream in _STREAMS:
            os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        for stream, own in zip((sys.stdout, sys.stderr), _STREAMS, strict=True):
            stream.flush()
            os.dup2(terminal.pop(0), own)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", help="as DVC names it, e.g. train_sweet@tiers-minilm-sweet-0")
    parser.add_argument("receipt", type=Path, help="file to write when the stage is up to date")
    parser.add_argument("log", type=Path, help="file for all output")
    parser.add_argument("signature", help="of the stage when the run began (dvc_graph.StageNode.signature)")
    args = parser.parse_args()
    sys.exit(run_stage(args.stage, args.receipt, args.log, args.signature))


if __name__ == "__main__":
    main()
