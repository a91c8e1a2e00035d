"""The md5 of every file that a stage wrote, beside its record, so that one damaged since is told of and not read.

DVC does not see a flipped byte: it takes the files of its cache for good by their mode, and those of the workspace by
their time, and restores a damaged file as if it were the one that it was given. The list is as ``md5sum --check`` reads it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_inference.files import write_text
from adaptive_pipeline.runs.records import RECORD_FILE

CHECKSUMS = "MD5SUMS"
_LINE = re.compile(r"([0-9a-f]{32})  (.+)")


def write_checksums(folder: Path) -> None:
    """Write ``MD5SUMS`` of all that a stage's folder holds."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = [f"{_md5(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    write_text(folder / CHECKSUMS, "".join(lines))


def refuse_damaged(path: Path) -> None:
    """Refuse what is not as its stage wrote it: a stage's folder, or a file or folder right below it.

    What no stage wrote is taken as it is, also where it has a list of checksums of its own.

    Raises
    ------
    UserError
        Names the file, both checksums and the commands that make it anew.
    """
    listed = {stage / name: md5 for stage in (path, path.parent) for name, md5 in _listed(stage).items()}
    for file, noted in listed.items():
        if not file.is_relative_to(path):
            continue
        found = _md5(file) if file.is_file() else "missing"
        if found != noted:
            raise UserError(
                f"{file} is damaged: its md5 is {found}, but {noted} when it was written. Remove it with DVC's copy, "
                f'`rm -f {file} "$(dvc cache dir)/files/md5/{noted[:2]}/{noted[2:]}"`, and run the same command again: '
                "the stage that wrote it runs again (or fetch a good copy first: `dvc pull`)"
            )


def _listed(folder: Path) -> Mapping[str, str]:
    """Return the noted md5 of each file of a stage's folder; of any other folder, none: a stage's list has its record."""
    file = folder / CHECKSUMS
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    listed = {found[2]: found[1] for line in lines if (found := _LINE.fullmatch(line))}
    return listed if RECORD_FILE in listed else {}


def _md5(file: Path) -> str:
    """Return DVC's digest of a file, by which its copy in the cache is named."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
