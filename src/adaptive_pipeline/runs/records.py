"""Records of what a stage did: deterministic JSON, identified by what the stage was given.

A stage folder holds ``metrics.json`` (this module's `Record`) and, where it trains, ``history.jsonl``. Neither
holds times, host names, absolute paths or run ids, so two runs of the same stage give the same bytes. Whatever
depends on the clock goes to a separate timings file (see `TIMING_OUTPUTS`).
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adaptive_inference.errors import UserError
from adaptive_inference.files import digest_json, read_json, write_json
from adaptive_pipeline.grid import Cell

#: Outputs that may differ between two runs of the same params: files of these names, and all under these folders.
#: The one list of exemptions from byte identity; tests and digests read it.
TIMING_OUTPUTS = ("timings.json", "train_timings.json", "results/")


@dataclass
class Record:
    """What one stage instance was given and what it measured."""

    stage: str
    cell: Cell
    params: dict[str, Any]
    inputs: dict[str, str]
    code: str
    metrics: dict[str, float | None] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def params_digest(self) -> str:
        """Digest of the params alone: a kept result holds while it equals the preset's."""
        return digest_params(self.params)

    @property
    def record_id(self) -> str:
        """Digest of stage, cell, params, code and inputs: equal ids mean the same work."""
        given = [self.stage, asdict(self.cell), self.params_digest, self.inputs, self.code]
        return digest_json(given)[:16]

    def save(self, folder: Path) -> None:
        """Write ``metrics.json`` into the stage's folder."""
        body = asdict(self) | {"record_id": self.record_id, "params_digest": self.params_digest}
        write_json(folder / "metrics.json", body)

    @classmethod
    def load(cls, folder: Path) -> Record:
        """Read what `save` wrote; refuse a file of another shape."""
        body = read_json(folder / "metrics.json")
        try:
            names = ("stage", "params", "inputs", "code", "metrics", "details")
            return cls(cell=Cell(**body["cell"]), **{name: body[name] for name in names})
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder / 'metrics.json'} is no record of this project ({error})") from error


def digest_params(params: dict[str, Any]) -> str:
    """Return the digest of `Params.echo`'s answer; keys that hold their default do not count."""
    return digest_json({key: value for key, value in params.items() if value is not None})


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
    """Return the digest of a stage script and of every module of this library that it has imported.

    Call it after all imports of the stage are done.
    """
    files = {Path(script).resolve()}
    for name, module in list(sys.modules.items()):
        source = getattr(module, "__file__", None)
        if name.split(".")[0] in ("adaptive_inference", "adaptive_pipeline") and source:
            files.add(Path(source).resolve())
    parts = sorted((file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files)
    return digest_json(parts)


def load_records(root: Path, stage: str | None = None) -> list[Record]:
    """Return every record below a folder, ordered by path; ``stage`` keeps one family."""
    found = [Record.load(file.parent) for file in sorted(root.rglob("metrics.json"))]
    return [record for record in found if stage in (None, record.stage)]
