"""What this machine is: processor, cores, instruction sets, installed packages. Imports none of the packages."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

#: Where Linux tells of its processors.
CPUINFO = Path("/proc/cpuinfo")
#: Flag of a processor, as Linux names it -> what it is called.
INSTRUCTIONS = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx_vnni": "AVX-VNNI", "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16", "amx_int8": "AMX INT8", "amx_bf16": "AMX BF16",
    "asimd": "NEON", "asimddp": "NEON dot product", "i8mm": "I8MM", "bf16": "BF16", "sve": "SVE",
}  # fmt: skip


def _first_core(file: Path) -> dict[str, str]:
    """Return what Linux tells of the first core; nothing elsewhere."""
    try:
        first = file.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def processor(file: Path = CPUINFO) -> str | None:
    """Return the processor's name where the system tells it."""
    return _first_core(file).get("model name") or platform.processor() or None


def instruction_sets(file: Path = CPUINFO) -> list[str] | None:
    """Return those that matter to a model's speed; None where the system does not tell."""
    core = _first_core(file)
    told = core.get("flags") or core.get("Features")
    return None if told is None else [name for flag, name in INSTRUCTIONS.items() if flag in told.split()]


def has_vnni(file: Path = CPUINFO) -> bool:
    """Whether this processor multiplies 8-bit integers without overflow in between."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return any(name.endswith("VNNI") for name in instruction_sets(file) or [])


def usable_cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return (os.cpu_count() or 1) if affinity is None else len(affinity(0))


def installed(package: str) -> str | None:
    """Return the version of a package that is installed here, or None."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def fingerprint() -> dict[str, Any]:
    """Return what a ranking by time holds for: processor, instruction sets, cores, and the versions of what runs models."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "instruction_sets": instruction_sets(),
        "cores": usable_cores(),
        "versions": {name: installed(name) for name in ("torch", "onnxruntime", "adaptive-inference")},
    }
