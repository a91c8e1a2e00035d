"""The stages as DVC knows them: with `killed_dvc`, the only file that touches DVC's Python API.

Snakemake's rules are generated from what `read_graph` returns. Index and ``dvc.lock`` are read under DVC's own lock,
because DVC rewrites ``dvc.lock`` in place and a reader without the lock sometimes sees half a file.

    python -m adaptive_pipeline.dvc_graph    # name the stages that DVC would run, and those after them
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_inference.errors import UserError
from adaptive_pipeline import killed_dvc
from adaptive_pipeline.params import load_params, own_code

RECEIPTS = Path("receipts")
#: The stage on which all others depend. Nothing but its failure matters, since its output never changes, so it is no node:
#: Snakemake would schedule all that is after it (or, with ``ancient``, nothing: it masks what comes after a job that runs).
CHECK = "check_params"
CHECKED = Path(".params_checked")
CODE = ("src/", "pipeline_steps/")


@dataclass(frozen=True)
class StageNode:
    """One concrete stage of ``dvc.yaml``, its matrix resolved."""

    name: str  #: as DVC addresses it, e.g. ``train_sweet@tiers-minilm-sweet-0``
    command: str
    upstream: tuple[str, ...]  #: names of the stages whose outputs it reads
    signature: str  #: digest of the command, the stage's own params and the code that it depends on
    outs: dict[str, str | None]  #: path of each output -> its md5 in ``dvc.lock``
    #: DVC would run this stage for a reason of its own (not because one upstream will run); None: DVC did not answer
    stale: bool | None
    outs_gone: bool  #: an output was deleted or edited since it was made

    @property
    def family(self) -> str:
        """Return the name in ``dvc.yaml``."""
        return self.name.partition("@")[0]

    @property
    def receipt(self) -> str:
        """Return the file that tells Snakemake that the stage is done."""
        return receipt_path(self.name)

    def argument(self, name: str) -> str | None:
        """Return the value of an option of the command, e.g. ``seed``."""
        words = shlex.split(self.command)
        return words[words.index(f"--{name}") + 1] if f"--{name}" in words else None


def receipt_path(name: str) -> str:
    """Return the receipt of a stage, below the project's folder."""
    return (RECEIPTS / f"{name}.json").as_posix()


def read_graph(root: str | Path = ".", judge: bool = True) -> list[StageNode]:
    """Return all stages of the project's own ``dvc.yaml``, upstream first; those of ``search/`` are no part of a run.

    Nor is `CHECK`, which runs before all of them.

    Parameters
    ----------
    judge
        Ask DVC which stages are stale, as ``dvc status`` does. It does not answer while another process runs a stage; which
        outputs are gone is known all the same.
    """
    with _locked(root) as repo:
        graph = repo.index.graph
        status = _status(repo) if judge else None
        own = [stage for stage in graph if stage.path_in_repo == "dvc.yaml" and stage.addressing != CHECK]
        given = _Given(own)
        nodes = [
            _node(stage, graph, given, None if status is None else status.get(stage.addressing, []), judge)
            for stage in own
        ]
    return _sorted(nodes)


def mend_lock_files() -> None:
    """Keep copies of DVC's lock files, or bring them back (`killed_dvc`), as everything here does before it reads them."""
    with _locked("."):
        pass


def reproduce(stage: str) -> int:
    """Run a stage if DVC finds it stale, as ``dvc repro`` does, and return DVC's exit status."""
    from dvc.cli import main

    return int(main(["--wait-for-lock", "repro", "--single-item", stage]))


def stale_closure(nodes: list[StageNode]) -> list[str]:
    """Return the stages that would run: those stale by themselves and all that read from them."""
    run: set[str] = set()
    for node in nodes:
        if node.stale or run.intersection(node.upstream):
            run.add(node.name)
    return sorted(run)


def built_by_another_version() -> set[str]:
    """Return the stages whose entry in ``dvc.lock`` names code that is gone: they were built before it moved."""
    with _locked(".") as repo:
        locked = _stages(repo).lockfile_data
    code = {name: [dep["path"] for dep in entry.get("deps", [])] for name, entry in locked.items()}
    gone = {path for path in set().union(*code.values()) if path.startswith(CODE) and not Path(path).exists()}
    return {name for name, paths in code.items() if gone.intersection(paths)}


def drop_false_receipts(nodes: list[StageNode]) -> None:
    """Remove the receipts of outputs that are no longer there, which Snakemake cannot see.

    Changed params or code are not a reason: `signature` tells Snakemake of them, and changing them back must leave
    nothing to do. Safe at any time: a running stage has no receipt, since Snakemake removes it before the job.
    """
    for node in nodes:
        path = Path(node.receipt)
        if path.is_file() and (node.outs_gone or path.read_text(encoding="utf-8") != receipt_text(node.outs)):
            path.unlink(missing_ok=True)


def receipt_text(outs: dict[str, str | None]) -> str:
    """Return the receipt's content: each output and its md5, sorted; deterministic, and small enough for Snakemake."""
    return json.dumps(outs, indent=1, sort_keys=True) + "\n"


