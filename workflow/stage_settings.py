"""What Snakemake needs to know of a stage beyond the graph: threads, memory, order. Machines, never science."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from adaptive_inference.errors import UserError
from adaptive_inference.params import Params, load_params
from adaptive_inference.records import Cell
from dag import StageNode

#: Memory and time limit of a stage family, for schedulers that ask; a laptop's profile ignores the time.
RESOURCES = {
    "prepare_data": {"mem_mb": 2000, "runtime": 60},
    "finetune_backbone": {"mem_mb": 6000, "runtime": 720},
    "train_sweet": {"mem_mb": 6000, "runtime": 720},
    "train_multi_model": {"mem_mb": 6000, "runtime": 1440},
    "calibrate_thresholds": {"mem_mb": 4000, "runtime": 120},
    "evaluate_batch1": {"mem_mb": 4000, "runtime": 240},
    "make_tables": {"mem_mb": 2000, "runtime": 30},
}
ON_GPU = ("finetune_backbone", "train_sweet", "train_multi_model", "calibrate_thresholds", "evaluate_batch1")


def use_this_environment(base: str) -> None:
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


def only_run_here() -> None:
    """Refuse a second run in this folder. The lock goes with the process, however it ends."""
    global _run_lock
    _run_lock = FileLock("logs/.run.lock")
    try:
        _run_lock.acquire(timeout=0)
    except Timeout:
        raise SystemExit(
            "error: another run is working in this folder; wait for it to end or stop it"
        ) from None


_run_lock: FileLock | None = None


def checked_params() -> Params:
    """Load ``params.yaml``, or stop with the message that is meant for the user."""
    try:
        return load_params("params.yaml")
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


def cores(workflow: Any) -> int:
    """Return the cores given on the command line; calls that run nothing (``--report``, ``--lint``) may give none."""
    from snakemake.exceptions import WorkflowError

    try:
        return int(workflow.cores or 1)
    except WorkflowError:
        return 1


def threads(stage: StageNode, params: Params, cores: int) -> int:
    """Return the cores that a stage takes: all for one that measures wall-clock, else what its params say.

    A timing beside other work would be wrong; results never depend on how many cores there are.
    """
    if (
        stage.family == "evaluate_batch1"
        and int(stage.argument("seed") or -1) in params.evaluation.timed_seeds
    ):
        return cores
    return params.runtime.threads


def resources(stage: StageNode, params: Params) -> dict[str, Any]:
    """Return memory (MB), time limit (minutes) and GPUs of a stage; the profile allows one GPU at a time."""
    on_gpu = params.runtime.device == "cuda" or (
        params.runtime.device == "auto" and Path("/proc/driver/nvidia/version").exists()
    )
    gpus = int(on_gpu and stage.family in ON_GPU)
    return RESOURCES.get(stage.family, {"mem_mb": 2000, "runtime": 60}) | {"gpu": gpus}


def priority(stage: StageNode, kept: Path | None) -> int:
    """Put the cells first whose results are not kept in ``docs/results`` yet, for presets that run in slices."""
    values = [stage.argument(name) for name in ("task", "backbone", "seed")]
    if kept is None or None in values:
        return 0
    task, backbone, seed = map(str, values)
    cell = Cell(task, backbone, int(seed), stage.argument("method") or "full")
    return 0 if (cell.folder(kept) / "evaluation" / "metrics.json").is_file() else 10


def kept_folder(params: Params) -> Path | None:
    """Return the folder of kept records of the preset that ``params.yaml`` is, if it is one and has any."""
    for preset in sorted(Path("presets").glob("*.yaml")):
        folder = Path("docs/results") / preset.stem / "records"
        if folder.is_dir() and Params.model_validate(yaml.safe_load(preset.read_text("utf-8"))) == params:
            return folder
    return None
