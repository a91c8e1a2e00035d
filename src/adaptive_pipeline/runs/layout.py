"""Where the stages of a cell read and write below ``runs``, as ``dvc.yaml`` says too (a test holds the two equal)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from adaptive_pipeline.grid import TRAINING_STAGES, Cell

RUNS = Path("runs")
#: What `extract_saliencies` writes into its folder, beside its record.
SCORES_FILE = "scores.safetensors"
#: Beside the seeds, whose folders hold methods: what serves a whole seed.
_RECOMMENDED = "../recommended/seed{seed}"
_TOKEN_SCORES = "../token_scores/seed{seed}"
#: Input of a stage -> its path from the folder of task, backbone and seed.
INPUTS = {
    "data": "data/splits",
    "full": "full/train/model",
    "model": "{method}/train/model",
    "answers": "{method}/answers",
    "full_answers": "full/answers",
    "calibration": "{method}/calibration/calibration.json",
    "candidates": "candidates",
    "choice": f"{_RECOMMENDED}/choice",
    "methods": "",
    "deployed": f"{_RECOMMENDED}/deployed",
    "saliencies": f"{_TOKEN_SCORES}/saliency/{SCORES_FILE}",
    "pruned": "{pruned_body}/train/model",
    "tokenizer": "data/tokenizer",
    "trainings": "trainings",
    "assigned": "{method}/assigned/model.json",
    "decoding": "{method}/calibration/metrics.json",
    "texts": "{method}/texts/answers.jsonl",
}
#: Inputs of which a stage reads parts that it finds out: those it adds and digests itself.
WHOLE = ("methods", "trainings")
#: Input -> what stands for it in ``dvc.yaml``: candidates name, by digest, the models and answers they were made from.
STAND_FOR = {"methods": ("data", "candidates")}
#: Stage -> the folder that it writes, from there.
FOLDERS = {
    "prepare_data": "data",
    **dict.fromkeys(("finetune_backbone", *TRAINING_STAGES), "{method}/train"),
    "collect_answers": "{method}/answers",
    "calibrate_thresholds": "{method}/calibration",
    "evaluate_batch1": "{method}/evaluation",
    "recommend": f"{_RECOMMENDED}/choice",
    "evaluate_recommended": f"{_RECOMMENDED}/evaluation",
    "export_model": f"{_RECOMMENDED}/deployed",
    "choose_deployment": f"{_RECOMMENDED}/deployment",
    "extract_saliencies": f"{_TOKEN_SCORES}/{{method}}",
    "score_rationales": "../rationales/seed{seed}/{method}",
    "prepare_texts": "data",
    "train_free": "trainings/{method}/train",
    "assign_model": "{method}/assigned",
    "calibrate_decoding": "{method}/calibration",
    "answer_texts": "{method}/texts",
    "evaluate_decoding": "{method}/evaluation",
}
#: From the folder that `assign_model` writes to that of all trainings of the seed.
TRAININGS_BESIDE = Path("../../trainings")
#: What a stage writes beside its folder, from there.
FILES = {"candidates": "candidates/{method}.safetensors"}


def input_path(name: str, cell: Cell, pruned_body: str = "") -> Path:
    """Return what a stage reads under the name of an input; ``pruned_body`` is that of the params."""
    return _place(INPUTS[name], cell, pruned_body)


def file_path(name: str, cell: Cell) -> Path:
    """Return where a stage writes one of `FILES`."""
    return _place(FILES[name], cell)


def out_path(stage: str, cell: Cell) -> Path:
    """Return the folder that a stage writes."""
    return _place(FOLDERS[stage], replace(cell, method="full") if stage == "finetune_backbone" else cell)


def timings_path(stage: str, cell: Cell) -> Path:
    """Return the file of a stage's figures that depend on the clock."""
    out = out_path(stage, cell)
    return out.with_name("timings.json" if out.name == "evaluation" else f"{out.name}_timings.json")


def _place(pattern: str, cell: Cell, pruned_body: str = "") -> Path:
    folder = replace(cell, method="").folder(RUNS)
    names = {"method": cell.method, "seed": cell.seed, "pruned_body": pruned_body}
    return Path(os.path.normpath(folder / pattern.format(**names)))
