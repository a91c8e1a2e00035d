"""``adaptive-inference doctor``: what this machine has, and what answers. Never waits long; needs no torch."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from adaptive_inference.cli.options import add_command
from adaptive_inference.machine import installed, instruction_sets, processor, usable_cores

#: Of most use first; those of the extras are told where they are missing.
PACKAGES = (
    "adaptive-inference", "numpy", "tokenizers", "safetensors", "torch", "transformers", "datasets", "pyarrow",
    "scipy", "dvc", "snakemake", "mlflow",
)  # fmt: skip
#: Seconds that a hub or a server has to answer, and a process that asks torch for a GPU.
ANSWER_WITHIN, GPU_WITHIN = 3.0, 30.0
#: What the process that loads torch prints.
_ASK_TORCH = """
import json, torch
there = torch.cuda.is_available()
print(json.dumps({
    "threads": torch.get_num_threads(),
    "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if there else [],
    "cuda": torch.version.cuda,
}))
"""

TEXT = """Tell what this machine has and what answers: versions, cores, instruction sets, memory, free disk, a GPU, the hub
that models come from, the MLflow server of MLFLOW_TRACKING_URI. None is waited for long; what does not answer is told,
and the status stays 0. Put the output into a report of a fault."""

EXAMPLES = """examples:
  adaptive-inference doctor
  adaptive-inference doctor --json > machine.json"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "doctor", _doctor, "look at the machine", TEXT, EXAMPLES)
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")


def _doctor(args: argparse.Namespace) -> None:
    found = examine()
    print(json.dumps(found, indent=1) if args.json else _report(found))


def examine() -> dict[str, Any]:
    """Return all findings in plain form; None: not there, or not told by this system."""
    memory = _memory()
    return {
        "versions": {"python": platform.python_version()} | {name: installed(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "cores": {"all": os.cpu_count(), "usable": usable_cores()},
        "instruction_sets": instruction_sets(),
        "memory_gb": {"all": memory.get("MemTotal"), "available": memory.get("MemAvailable")},
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "torch": _torch(),
        "hub": _hub(),
        "tracking_server": _tracking_server(),
    }


# ---- the machine -----------------------------------------------------------------------------------------------------


def _memory(file: Path = Path("/proc/meminfo")) -> dict[str, float]:
    """Return Linux' figures in GB; nothing elsewhere."""
    try:
        pairs = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}
    return {name.rstrip(":"): round(int(kilobytes) * 1024 / 1e9, 1) for name, kilobytes, *_ in pairs}


# ---- what answers ----------------------------------------------------------------------------------------------------


def _torch() -> dict[str, Any]:
    """Ask torch in a process of its own: a driver that hangs, or a broken installation, is only told."""
    if installed("torch") is None:
        return {"problem": "not installed; pip install 'adaptive-inference[torch]' to predict"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH],
            capture_output=True,
            text=True,
            timeout=GPU_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"did not load, or the GPU's driver did not answer, within {GPU_WITHIN:g} s"}
    if done.returncode:
        return {"problem": f"cannot be loaded: {(done.stderr.strip().splitlines() or ['no word'])[-1]:.200}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _hub() -> dict[str, Any]:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return {"answers": False, "problem": "not asked: HF_HUB_OFFLINE is set"}
    return answers(constants.ENDPOINT)


def _tracking_server() -> dict[str, Any]:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        return {
            "answers": None,
            "problem": "no server is set (MLFLOW_TRACKING_URI): runs go to a local store",
        }
    return answers(uri, "/health")


def answers(url: str, path: str = "", within: float = ANSWER_WITHIN) -> dict[str, Any]:
    """Return whether a server says anything at all.

    A look-up of its name does not keep a time limit, so that a thread asks, which is left behind.

    Parameters
    ----------
    url
        Its address; names, passwords and a query in it are neither sent nor repeated.
    path
        What to ask for, below the address.
    within
        Seconds to wait.
    """
    found: dict[str, Any] = {"answers": False, "problem": f"no answer within {within:g} s"}

    def ask() -> None:
        found.update(_ask(url, path, within))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(within + 0.5)
    return dict(found)


def _ask(url: str, path: str, within: float) -> dict[str, Any]:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.parse import urlsplit
    from urllib.request import urlopen

    try:
        parts = urlsplit(url)
        host, below = parts.netloc.rpartition("@")[2], parts.path.rstrip("/") + path
        plain = parts._replace(netloc=host, path=below, query="", fragment="").geturl()
        with urlopen(plain, timeout=within):
            return {"answers": True, "problem": None}
    except HTTPError as error:  # it refuses, and so it is there
        return {"answers": error.code < 500, "problem": f"it says {error.code}"}
    except (ValueError, HTTPException):  # whose words may hold parts of a password
        return {"answers": False, "problem": "its address cannot be read, or it speaks no HTTP"}
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        return {
            "answers": False,
            "problem": f"{type(reason).__name__}: {getattr(reason, 'strerror', None) or reason}",
        }


# ---- for a person ----------------------------------------------------------------------------------------------------


def _report(found: dict[str, Any]) -> str:
    versions, cores, memory = found["versions"], found["cores"], found["memory_gb"]
    missing = [name for name, version in versions.items() if version is None]
    sets = found["instruction_sets"]
    lines = {
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "not installed": ", ".join(missing) or "nothing",
        "system": found["system"],
        "processor": found["processor"] or "unknown",
        "cores": f"{cores['all']}, of which this process may use {cores['usable']}",
        "instruction sets": "not told by this system"
        if sets is None
        else ", ".join(sets) or "none of those looked for",
        "memory": f"{memory['all']} GB, {memory['available']} GB free"
        if memory["all"]
        else "not told by this system",
        "free disk here": f"{found['disk_free_gb']} GB",
        "torch": _torch_words(found["torch"]),
        "GPU": _gpu_words(found["torch"]),
        "hub": _answer_words(found["hub"]),
        "tracking server": _answer_words(found["tracking_server"]),
    }
    return "\n".join(f"{name + ':':18} {told}" for name, told in lines.items())


def _torch_words(found: dict[str, Any]) -> str:
    if "problem" in found:
        return str(found["problem"])
    build = f"CUDA {found['cuda']}" if found["cuda"] else "built for the CPU alone"
    return f"loads, {found['threads']} threads, {build}"


def _gpu_words(found: dict[str, Any]) -> str:
    """Tell of none only where torch has looked."""
    if "problem" in found:
        return f"not known: {found['problem']}"
    return ", ".join(found["gpus"]) or ("none" if found["cuda"] else "none that this torch can use")


def _answer_words(found: dict[str, Any]) -> str:
    if found["answers"]:
        return "answers" + (f" ({found['problem']})" if found["problem"] else "")
    return str(found["problem"]) if found["answers"] is None else f"does not answer: {found['problem']}"
