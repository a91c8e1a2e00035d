"""What files, folders and code are known by: digests that only their content moves."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_inference.files import digest_json

#: Outputs that may differ between two runs of the same params: files of these names, and all under folders of these names,
#: what `choose_deployment` chose by the clock among them. The one list of exemptions from byte identity; tests and digests
#: read it.
TIMING_OUTPUTS = (
    "timings.json", "train_timings.json", "deployment_timings.json", "deployment/", "results/"
)  # fmt: skip


def digest_path(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's relative names and contents, timing files left out."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if not path.is_dir():
        raise UserError(f"{path} is missing; run the stage that writes it")
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and file.name not in TIMING_OUTPUTS:
            whole.update(f"{file.relative_to(path).as_posix()}\0{digest_path(file)}\n".encode())
    return whole.hexdigest()


def code_digest(script: str | Path) -> str:
    """Return the digest of a stage script and of every module of this project that it has imported.

    Call it after all imports of the stage are done.
    """
    files = {Path(script).resolve()}
    for name, module in list(sys.modules.items()):
        source = getattr(module, "__file__", None)
        if name.split(".")[0] in ("adaptive_inference", "adaptive_pipeline") and source:
            files.add(Path(source).resolve())
    parts = sorted((file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files)
    return digest_json(parts)
