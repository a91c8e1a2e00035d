"""What Snakemake needs to know of a stage beyond the graph: threads, memory, order. Machines, never science."""

from __future__ import annotations

import os
import sys
from itertools import product
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rules
from adaptive_inference.objectives import load_objective
from adaptive_inference.settings.inputs import weights_kind
from adaptive_pipeline import presets
from adaptive_pipeline.dvc_graph import StageNode
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params, load_params
from adaptive_pipeline.runs.store import Runs, open_runs
from adaptive_pipeline.runs.validity import why_unusable

#: Memory (MB) and time limit (minutes) of a stage family; a laptop's profile ignores the time.
RESOURCES = {
    "prepare_data": {"mem_mb": 2000, "runtime": 60},
    "finetune_backbone": {"mem_mb": 6000, "runtime": 720},
    "train_sweet": {"mem_mb": 6000, "runtime": 720},
    "train_leebert": {"mem_mb": 6000, "runtime": 720},
    "train_multi_model": {"mem_mb": 6000, "runtime": 1440},
    "calibrate_thresholds": {"mem_mb": 4000, "runtime": 120},
    "evaluate_batch1": {"mem_mb": 4000, "runtime": 240},
    "make_tables": {"mem_mb": 2000, "runtime": 30},
}
SMALL_MB = 2000  # a stage with the packaged encoder, or a smaller one: 1.2 GB were measured
ON_GPU = (
    "finetune_backbone",
    "train_sweet",
    "train_leebert",
    "train_multi_model",
    "calibrate_thresholds",
    "evaluate_batch1",
)


def use_this_environment(base: str | Path) -> None:
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
            "error: another run or search is working in this folder; wait for it to end or stop it"
        ) from None


_run_lock: FileLock | None = None


def checked_params(encoders: bool = True) -> Params:
    """Load ``params.yaml``, or stop with the message that is meant for the user.

    Parameters
    ----------
    encoders
        Look at the encoders too, which takes seconds.
    """
    try:
        params = load_params("params.yaml")
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    # DVC joins the names of a cell with "-" and would silently keep one of two cells of the same name.
    joined = [f"{t}-{b}-{m}" for t in params.tasks for b in params.backbones for m in params.methods]
    twice = sorted({name for name in joined if joined.count(name) > 1})
    if twice:
        raise SystemExit(
            f"error: two cells would be named {', '.join(twice)}; rename a task, backbone or method"
        )
    check_rules(params)
    if encoders:
        check_bf16(params)
        check_exits(params)
    check_risk(params)
    linked = [path.as_posix() for path in Path("data").rglob("*") if path.is_symlink() and path.is_dir()]
    if linked:
        raise SystemExit(
            f"error: {', '.join(linked)} links to a folder, and DVC does not see changes behind such a link; "
            "make a folder and link the files into it (data/README.md)"
        )
    return params


def check_rules(params: Params) -> None:
    """Stop where a method's rules or objective do not fit a task, before anything is trained.

    An objective is loaded (and torch with it) only where its name does not tell.
    """
    for task in params.tasks.values():
        for name, method in params.methods.items():
            train, where = method.train, f"methods.{name}"
            try:
                if task.kind == "regression":
                    load_objective(train.objective, train).check_kind(task.kind)
                for rule in load_rules(method.rules).values():
                    certain = not rule.needs_certainty or rule.name == train.objective
                    rule.check(task.kind, certain or load_objective(train.objective, train).needs_certainty)
            except UserError as error:
                raise SystemExit(f"error: {where}: {error}") from None


def check_exits(params: Params) -> None:
    """Stop where a method's own exits do not fit an encoder or its objective, before anything is trained.

    The layers of a hub's checkpoint are known when `prepare_data` has fetched it; each training looks again.
    """
    own = {name: method.train for name, method in params.methods.items() if method.train.exits is not None}
    if not own:
        return
    from adaptive_inference.backbones.load import check_fit, layer_count

    at_hand = {
        at: backbone for at, backbone in params.backbones.items() if weights_kind(backbone.weights) != "hub"
    }
    for (at, backbone), (name, train) in product(at_hand.items(), own.items()):
        exits = train.exits or []
        try:
            for task, settings in params.tasks.items():
                check_fit(backbone, exits, task, settings.max_length)
            surgery = load_objective(train.objective, train).surgery
            surgery.check_exits(exits, layer_count(backbone.weights))
        except UserError as error:
            raise SystemExit(f"error: methods.{name} on backbones.{at}: {error}") from None


def check_bf16(params: Params) -> None:
    """Stop where an encoder that is at hand cannot be trained in bf16, before anything is trained."""
    if params.runtime.precision == "fp32":
        return
    from adaptive_inference.backbones.load import adapter, check_precision, load_config

    for name, backbone in params.backbones.items():
        if weights_kind(backbone.weights) != "hub":
            try:
                check_precision(adapter(load_config(backbone.weights).model_type), params.runtime.precision)
            except UserError as error:
                raise SystemExit(f"error: backbones.{name}: {error}") from None


def check_risk(params: Params) -> None:
    """Stop where a risk is to be certified on a task that has no such risk, or too few rows, before anything is trained."""
    risk = params.goal.risk
    if risk is None:
        return
    from adaptive_inference.calibration.risk_control import check_kind, check_rows
    from adaptive_inference.data.splits import most_calibration_rows

    for name, task in params.tasks.items():
        try:
            check_kind(task.kind)
            if params.calibration.calibrate_on == "calibration":
                check_rows(most_calibration_rows(task, Path("data")), risk.delta, risk.epsilon)
        except UserError as error:
            raise SystemExit(f"error: tasks.{name}: {error}") from None


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
    asked = RESOURCES.get(stage.family, {"mem_mb": 2000, "runtime": 60})
    backbone = params.backbones.get(stage.argument("backbone") or "")
    if backbone and weights_kind(backbone.weights) in ("packaged", "random"):
        asked = asked | {"mem_mb": min(SMALL_MB, asked["mem_mb"])}
    return asked | {"gpu": int(on_gpu and stage.family in ON_GPU)}


def limit_memory(workflow: Any) -> None:
    """Let no more stages run side by side than fit in this machine's memory; ``--resources mem_mb=N`` says otherwise."""
    given = workflow.global_resources
    if (
        given.get("mem_mb").value is None and given.get("_nodes").value is None
    ):  # nodes: of a cluster, not this machine
        workflow.register_resource("mem_mb", psutil.virtual_memory().total // 10**6)


def unkept(stages: list[StageNode], params: Params) -> set[str]:
    """Return the evaluations that ``docs/results`` keeps no valid record of; all, if the params are no preset's.

    A preset that takes hours is run in slices; a run starts with what is missing.
    """
    try:
        name = presets.preset_of(params)
        runs = open_runs(presets.records_folder(name)) if name else Runs(Path(), {})
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    return {
        stage.name
        for stage in stages
        if stage.family == "evaluate_batch1" and why_unusable(stage.family, _cell(stage), runs, params)
    }


def with_upstream(names: set[str], stages: list[StageNode]) -> set[str]:
    """Return the named stages and all that they read from."""
    found = set(names)
    for stage in reversed(stages):  # upstream comes first in `stages`
        if stage.name in found:
            found.update(stage.upstream)
    return found


def _cell(stage: StageNode) -> Cell:
    task, backbone, seed, method = (
        str(stage.argument(key)) for key in ("task", "backbone", "seed", "method")
    )
    return Cell(task, backbone, int(seed), method)