def write_receipt(name: str, path: Path, signature: str) -> None:
    """Write the receipt of a stage that ended well.

    Parameters
    ----------
    signature
        `StageNode.signature` as it was when the run began; with another one in ``dvc.lock`` the stage was built from params
        or code edited since, and a receipt would let Snakemake take it for what the run asked for.
    """
    with _locked(".") as repo:
        stages = _stages(repo)
        stage, locked = stages[name], stages.lockfile_data
        made = {
            os.path.join(repo.root_dir, out["path"])
            for other, entry in locked.items()
            if other != name
            for out in entry.get("outs", [])
        }
        outs, built = _outs(stage), _signature(stage, made, _Recorded())
    if built != signature:
        raise SystemExit(
            f"error: params or code of {name} were edited after this run began, so it was built from other ones; start the "
            "run again, and edit between runs"
        )
    missing = [out for out, md5 in outs.items() if md5 is None]
    if missing:
        raise SystemExit(
            f"error: dvc.lock has no entry for {', '.join(missing)} of {name}; run `dvc repro {name}`"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(receipt_text(outs), encoding="utf-8")


@contextmanager
def _locked(root: str | Path) -> Iterator[Any]:
    # No promised interface: dvc's minor version is pinned.
    from dvc.repo import Repo, lock_repo

    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        killed_dvc.mend_lock_files(repo.root_dir)
        yield repo


def _stages(repo: Any) -> Any:
    from dvc.dvcfile import load_file

    return load_file(repo, os.path.join(repo.root_dir, "dvc.yaml")).stages


def _status(repo: Any) -> dict[str, list[Any]] | None:
    """Return what ``dvc status`` says, stage -> reasons; None where it does not answer."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    killed_dvc.free_paths(repo)
    try:
        return dict(repo.status())
    except LockError:  # a stage is running
        return None
    except DvcException as error:
        raise SystemExit(f"error: {error}") from None


def _node(stage: Any, graph: Any, given: _Given, reasons: list[Any] | None, judge: bool) -> StageNode:
    # Without an answer each output is looked at: no answer never means that all is there.
    gone = judge and reasons is None and any(out.status() for out in stage.outs)
    produced = {out.fs_path for up in graph.successors(stage) for out in up.outs}
    return StageNode(
        name=stage.addressing,
        command=" ".join(stage.cmd.split()),
        upstream=tuple(sorted({up.addressing for up in graph.successors(stage)} - {CHECK})),
        signature=_signature(stage, produced, given),
        outs=_outs(stage),
        stale=None if reasons is None else bool(reasons),
        outs_gone=gone or any("changed outs" in reason for reason in reasons or []),
    )


def _outs(stage: Any) -> dict[str, str | None]:
    return {out.def_path: out.hash_info.value for out in stage.outs}


class _Given:
    """What the stages are given, each file read once: hundreds of stages share one params file and the same code."""

    def __init__(self, stages: list[Any]) -> None:
        from dvc.dependency.param import read_param_file

        wanted: dict[str, set[str]] = {}
        systems = {}
        for dep in (dep for stage in stages for dep in stage.deps if hasattr(dep, "read_params")):
            wanted.setdefault(dep.fs_path, set()).update(dep.params)
            systems[dep.fs_path] = dep.fs
        self._values = {
            path: read_param_file(systems[path], path, sorted(keys), flatten=True)
            for path, keys in wanted.items()
            if keys and systems[path].exists(path)
        }
        self._hashes: dict[str, str | None] = {}

    def values(self, dep: Any) -> dict[str, Any]:
        """Return the params of a dependency that its file has; all of the file, where it names none."""
        if not dep.params:
            return dict(dep.read_params())
        there = self._values.get(dep.fs_path, {})
        return {key: there[key] for key in dep.params if key in there}

    def hash(self, dep: Any) -> str | None:
        """Return DVC's digest of a file or folder."""
        if dep.fs_path not in self._hashes:
            self._hashes[dep.fs_path] = dep.get_hash().value
        return self._hashes[dep.fs_path]


class _Recorded:
    """What a stage was given when it was built, as ``dvc.lock`` has it."""

    def values(self, dep: Any) -> dict[str, Any]:
        """Return the params of a dependency."""
        return dict(dep.hash_info.value or {})

    def hash(self, dep: Any) -> str | None:
        """Return the digest of a file or folder."""
        return dep.hash_info.value


def _signature(stage: Any, produced: set[str], given: _Given | _Recorded) -> str:
    """Digest what a stage is given apart from other stages' outputs, which its receipts stand for."""
    parts: list[Any] = [stage.cmd]
    for dep in stage.deps:
        if hasattr(dep, "read_params"):
            values = given.values(dep)
            missing = sorted(set(dep.params) - set(values))
            if missing:
                raise SystemExit(
                    f"error: {dep.def_path} lacks {', '.join(missing)}, which dvc.yaml declares for {stage.addressing}; "
                    "add it (docs/params.md tells the defaults)"
                )
            parts.append(values)
        elif not any(_overlap(dep.fs_path, out) for out in produced):
            parts.append([dep.def_path, given.hash(dep)])
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _overlap(first: str, second: str) -> bool:
    return f"{first}{os.sep}".startswith(f"{second}{os.sep}") or f"{second}{os.sep}".startswith(
        f"{first}{os.sep}"
    )


def _sorted(nodes: list[StageNode]) -> list[StageNode]:
    """Order by depth in the graph, then by name."""
    by_name = {node.name: node for node in nodes}
    depth: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((level(up) for up in by_name[name].upstream), default=0)
        return depth[name]

    return sorted(nodes, key=lambda node: (level(node.name), node.name))


def main() -> None:
    """Mend DVC's lock files, whatever the params say; then name the stages that would run."""
    mend_lock_files()
    try:
        own_code.note(load_params())
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    graph = read_graph()
    if any(node.stale is None for node in graph):
        raise SystemExit(
            "error: a stage is running, and DVC does not answer before it has ended; ask again then"
        )
    print("\n".join(stale_closure(graph)))


if __name__ == "__main__":
    main()
