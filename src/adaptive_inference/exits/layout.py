"""Where a saved model lies and what it says of itself: its files, its kind, the version of their form. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_inference.errors import UserError
from adaptive_inference.files import read_json

#: Version of the form of a model folder, config.json's ``format``; docs/compatibility.md says what it promises.
FORMAT = 1
#: Values of ``kind`` in a model's config.json.
MULTI_EXIT, MULTI_MODEL = KINDS = ("multi_exit", "multi_model")
CONFIG_FILE, CALIBRATION_FILE = "config.json", "calibration.json"
#: A method's run folder, as an experiment leaves it: where its model, its calibration and the record of its evaluation lie.
RUN_MODEL = Path("train/model")
RUN_CALIBRATION, RUN_EVALUATION = Path("calibration") / CALIBRATION_FILE, Path("evaluation/metrics.json")


@dataclass(frozen=True)
class SavedModel:
    """A model folder that this code can read.

    Attributes
    ----------
    home
        Where its ``config.json`` lies.
    config
        Content of ``config.json``.
    calibration
        Content of ``calibration.json``, or None.
    evaluation
        Where the record of its evaluation lies, in a method's run folder that has one.
    """

    home: Path
    config: dict[str, Any]
    calibration: dict[str, Any] | None
    evaluation: Path | None = None


def open_model(folder: str | Path, kind: str | None = None) -> SavedModel:
    """Find the model of a model folder, or of a method's run folder, and read what is no weight.

    Raises
    ------
    UserError
        There is none, or it is of another format, or of another kind than ``kind``.
    """
    home, run = _locate(Path(folder))
    file = home / CONFIG_FILE
    config = read_json(file)
    found, version = config.get("kind"), config.get("format", 0)
    if found not in KINDS:
        raise UserError(f"{file} is of kind {found!r}; a model saved by this project is {' or '.join(KINDS)}")
    if version != FORMAT:
        raise UserError(
            f"{file} is of format {version}, and this adaptive-inference reads format {FORMAT}: use the release that wrote "
            "it, or train the model again"
        )
    if kind not in (None, found):
        raise UserError(f"{home} holds a model of kind {found}, not {kind}; load_model takes either")
    calibration = home / CALIBRATION_FILE if run is None else run / RUN_CALIBRATION
    evaluation = None if run is None else run / RUN_EVALUATION
    return SavedModel(
        home,
        config,
        read_json(calibration) if calibration.is_file() else None,
        evaluation if evaluation and evaluation.is_file() else None,
    )


def _locate(folder: Path) -> tuple[Path, Path | None]:
    """Return the model folder, and the method's run folder that it is part of; None: it was named by itself."""
    for home, run in (
        (folder, None),
        (folder / RUN_MODEL, folder),
        (folder / RUN_MODEL.name, folder.parent),
    ):
        if (home / CONFIG_FILE).is_file():
            return home, run
    raise UserError(
        f"{folder} holds no saved model (no {CONFIG_FILE}, nor {RUN_MODEL}/{CONFIG_FILE} below it); name a folder written "
        "by save_pretrained or `adaptive-inference export`, or a method's run folder such as runs/TASK/BACKBONE/seed0/sweet"
    )
