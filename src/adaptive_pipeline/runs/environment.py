"""The machine and the versions that a training or a timing was made with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adaptive_inference.errors import UserError
from adaptive_inference.files import read_json
from adaptive_inference.machine import installed, processor

#: Packages of which another version may train other weights from the same params.
CHANGE_RESULTS = ("torch", "transformers", "tokenizers")


def environment(device: str) -> dict[str, Any]:
    """Describe the machine and the versions that timings were taken with; goes into timings files only.

    ``device`` is the kind that was used, ``cpu`` or ``cuda``, whatever else there is.

    Asks torch for threads and device only where a stage has loaded it already.
    """
    import platform

    packages = (*CHANGE_RESULTS, "numpy", "onnxruntime", "datasets", "adaptive-inference")
    versions = {"python": platform.python_version()} | {name: installed(name) for name in packages}
    found: dict[str, Any] = {
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": processor(),
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


def other_versions(timings: Iterable[Path]) -> dict[str, list[Path]]:
    """Return which timings files of trainings name another version than is installed, by package and version.

    A build of the same version for another device, ``2.13.0+cpu``, is no other version. A file that is missing or names
    none says nothing.
    """
    here = {name: _public(installed(name)) for name in CHANGE_RESULTS}
    found: dict[str, list[Path]] = {}
    for file in timings:
        try:
            versions = read_json(file)["environment"]["versions"]
        except (UserError, OSError, LookupError, TypeError):
            continue
        for name in CHANGE_RESULTS:
            used = _public(versions.get(name))
            if used and used != here[name]:
                found.setdefault(f"{name} {used}", []).append(file)
    return found


def _public(version: str | None) -> str:
    return (version or "").partition("+")[0]
