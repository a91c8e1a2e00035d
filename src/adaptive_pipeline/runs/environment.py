"""The machine and the versions that timings were taken with."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


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
