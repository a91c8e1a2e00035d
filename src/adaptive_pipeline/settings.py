"""What Snakemake needs to know of a stage beyond the graph: threads, memory, order. Machines, never science."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import weights_kind
from adaptive_pipeline import presets
from adaptive_pipeline.dvc_graph import CHECK, CHECKED, StageNode
from adaptive_pipeline.families import FAMILIES
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params, own_code, preflight
from adaptive_pipeline.runs.store import Runs, open_runs
from adaptive_pipeline.runs.validity import why_unusable

SMALL_MB = 2000  # a stage with the packaged encoder, or a smaller one: 1.2 GB were measured


def checked_params(encoders: bool) -> Params:
    """Load and check ``params.yaml`` (`preflight`), or stop with the message that is meant for the user.

    With ``encoders``, all of it, and code of one's own is noted: DVC judges by what `own_code.note` writes.
    """
    try:
        params = preflight.checked_params("params.yaml", encoders)
        if encoders:  # the parse of a run, not of one of its jobs
            own_code.note(params)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    return params


def note_checked() -> None:
    """Run the stage that checks the params, which is no rule: DVC runs no other before it.

    Snakemake has checked them itself. Where DVC refuses, since a stage that outlived an earlier run still reads what this
    one writes, that file is there and as good as the new one.
    """
    command = ["dvc", "--wait-for-lock", "repro", "--single-item", CHECK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not CHECKED.is_file():
        raise SystemExit(done.stderr)


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
    family = FAMILIES[stage.family]
    timed = family.timed
    if timed and stage.argument("backbone") and not family.every_seed:  # of texts, every seed is timed
        timed = int(stage.argument("seed") or -1) in params.evaluation.timed_seeds
    return cores if timed else params.runtime.threads


def resources(stage: StageNode, params: Params) -> dict[str, Any]:
    """Return memory (MB), time limit (minutes) and GPUs of a stage; the profile allows one GPU at a time."""
    on_gpu = params.runtime.device == "cuda" or (
        params.runtime.device == "auto" and Path("/proc/driver/nvidia/version").exists()
    )
    family = FAMILIES[stage.family]
    backbone = params.backbones.get(stage.argument("backbone") or "")
    small = backbone and (backbone.weights == "packaged" or weights_kind(backbone.weights) == "random")
    memory = min(SMALL_MB, family.mem_mb) if small else family.mem_mb
    return {"mem_mb": memory, "runtime": family.runtime, "gpu": int(on_gpu and family.gpu)}


def limit_memory(workflow: Any) -> None:
    """Let no more stages run side by side than fit in this machine's memory; ``--resources mem_mb=N`` says otherwise."""
    given = workflow.global_resources
    if (
        given.get("mem_mb").value is None and given.get("_nodes").value is None
    ):  # nodes: of a cluster, not this machine
        workflow.register_resource("mem_mb", psutil.virtual_memory().total // 10**6)


def unkept(stages: list[StageNode], params: Params) -> set[str]:
    """Return the evaluations and explanations that ``docs/results`` keeps no valid record of; all, if of no preset.

    A preset that takes hours is run in slices; a run starts with what is missing. A kept file that cannot be read keeps
    nothing, which is said: it decides no more than the order of a run.
    """
    name, runs = presets.preset_of(params), Runs(Path(), {})
    try:
        runs = open_runs(presets.records_folder(name)) if name else runs
    except UserError as error:
        print(f"adaptive-inference: kept results are not looked at: {error}", file=sys.stderr)
    return {
        stage.name
        for stage in stages
        if FAMILIES[stage.family].end and why_unusable(stage.family, _cell(stage), runs, params)
    }


def with_upstream(names: set[str], stages: list[StageNode]) -> set[str]:
    """Return the named stages and all that they read from."""
    found = set(names)
    for stage in reversed(stages):  # upstream comes first in `stages`
        if stage.name in found:
            found.update(stage.upstream)
    return found


def priorities(stages: list[StageNode], first: set[str], chains: Mapping[str, float]) -> dict[str, int]:
    """Return each stage's priority: of those named ``first`` before all others, the one whose chain takes longest.

    Snakemake runs those together whose priorities have the largest sum, so one of the first outweighs all others.

    Parameters
    ----------
    chains
        Seconds of the stages that are to run, see `progress.longest_chains`.
    """
    ranks = {stage.name: int(chains.get(stage.name, 0.0)) for stage in stages}
    step = 1 + sum(ranks.values())
    return {name: rank + step * (name in first) for name, rank in ranks.items()}


def _cell(stage: StageNode) -> Cell:
    model = stage.argument("backbone") or stage.argument("model")
    task, seed, method = (str(stage.argument(key)) for key in ("task", "seed", "method"))
    return Cell(task, str(model), int(seed), method)
