"""What a killed DVC leaves behind, mended: lock files that it was rewriting, and paths that it still seems to work on.

DVC rewrites ``dvc.lock`` in place, after every stage, in up to seconds. A kill meanwhile leaves it empty or cut, and DVC
then reads nothing of the project any more. So the last whole one is kept; what ended after it comes back from DVC's
run-cache. Whoever calls `mend_lock_files` or `free_paths` holds DVC's lock, so that no other process writes meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml

from adaptive_inference.errors import UserError
from adaptive_inference.files import write_text
from adaptive_pipeline.one_run import STATE
from adaptive_pipeline.params.yaml_file import UniqueKeyLoader

LOCK_FILES = ("dvc.lock", "search/dvc.lock")
KEPT = STATE / "whole"
_MERGE = re.compile(r"^(<<<<<<<|>>>>>>>)", re.MULTILINE)


def mend_lock_files(root: str | Path) -> None:
    """Keep a copy of each lock file that is whole; bring back the copy of one that is not.

    A whole one ends with a newline, or with the stage that the copy has there, where an editor took the newline.

    Raises
    ------
    SystemExit
        A file cannot be read, and there is no copy, or it holds two sides of a merge: which one is for the user to say.
    """
    for name in LOCK_FILES:
        file, kept = Path(root, name), Path(root, KEPT, name)
        if not file.is_file():
            continue
        text, copy = _text(file), _text(kept)
        if text == copy:
            continue
        readable = _is_readable(text, name)
        if readable and not text.endswith("\n") and copy is not None and _lacks_newline_alone(text, copy):
            text += "\n"
            write_text(file, text)
        if readable and text.endswith("\n"):
            write_text(kept, text)
        elif copy is not None and not _MERGE.search(text):
            write_text(file, copy)
            print(
                f"adaptive-inference: {name} was not whole, as a kill leaves it while DVC writes; its last whole copy is "
                "back, and what ended after that DVC restores from its cache",
                file=sys.stderr,
                flush=True,
            )
        elif not readable:
            raise SystemExit(f"error: {_remedy(name, text)}")
        else:
            print(
                f"adaptive-inference: {name} does not end with a newline, as where a kill cut it while DVC wrote, and no "
                f"whole copy of it was kept here; stages that it lacks are restored from DVC's cache, or run again. If it "
                f"is whole, `echo >> {name}`; else `git checkout {name}` brings back the committed one",
                file=sys.stderr,
                flush=True,
            )


def free_paths(repo: Any) -> None:
    """Take out of DVC's list of paths in use those of processes that are gone; a list that was cut is begun anew.

    DVC looks whether a process of that number lives. After a restart, of a container above all, that is any other one.
    """
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    file, guard = Path(repo.tmp_dir, RWLOCK_FILE), Path(repo.tmp_dir, RWLOCK_LOCK)
    hardlink = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(guard), tmp_dir=repo.tmp_dir, hardlink_lock=hardlink, wait=True):
        if not file.is_file():
            return
        used, living = None, {"write": {}, "read": {}}
        with contextlib.suppress(
            ValueError, LookupError, TypeError, AttributeError
        ):  # cut, or of another shape
            used = json.loads(file.read_text(encoding="utf-8"))
            living = _of_the_living(used)
        if living != used:
            write_text(file, json.dumps(living))


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None


def _is_readable(text: str, name: str) -> bool:
    """Return whether DVC reads it. It reads most of those that were cut within a line too, half a digest for a whole one."""
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException

    try:  # DVC's own parser takes seven times as long
        Lockfile.validate(yaml.load(text, UniqueKeyLoader), name)
    except (yaml.YAMLError, UserError, DvcException, ValueError):
        return False
    return True


def _lacks_newline_alone(text: str, copy: str) -> bool:
    """Return whether it names all stages of the copy, and its last one is as there: a value cut short is another one."""
    stages, kept = ((yaml.load(each, UniqueKeyLoader) or {}).get("stages") or {} for each in (text, copy))
    last = next(reversed(stages), None)
    return last is not None and stages.keys() >= kept.keys() and stages[last] == kept.get(last)


def _remedy(name: str, text: str) -> str:
    if _MERGE.search(text):
        return (
            f"{name} holds both sides of a merge; take one of them whole, `git checkout --ours {name}` or --theirs, and "
            "start again: what the other had is restored from DVC's cache, or made again"
        )
    return (
        f"{name} cannot be read, and no whole copy of it was kept here; bring back the committed one, `git checkout {name}`"
        ", or delete it where there is none, and start again: what was made here is restored from DVC's cache"
    )


def _of_the_living(used: dict[str, Any]) -> dict[str, Any]:
    writers = {path: user for path, user in used.get("write", {}).items() if _lives(user)}
    readers = {path: [user for user in users if _lives(user)] for path, users in used.get("read", {}).items()}
    return {"write": writers, "read": {path: users for path, users in readers.items() if users}}


def _lives(user: dict[str, Any]) -> bool:
    """Return whether the process of that number is the one that was noted: its command ends with the same arguments."""
    try:
        command = " ".join(psutil.Process(user["pid"]).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    return command.endswith(user["cmd"].partition(" ")[2])
