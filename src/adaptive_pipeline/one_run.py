"""One run, or search, at a time in a folder, with the tools of this environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from filelock import FileLock, Timeout

#: What a checkout keeps for itself: locks, and copies of DVC's lock files. Not in git, and never removed by `make clean`.
STATE = Path(".pipeline")


def use_this_environment(base: str | Path) -> None:
    """Let ``python`` and ``dvc`` in a command be those that run Snakemake, whether or not it was activated."""
    here = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != here:
        os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])
    source = str(Path(base) / "src")
    if source not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))


def first_parse() -> bool:
    """Return whether this is the run's own parse of the Snakefile, and not that of one of its jobs."""
    first = "ADAPTIVE_INFERENCE_RUN" not in os.environ
    os.environ.setdefault("ADAPTIVE_INFERENCE_RUN", str(os.getpid()))
    return first or os.environ["ADAPTIVE_INFERENCE_RUN"] == str(os.getpid())


def only_run_here() -> None:
    """Refuse a second run in this folder. The lock goes with the process, however it ends."""
    global _run_lock
    _run_lock = FileLock(STATE / "run.lock")
    try:
        _run_lock.acquire(timeout=0)
    except Timeout:
        raise SystemExit(
            "error: another run or search is working in this folder; wait for it to end or stop it"
        ) from None


_run_lock: FileLock | None = None
