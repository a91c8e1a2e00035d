"""What the stages that decode share: the model that was assigned to a method, and its policy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.files import read_json
from adaptive_pipeline.runs.layout import TRAININGS_BESIDE

if TYPE_CHECKING:
    from adaptive_pipeline.stage import Stage


def assigned_model(stage: Stage) -> tuple[Path, dict[str, str]]:
    """Take the model that was assigned to the stage's method as an input.

    Returns
    -------
    folder, made_from
        Of the model; and what it must be still, for `Stage.begin`.
    """
    note: dict[str, Any] = read_json(stage.inputs["assigned"])
    folder = stage.inputs["assigned"].parent / TRAININGS_BESIDE / note["training"] / "train/model"
    return stage.add_input("model", Path(os.path.normpath(folder))), {"model": note["digest"]}


def decoding_keys(stage: Stage) -> tuple[str, ...]:
    """Return the params that decoding with a method depends on, dotted."""
    keys = (f"methods.{stage.cell.method}", "calibration", "evaluation")
    return (*(f"generation.{key}" for key in keys), "runtime")
