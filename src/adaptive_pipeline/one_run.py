"""One run, or search, at a time in a folder, with the tools of this environment."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

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


def lock_file(name: str) -> int:
    """Open a file of `STATE` for ``flock``; the lock goes with the last process that has the descriptor, however it ends."""
    path = STATE / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except PermissionError:
        raise SystemExit(
            f"error: {path} is another user's, and this one may not write it; use a checkout of your own, or let "
            f"its owner share it: `chmod -R a+rwX {STATE}`"
        ) from None


def only_run_here() -> int:
    """Refuse a second run in this folder while this process lives; return the descriptor, for a child that holds it too."""
    descriptor = lock_file("run.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SystemExit(
            "error: another run or search is working in this folder; wait for it to end or stop it"
        ) from None
    return descriptor
