"""What a run was given, under the same names for every method: its name, tags and parameters, from the records alone.

A record holds the keys that its stage depends on, each without what equals the default. Compared side by side such
parameters have other names for each method (``methods.pabee.train.weights``) and gaps where a default holds. Here the
names of tasks, backbones and methods leave the keys, and defaults are filled in.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from adaptive_inference.errors import UserError
from adaptive_inference.settings.generation import (
    DecodingMethod,
    Generation,
    LossTraining,
    TextModel,
    TextTask,
)
from adaptive_inference.settings.inputs import Backbone, Task
from adaptive_inference.settings.training import (
    OURS,
    READ_BY,
    MethodTraining,
    TaskTraining,
    Training,
    effective,
)
from adaptive_pipeline.params import Params
from adaptive_pipeline.runs import layout
from adaptive_pipeline.runs.records import RECORD_FILE, Record, TrainingRecord
from adaptive_pipeline.runs.store import TRAIN_STAGES, shown_cell

#: Stage -> how a reader is told of it; any other: its name, with spaces.
WORDS = {
    **dict.fromkeys(TRAIN_STAGES, "train"),
    "calibrate_thresholds": "calibrate",
    "evaluate_batch1": "evaluate",
}
#: Mapping of the params -> how its entries are called once their own name is left out, and their class.
ENTRIES: dict[str, tuple[str, type[BaseModel] | None]] = {
    "tasks": ("task", Task),
    "backbones": ("backbone", Backbone),
    "methods": ("", None),
}
#: The same of `generation`.
TEXT_ENTRIES: dict[str, tuple[str, type[BaseModel]]] = {
    "tasks": ("task", TextTask),
    "models": ("backbone", TextModel),
    "trainings": ("train", LossTraining),
    "methods": ("decode", DecodingMethod),
}
_LONGEST = 6000  # MLflow's limit of a parameter's value


@dataclass(frozen=True)
class Background:
    """What the run of a record shows and the record itself does not hold.

    Attributes
    ----------
    trained
        The training that it stands on.
    preset
        The preset that it was run for.
    """

    trained: TrainingRecord | None = None
    preset: str | None = None


def run_name(record: Record) -> str:
    """Return what the list of runs shows, e.g. ``pabee, seed 0, evaluate``."""
    cell, stage = shown_cell(record), WORDS.get(record.stage, record.stage.replace("_", " "))
    return ", ".join(filter(None, (cell.method, f"seed {cell.seed}", stage)))


def run_tags(record: Record, background: Background) -> dict[str, str]:
    """Return the tags by which runs are found."""
    cell = shown_cell(record)
    tags = {"stage": record.stage, "task": cell.task, "backbone": cell.backbone, "method": cell.method}
    tags |= {"preset": background.preset} if background.preset else {}
    return tags | {"seed": str(cell.seed), "record_id": record.record_id, "git_commit": _git_commit()}


def run_params(record: Record, background: Background) -> dict[str, str]:
    """Return the parameters of a run, as text; those of the training under ``train.``, defaults and overrides applied.

    Raises
    ------
    UserError
        Params of the training are not those of this version.
    """
    cell = shown_cell(record)
    shown: dict[str, Any] = {"task": cell.task, "backbone": cell.backbone, "seed": cell.seed}
    shown |= {"method": cell.method} if cell.method else {}
    for key, value in record.params.items():
        if key.startswith("generation."):
            shown |= _text_section(key.removeprefix("generation."), value)
        elif not _of_training(key):
            shown |= _section(key, value)
    shown |= _flat(_training(background.trained), "train.") if background.trained else {}
    return {key: str(value)[:_LONGEST] for key, value in shown.items() if value is not None}


def training_beside(folder: Path, record: Record) -> TrainingRecord | None:
    """Return the training that a record stands on, by the place of the record's folder; None where there is none."""
    if isinstance(record, TrainingRecord):
        return record
    beside = folder.parent / "train"
    if record.stage in layout.FOLDERS:
        own, model = layout.out_path(record.stage, record.cell), layout.input_path("model", record.cell)
        beside = Path(os.path.normpath(folder / os.path.relpath(model.parent, own)))
    if not record.cell.method or not (beside / RECORD_FILE).is_file():
        return None
    found = Record.load(beside)
    return found if isinstance(found, TrainingRecord) else None


def _of_training(key: str) -> bool:
    """Whether a key of a record's params says how a method is trained."""
    head, _, rest = key.partition(".")
    return key == "training" or (head, rest.partition(".")[2]) in (
        ("tasks", "training"),
        ("methods", "train"),
    )


def _section(key: str, value: Any) -> dict[str, Any]:
    """Return what one key of a record's params says, defaults filled in."""
    head, _, rest = key.partition(".")
    section: Any
    if head in ENTRIES:
        name, section = ENTRIES[head]
        rest = rest.partition(".")[2]
    else:
        name, section = head, Params.model_fields[head].annotation if head in Params.model_fields else None
    defaults = section.model_construct().model_dump(mode="json") if _is_section(section) else {}
    if rest:
        return _flat({f"{name}.{rest}".lstrip("."): defaults.get(rest) if value is None else value})
    if value is not None and not isinstance(value, Mapping):  # a key of the top level that is no section
        return {name: value}
    return _flat(defaults | (value or {}), f"{name}.")


def _text_section(key: str, value: Any) -> dict[str, Any]:
    """Return what one key below `generation` says; what a training leaves to all of them is theirs."""
    head, *rest = key.split(".")
    if head not in TEXT_ENTRIES:
        name, section = "train" if head == "training" else head, Generation.model_fields[head].annotation
    else:
        name, section = TEXT_ENTRIES[head]
    if rest[1:]:  # one key of an entry
        return {".".join([name, *rest[1:]]): value}
    if isinstance(value, str):  # a key that is no section
        return {name: value}
    defaults = section.model_construct().model_dump(mode="json") if _is_section(section) else {}
    given = {key: item for key, item in (defaults | (value or {})).items() if item is not None}
    return _flat(given, f"{name}.")


def _is_section(section: Any) -> bool:
    return isinstance(section, type) and issubclass(section, BaseModel)


def _training(trained: TrainingRecord) -> dict[str, Any]:
    """Return how a method was trained; a section that its objective reads and that is absent has its defaults."""
    cell, params = shown_cell(trained), trained.params
    try:
        training, own = effective(
            Training.model_validate(params.get("training") or {}),
            TaskTraining.model_validate(params.get(f"tasks.{cell.task}.training") or {}),
            MethodTraining.model_validate(params.get(f"methods.{cell.method}.train") or {}),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"the record of {trained.stage}, {cell.name}, was trained with params that are not of this version "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']}); run it again"
        ) from error
    own_keys = own.model_dump(mode="json", exclude=set(Training.model_fields))
    if own.objective in OURS:  # one from elsewhere may read any key
        own_keys = {key: value for key, value in own_keys.items() if own.objective in READ_BY.get(key, OURS)}
        absent = (key for key, value in own_keys.items() if value is None)
        own_keys |= {key: _defaults(MethodTraining.model_fields[key].annotation) for key in absent}
    return training.model_dump(mode="json") | own_keys


def _defaults(annotation: Any) -> dict[str, Any] | None:
    """Return the defaults of a section that may be absent; None of any other key."""
    sections = [item for item in get_args(annotation) if _is_section(item)]
    return sections[0]().model_dump(mode="json") if sections else None


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _git_commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"
