"""Copy the small records of finished stages to where git keeps them.

A preset that takes hours is run in slices: after each slice its records (figures only: no weights, no text of examples)
go to docs/results/PRESET/records/ and are committed; tables and figures are rebuilt from them alone.

    python -m adaptive_pipeline.runs.keep
    python -m adaptive_pipeline.runs.keep --runs runs --out docs/results/mine/records
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params, load_params
from adaptive_pipeline.runs.records import digest_path
from adaptive_pipeline.runs.validity import read_records, why_unusable

#: All that is kept of a stage; timings lie beside the stage's folder.
KEPT = (
    "metrics.json",
    "history.jsonl",
    "weights.jsonl",
    "calibration.json",
    "curves.json",
    "predictions.json",
)
KEPT_BESIDE = ("timings.json", "train_timings.json")


def keep_records(runs: Path, out: Path, params: Params) -> tuple[int, int]:
    """Copy every record that belongs to the params, as do all that it stands on.

    Where a model lies beside its records, they must be of that very model: one that was trained again since leaves
    older evaluations out.

    Returns
    -------
    kept, left
        Number of records copied, and of those that other params made.
    """
    kept = left = 0
    found = read_records(runs)
    models: dict[Path, str] = {}
    for (stage, cell), (record, folder) in found.items():
        where = folder.relative_to(runs)
        model = folder.parent / "train" / "model"
        if model.is_dir() and "model" in record.inputs and model not in models:
            models[model] = digest_path(model)
        retrained = model in models and record.inputs.get("model", models[model]) != models[model]
        if not in_grid(cell, params) or why_unusable(stage, cell, found, params) or retrained:
            left += 1
            continue
        kept += 1
        (out / where).mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            _copy(folder / name, out / where / name)
        for name in KEPT_BESIDE:
            _copy(folder.parent / name, out / where.parent / name)
    return kept, left


def in_grid(cell: Cell, params: Params) -> bool:
    """Return whether the params ask for a cell."""
    grid = cell.task in params.tasks and cell.backbone in params.backbones and cell.seed in params.seeds
    return grid and (not cell.method or cell.method in params.methods)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        shutil.copyfile(source, target)


def default_out(params: Params) -> Path:
    """Return ``docs/results/PRESET/records`` for the preset that the params are."""
    for preset in sorted(Path("presets").glob("*.yaml")):
        with contextlib.suppress(UserError):  # one that is not valid is none that was run
            if load_params(preset) == params:
                return Path("docs/results") / preset.stem / "records"
    raise UserError("params.yaml is none of the presets; say where to with --out docs/results/NAME/records")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", default="params.yaml", help="params file (default: params.yaml)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of the results (default: runs)"
    )
    parser.add_argument("--out", type=Path, help="folder to copy to (default: that of the preset)")
    return parser.parse_args()


def main() -> None:
    """Copy and say what was done."""
    args = parse_args()
    try:
        params = load_params(args.params)
        out = args.out or default_out(params)
        kept, left = keep_records(args.runs, out, params)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{kept} records kept in {out}" + (f"; {left} of other params left out" if left else ""))


if __name__ == "__main__":
    main()
