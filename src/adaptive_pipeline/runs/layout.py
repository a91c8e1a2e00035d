"""Where the stages of a cell read and write below ``runs``, as ``dvc.yaml`` says too (a test holds the two equal)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from adaptive_pipeline.grid import TRAINING_STAGES, Cell

RUNS = Path("runs")
#: Input of a stage -> its path below the folder of task, backbone and seed.
INPUTS = {
    "data": "data/splits",
    "full": "full/train/model",
    "model": "{method}/train/model",
    "answers": "{method}/answers",
    "full_answers": "full/answers",
    "calibration": "{method}/calibration/calibration.json",
}
#: Stage -> the folder that it writes, below the method's (`prepare_data`: the seed's).
FOLDERS = {
    "prepare_data": "data",
    **dict.fromkeys(("finetune_backbone", *TRAINING_STAGES), "train"),
    "collect_answers": "answers",
    "calibrate_thresholds": "calibration",
    "evaluate_batch1": "evaluation",
}


def input_path(name: str, cell: Cell) -> Path:
    """Return what a stage reads under the name of an input."""
    return replace(cell, method="").folder(RUNS) / INPUTS[name].format(method=cell.method)


def out_path(stage: str, cell: Cell) -> Path:
    """Return the folder that a stage writes."""
    cell = replace(cell, method="full") if stage == "finetune_backbone" else cell
    return cell.folder(RUNS) / FOLDERS[stage]


def timings_path(stage: str, cell: Cell) -> Path:
    """Return the file of a stage's figures that depend on the clock."""
    out = out_path(stage, cell)
    return out.with_name("timings.json" if stage == "evaluate_batch1" else f"{out.name}_timings.json")
