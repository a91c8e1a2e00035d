"""Hyper-parameter search by cross-validation: which grid is on, and its winner into ``params.yaml``; see docs/search.md.

python -m adaptive_pipeline.search list
python -m adaptive_pipeline.search plan leebert     # check search/leebert.yaml and make it the search of search/dvc.yaml
python -m adaptive_pipeline.search run leebert      # that, its trainings, and what they gave
python -m adaptive_pipeline.search show leebert     # all points, and the winner
python -m adaptive_pipeline.search apply leebert    # the winner into params.yaml (or a patch file's name)
python -m adaptive_pipeline.search clear            # no search is on
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml
from ruamel.yaml import YAML

from adaptive_inference.errors import UserError, nearest
from adaptive_inference.files import write_text
from adaptive_pipeline import dvc_graph, one_run, prefork
from adaptive_pipeline.grid import as_name
from adaptive_pipeline.params import load_params, parse_params
from adaptive_pipeline.params.yaml_file import read_yaml
from adaptive_pipeline.search.patch import patched, set_keys, to_yaml
from adaptive_pipeline.search.plan import Plan, Search, plan, read_section

FOLDER = Path("search")
PLAN = FOLDER / "params.yaml"
CURRENT = Path("params.yaml")
HEAD = "# Written by adaptive_pipeline.search: the search whose stages search/dvc.yaml has. No search: empty lists.\n"


def names() -> list[str]:
    """Return the names of all grid files."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.name not in ("dvc.yaml", PLAN.name))


def grid_path(name: str) -> Path:
    """Return a grid's file, or refuse with the nearest name."""
    if name not in names():
        given = f"no grid {name!r} in {FOLDER}/" if name else "which grid? Give NAME=..."
        raise UserError(f"{given}; allowed: {', '.join(names())}{nearest(name, names()) if name else ''}")
    return FOLDER / f"{as_name(name)}.yaml"


def plan_text(planned: Plan) -> str:
    """Return the file that DVC reads."""
    return HEAD + to_yaml(planned.model_dump(exclude_none=True))


def start(name: str) -> None:
    """Check a grid against ``params.yaml`` and make it the search that is on."""
    path = grid_path(name)
    planned = plan(name, read_section(Search, path), load_params(CURRENT), path.as_posix())
    write_text(PLAN, plan_text(planned))
    points, folds = len(planned.points), len(planned.folds)
    print(f"{points} points x {folds} folds = {points * folds} trainings of {planned.method!r}")


def run(name: str) -> None:
    """Plan a search, train what is missing of it, and show its results; never beside a run in this folder.

    Both would slow each other down, and a run measures wall-clock.
    """
    one_run.use_this_environment(Path.cwd())
    lock = one_run.only_run_here()
    start(name)
    dvc_graph.mend_lock_files()
    # On Ctrl-C DVC ends first. A handler, unlike SIG_IGN, is not what DVC and the trainings inherit.
    signal.signal(signal.SIGINT, lambda *_: None)
    prefork.start(load_params(CURRENT).runtime.threads)
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "search/dvc.yaml"]
    status = subprocess.run(command, pass_fds=[lock], check=False).returncode
    os.environ.pop(prefork.ADDRESS, None)
    if status:
        sys.exit(status)
    show(name)


def show(name: str) -> None:
    """Print the results of a search."""
    grid_path(name)
    results = FOLDER / name / "results"
    for file in (results / "results.csv", results / "patch.yaml"):
        if not file.is_file():
            raise UserError(f"{file} is missing; `make search NAME={name}` makes it")
        print(file.read_text(encoding="utf-8"))


def patch_path(name: str) -> Path:
    """Return a patch file, given its path or the name of its search."""
    if name.endswith(".yaml"):
        return Path(name)
    patch = FOLDER / grid_path(name).stem / "results" / "patch.yaml"
    if not patch.is_file():
        raise UserError(f"{patch} is missing; `make search NAME={name}` makes it")
    return patch


def apply(patch_file: Path) -> None:
    """Set the keys of a patch in ``params.yaml``; comments and layout stay."""
    if not isinstance(read_yaml(patch_file), dict):
        raise UserError(f"{patch_file} is no patch: a mapping of dotted keys to values")
    editor = YAML()
    editor.width, editor.preserve_quotes = 1000, True
    patch = editor.load(patch_file.read_text(encoding="utf-8"))
    wanted = patched(load_params(CURRENT), patch, patch_file.as_posix())
    body, stream = editor.load(CURRENT.read_text(encoding="utf-8")), io.StringIO()
    set_keys(body, patch)
    editor.dump(body, stream)
    if parse_params(yaml.safe_load(stream.getvalue())) != wanted:
        raise UserError(
            f"cannot edit {CURRENT} without changing more than the patch; set these keys by hand:\n{patch}"
        )
    write_text(CURRENT, stream.getvalue())
    print(f"{len(patch)} keys of {CURRENT} set; `git diff {CURRENT}` shows what changed")


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["list", "run", "plan", "show", "apply", "clear"])
    parser.add_argument("name", nargs="?", default="", help="of a grid; for `apply`, also a patch file")
    args = parser.parse_args()
    try:
        if args.command == "list":
            print("\n".join(names()))
        elif args.command == "run":
            run(args.name)
        elif args.command == "plan":
            start(args.name)
        elif args.command == "show":
            show(args.name)
        elif args.command == "apply":
            apply(patch_path(args.name))
        else:
            write_text(PLAN, plan_text(Plan()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
