"""Bring one stage up to date: what a Snakemake job does.

``dvc --wait-for-lock repro --single-item STAGE``, then the stage's receipt. Everything that DVC and the stage print goes to
the log. A lock that lives exactly as long as this process or its DVC keeps a rerun after ``kill -9`` from colliding with
a DVC that survived: DVC itself would refuse with "busy" instead of waiting.

    python workflow/run_stage.py make_tables receipts/make_tables.json logs/make_tables.log SIGNATURE
"""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptive_pipeline import dvc_graph, progress
from adaptive_pipeline.one_run import lock_file


@contextmanager
def only_one(stage: str) -> Iterator[int]:
    """Hold the lock of a stage; yield its file descriptor, for the child that must hold it too."""
    descriptor = lock_file(f"stages/{stage}")
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"{stage} is still running from a run that was killed; waiting for it to end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def run_stage(stage: str, receipt: Path, log: Path, signature: str) -> int:
    """Run a stage if DVC finds it stale, and write its receipt; return DVC's exit status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with only_one(stage) as lock, log.open("w", encoding="utf-8") as stream:
        dvc_graph.mend_lock_files()  # another job's DVC may have been killed since the run began
        command = ["dvc", "--wait-for-lock", "repro", "--single-item", stage]
        status = subprocess.run(
            command, stdout=stream, stderr=stream, pass_fds=[lock], check=False
        ).returncode
        if status == 0:
            dvc_graph.write_receipt(stage, receipt, signature)
    return status


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
