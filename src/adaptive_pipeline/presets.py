"""Presets: whole ``params.yaml`` files with names.

python -m adaptive_pipeline.presets list
python -m adaptive_pipeline.presets use smoke              # make it the current params.yaml
python -m adaptive_pipeline.presets results sst2-minilm    # rebuild docs/results/sst2-minilm from its kept records
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from adaptive_inference.errors import UserError, nearest
from adaptive_pipeline.params import Params, load_params

PRESETS = Path("presets")
RESULTS = Path("docs/results")
CURRENT = Path("params.yaml")


def names() -> list[str]:
    """Return the names of all presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """Return a preset's file, or refuse with the nearest name."""
    if name not in names():
        given = f"no preset {name!r}" if name else "which preset? Give NAME=..."
        raise UserError(f"{given}; allowed: {', '.join(names())}{nearest(name, names()) if name else ''}")
    return PRESETS / f"{name}.yaml"


def preset_of(params: Params) -> str | None:
    """Return the name of the preset that has these values, if one has."""
    return next((name for name in names() if _loaded(name) == params), None)


def _loaded(name: str) -> Params | None:
    """Load a preset; one that is being written, and not valid yet, is nobody's params."""
    try:
        return load_params(preset_path(name))
    except UserError:
        return None


def records_folder(name: str) -> Path:
    """Return where the kept records of a preset are."""
    return RESULTS / name / "records"


def use(name: str) -> None:
    """Copy a preset over ``params.yaml``; edits that are nowhere else are put aside first."""
    new = preset_path(name).read_text(encoding="utf-8")
    load_params(preset_path(name))
    old = CURRENT.read_text(encoding="utf-8") if CURRENT.is_file() else new
    kept = [preset_path(other) for other in names()] + sorted(Path().glob("params.previous*.yaml"))
    known = {path.read_text(encoding="utf-8") for path in kept} | {_committed(CURRENT)}
    if old not in known:
        aside = _unused("params.previous")
        aside.write_text(old, encoding="utf-8")
        print(f"your edited {CURRENT} is kept as {aside}")
    CURRENT.write_text(new, encoding="utf-8")
    print(
        f"{CURRENT} is now the preset {name!r}; `git diff {CURRENT}` shows what changed, `make run` runs it"
    )


def _unused(stem: str) -> Path:
    numbered = (CURRENT.with_name(f"{stem}{number}.yaml") for number in range(2, 1000))
    return next(path for path in (CURRENT.with_name(f"{stem}.yaml"), *numbered) if not path.exists())


def rebuild_results(name: str) -> int:
    """Make the tables and figures of a preset from its kept records; missing cells are named."""
    params, records = preset_path(name), records_folder(name)
    if not records.is_dir():
        raise UserError(f"{records} is missing: nothing of {name!r} was kept; run it, then `make keep`")
    command = [
        "pipeline_steps/make_tables.py",
        "--params",
        params,
        "--runs",
        records,
        "--out",
        records.parent,
    ]
    return subprocess.run([sys.executable, *map(str, command)], check=False).returncode


def _committed(path: Path) -> str:
    shown = subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True, text=True, check=False)
    return shown.stdout


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["list", "use", "results"])
    parser.add_argument("name", nargs="?", default="")
    args = parser.parse_args()
    try:
        if args.command == "list":
            print("\n".join(names()))
        elif args.command == "use":
            use(args.name)
        else:
            sys.exit(rebuild_results(args.name))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
