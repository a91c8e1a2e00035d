"""Where a saved model lies and what it says of itself: its files, its kind, the version of their form. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from adaptive_inference.errors import UserError
from adaptive_inference.files import check_form, read_object

#: Version of the form of a model folder, config.json's ``format``; docs/compatibility.md says what it promises.
FORMAT = 1
#: Values of ``kind`` in a model's config.json.
MULTI_EXIT, MULTI_MODEL = KINDS = ("multi_exit", "multi_model")
CONFIG_FILE, CALIBRATION_FILE = "config.json", "calibration.json"
#: A method's run folder, as an experiment leaves it: where its model, its calibration and the record of its evaluation lie.
RUN_MODEL = Path("train/model")
RUN_CALIBRATION, RUN_EVALUATION = Path("calibration") / CALIBRATION_FILE, Path("evaluation/metrics.json")
#: What to do about a file of a model folder that cannot be read.
FIX = "train or export the model again, or copy its folder again"


def _ascending(exits: list[int]) -> list[int]:
    if exits != sorted(set(exits)):
        raise ValueError("exits must be ascending, without repeats")
    return exits


_Count = Annotated[int, Field(ge=1)]
_Exits = Annotated[list[_Count], Field(min_length=1), AfterValidator(_ascending)]
_Temperature = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
_Range = list[Annotated[float, Field(allow_inf_nan=False)]] | None


class _MultiModelForm(BaseModel):
    """``config.json`` of a cascade."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    format: int
    exits: _Exits


class _StockForm(BaseModel):
    """The encoder's own configuration: the rest of it is for transformers to judge."""

    model_config = ConfigDict(extra="allow")

    model_type: str


class _MultiExitForm(_MultiModelForm):
    """``config.json`` of a model with exits; see `saved.describe`."""

    num_layers: _Count
    outputs: _Count
    pooler: Literal["none", "shared", "per_exit"]
    read: Literal["first", "mean"]
    inner_head: Literal["attention", "as_backbone"]
    certainty: bool
    attention_heads: list[_Count] | None = None
    token_reduction: bool = False
    backbone: _StockForm

    @model_validator(mode="after")
    def _exits_have_layers(self) -> _MultiExitForm:
        if self.exits[-1] > self.num_layers:
            raise ValueError(f"exits {self.exits} lie beyond num_layers, {self.num_layers}")
        return self


class _CalibrationForm(BaseModel):
    """What a model's answers need of ``calibration.json``; operating points are read where they are used."""

    model_config = ConfigDict(extra="allow")

    temperatures: list[_Temperature]
    certainty_min: _Range = None
    certainty_max: _Range = None
    operating_points: list[dict[str, Any]] = []
    recommended: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _ranges_are_of_all_exits(self) -> _CalibrationForm:
        sizes = {len(item) for item in (self.certainty_min, self.certainty_max) if item is not None}
        if sizes - {len(self.temperatures)}:
            raise ValueError("certainty_min and certainty_max need one number per temperature")
        return self


_FORMS = {MULTI_EXIT: _MultiExitForm, MULTI_MODEL: _MultiModelForm}


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
        There is none, or it is of another format or kind than ``kind``, or a file of it has not the form that it should.
    """
    home, run = _locate(Path(folder))
    file = home / CONFIG_FILE
    config = read_object(file, FIX)
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
    check_form(_FORMS[found], config, file, FIX)
    calibration = home / CALIBRATION_FILE if run is None else run / RUN_CALIBRATION
    evaluation = None if run is None else run / RUN_EVALUATION
    return SavedModel(
        home,
        config,
        _read_calibration(calibration) if calibration.is_file() else None,
        evaluation if evaluation and evaluation.is_file() else None,
    )


def _read_calibration(file: Path) -> dict[str, Any]:
    fix = "calibrate the model again, or export it again"
    body = read_object(file, fix)
    check_form(_CalibrationForm, body, file, fix)
    return body


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
