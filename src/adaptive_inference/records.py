"""Records of what a stage did: deterministic JSON, identified by what the stage was given.

A stage folder holds ``metrics.json`` (this module's `Record`) and, where it trains, ``history.jsonl``. Neither
holds times, host names, absolute paths or run ids, so two runs of the same stage give the same bytes. Whatever
depends on the clock goes to a separate timings file (see `TIMING_OUTPUTS`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adaptive_inference.errors import UserError

#: Outputs that may differ between two runs of the same params: files of these names, and all under these folders.
#: The one list of exemptions from byte identity; tests and digests read it.
TIMING_OUTPUTS = ("timings.json", "train_timings.json", "results/")


@dataclass(frozen=True)
class Cell:
    """One point of the grid. ``method`` is empty for stages that serve all methods."""

    task: str
    backbone: str
    seed: int
    method: str = ""

    @property
    def name(self) -> str:
        """Return e.g. ``sst2-minilm-sweet-0``, as DVC names the stage."""
        return "-".join(
            str(part) for part in (self.task, self.backbone, self.method, self.seed) if part != ""
        )

    def folder(self, root: Path) -> Path:
        """Return where the cell's stages write, below ``root`` (the ``runs`` folder)."""
        folder = root / self.task / self.backbone / f"seed{self.seed}"
        return folder / self.method if self.method else folder


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


def plain(value: Any) -> Any:
    """Return a JSON-ready copy: numpy scalars and arrays become Python's, non-finite numbers become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, body: Any) -> None:
    """Write sorted, indented JSON in one move: a killed writer leaves no half file."""
    write_text(
        path, json.dumps(plain(body), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """Read JSON, or say which file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run the stage that writes it") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run its stage again") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line (split on newlines only)."""
    try:
        with path.open(encoding="utf-8", newline="\n") as stream:
            return [json.loads(line) for line in stream if line.strip()]
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} holds a line that is no JSON ({error}); delete it and run its stage again"
        ) from error


def digest_json(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
        if name.split(".")[0] == "adaptive_inference" and source:
            files.add(Path(source).resolve())
    parts = sorted((file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files)
    return digest_json(parts)


def environment(device: str) -> dict[str, Any]:
    """Describe the machine and the versions that timings were taken with; goes into timings files only.

    ``device`` is the kind that was used, ``cpu`` or ``cuda``, whatever else there is.

    Asks torch for threads and device only where a stage has loaded it already.
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("torch", "transformers", "tokenizers", "numpy", "datasets", "adaptive-inference"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    found: dict[str, Any] = {
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": None,
        "device": None,
        "driver": None,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        cuda = device.startswith("cuda")
        found["threads"] = torch.get_num_threads()
        found["device"] = torch.cuda.get_device_name() if cuda else "cpu"
        found["driver"] = f"CUDA {torch.version.cuda}" if cuda else None
    return found


def _cpu_name() -> str | None:
    """Return the processor's model name where the system tells it."""
    import platform

    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def load_records(root: Path, stage: str | None = None) -> list[Record]:
    """Return every record below a folder, ordered by path; ``stage`` keeps one family."""
    found = [Record.load(file.parent) for file in sorted(root.rglob("metrics.json"))]
    return [record for record in found if stage in (None, record.stage)]
