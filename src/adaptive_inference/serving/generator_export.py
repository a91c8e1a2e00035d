"""Gather a decoding method's run into one folder that can be loaded, copied and published. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptive_inference.errors import UserError
from adaptive_inference.files import check_form, write_text
from adaptive_inference.serving.card import CARD_FILE
from adaptive_inference.serving.export import check_empty, copy_files, has_weights, read_record
from adaptive_inference.serving.generator_card import Origin, render
from adaptive_inference.serving.generator_dir import RUN_ASSIGNED, open_generator
from adaptive_inference.serving.metadata import Dataset, Encoder
from adaptive_inference.settings.generation import TextModel, TextTask

#: Of a training: nothing that writes needs it.
LEFT_OUT = ("projection.safetensors",)
_FIX = "run the stage that writes it again"


def export_generator(run: Path, out: Path) -> None:
    """Write a run's decoder, how it is to write, and its card into a folder.

    Parameters
    ----------
    run
        A decoding method's run folder, with its calibration; see `generator_dir.open_generator`.
    out
        Made here; must not exist or be empty.

    Raises
    ------
    UserError
        There is no model, it is not calibrated, a record of it is of another version, or ``out`` holds something.
    """
    if not (run / RUN_ASSIGNED).is_file():
        raise UserError(
            f"{run} is a model's folder, and says of no method how to write; name the method's run folder, e.g. "
            "runs/TASK/MODEL/seed0/free"
        )
    saved = open_generator(run)
    if not has_weights(saved.home):
        raise UserError(f"{saved.home} holds no weights; train the model again")
    check_empty(out)
    card = render(saved, _origin(run, saved.home))
    copy_files(saved.home, out, LEFT_OUT)
    saved.decoding.save(out)
    write_text(out / CARD_FILE, card)


def _origin(run: Path, home: Path) -> Origin:
    """Return what the records of data and training say of the rows and of the weights before."""
    data, training = run.parent / "data/metrics.json", home.parent / "metrics.json"
    model = TextModel(**_section(training, "generation.models.", TextModel))
    task = TextTask(**_section(data, "generation.tasks.", TextTask))
    scratch = model.weights == "config"
    return Origin(None if scratch else Encoder.of(model), Dataset.of(task))


def _section(file: Path, prefix: str, form: type) -> Mapping[str, Any]:
    """Return the one section of the params that a record was made with."""
    params = read_record(file, _FIX).get("params")
    found = (
        [value for key, value in params.items() if key.startswith(prefix)] if isinstance(params, dict) else []
    )
    if len(found) != 1:
        raise UserError(f"{file} does not name one {prefix}NAME; {_FIX}")
    check_form(form, found[0], file, _FIX)
    return found[0]
