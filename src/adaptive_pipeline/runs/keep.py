"""Put the records of finished stages, and what tables read beside them, to where git keeps them.

A preset that takes hours is run in slices: after each slice its records (figures and answers: no weights, no training
curves, no text of examples) go to docs/results/PRESET/records/, one file per task, backbone and seed, and are committed;
tables and figures are rebuilt from them alone. What is kept already stays, unless the same stage has finished again.

    python -m adaptive_pipeline.runs.keep
    python -m adaptive_pipeline.runs.keep --runs runs --out docs/results/mine/records
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from adaptive_inference.calibration.answers import Answers
from adaptive_inference.errors import UserError
from adaptive_inference.tasks.quality import predict
from adaptive_pipeline.params import Params, load_params
from adaptive_pipeline.presets import preset_of, records_folder
from adaptive_pipeline.runs.digests import digest_path
from adaptive_pipeline.runs.layout import out_path
from adaptive_pipeline.runs.store import (
    KEPT,
    Finished,
    Key,
    Runs,
    kept_file,
    open_runs,
    read_kept,
    write_kept,
)
from adaptive_pipeline.runs.validity import TEXT_STAGES, asked_for, training_key, why_unusable


def keep_records(root: Path, out: Path, params: Params) -> tuple[int, int]:
    """Keep every record below ``root`` that belongs to the params, as do all that it stands on.

    Where a model lies beside its records, they must be of that very model: one that was trained again since leaves
    older evaluations out.

    Returns
    -------
    kept, left
        Number of records kept, and of those that other params or models made.
    """
    runs = open_runs(root)
    keepable = {key: item for key, item in runs.finished.items() if key[0] in KEPT}
    retrained = _retrained(runs, params)
    fit = [
        _with_exit_answers(item)
        for (stage, cell), item in keepable.items()
        if asked_for(stage, cell, params)
        and (stage, cell) not in retrained
        and not why_unusable(stage, cell, runs, params)
    ]
    files: dict[Path, list[Finished]] = defaultdict(list)
    for item in fit:
        files[kept_file(out, item.record.cell)].append(item)
    for file, items in files.items():
        there = read_kept(file) if file.is_file() else []
        write_kept(file, {item.key: item for item in (*there, *items)}.values())
    return len(fit), len(keepable) - len(fit)


def _with_exit_answers(item: Finished) -> Finished:
    """Add to an evaluation what each exit answered to each row, from the stage before it, if it was of this very model.

    ``exit_answers``: ``exits``, their layers, and ``classes``, for each of them a class per row, in the order of
    ``predictions``. Of a regression nothing: scores are as long as all else together.
    """
    if item.key[0] != "evaluate_batch1" or item.folder is None:
        return item
    file = (
        item.folder.with_name(out_path("collect_answers", item.record.cell).name) / "evaluation.safetensors"
    )
    if not file.is_file():
        return item
    answers = Answers.load(file)
    kind, same_model = answers.yardstick.kind, answers.made_from.get("model") == item.record.inputs["model"]
    if kind != "classification" or not same_model:
        return item
    classes = predict(answers.outputs.logits, kind).T
    return replace(item, at_hand={"exit_answers": {"exits": answers.outputs.exits, "classes": classes}})


def _retrained(runs: Runs, params: Params) -> set[Key]:
    """Return the keys of the stages that read a model which is no longer the one that lies there."""
    models: dict[Path, str] = {}
    found = set()
    for key, record in runs.records.items():
        read = record.inputs.get("model")
        asked = read and asked_for(*key, params)
        training = runs.folder(*training_key(key[1], params, key[0] in TEXT_STAGES)) if asked else None
        if read and training and (training / "model").is_dir():
            if training not in models:
                models[training] = digest_path(training / "model")
            if models[training] != read:
                found.add(key)
    return found


def default_out(params: Params) -> Path:
    """Return ``docs/results/PRESET/records`` for the preset that the params are."""
    name = preset_of(params)
    if name is None:
        raise UserError(
            "params.yaml is none of the presets; say where to with --out docs/results/NAME/records"
        )
    return records_folder(name)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", default="params.yaml", help="params file (default: params.yaml)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of the results (default: runs)"
    )
    parser.add_argument("--out", type=Path, help="folder to keep them in (default: that of the preset)")
    return parser.parse_args()


def main() -> None:
    """Keep, and say what was done."""
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
