"""Where a model lies: names of the files in a model folder, and which folders count as one. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from adaptive_inference.errors import UserError

#: Values of ``kind`` in a model's config.json.
MULTI_EXIT, MULTI_MODEL = "multi_exit", "multi_model"
CALIBRATION_FILE, CARD_FILE = "calibration.json", "README.md"


def locate(folder: Path) -> tuple[Path, Path | None]:
    """Return the model folder and the calibration file of a model folder or of a method's run folder."""
    for home, calibration in (
        (folder, folder / CALIBRATION_FILE),
        (folder / "train" / "model", folder / "calibration" / CALIBRATION_FILE),
        (folder / "model", folder.parent / "calibration" / CALIBRATION_FILE),
    ):
        if (home / "config.json").is_file():
            return home, calibration if calibration.is_file() else None
    raise UserError(
        f"{folder} holds no saved model (no config.json, nor train/model/config.json below it); name a folder written "
        "by save_pretrained or `adaptive-inference export`, or a run folder such as runs/TASK/BACKBONE/seed0/sweet"
    )
