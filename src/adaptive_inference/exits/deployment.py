"""What a model was exported as, ``deployment.json`` of its folder: which graphs, made of which weights. Loads no torch.

An ONNX deployment is a model folder without ``model.safetensors``: one graph for each segment between the exits at which
a batch can be stopped, and beside them all that any model folder holds.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adaptive_inference.errors import UserError, nearest
from adaptive_inference.exits.layout import CALIBRATION_FILE
from adaptive_inference.files import check_form, read_object, write_json

DEPLOYMENT_FILE = "deployment.json"
#: Version of the form of ``deployment.json`` and of the graphs beside it.
DEPLOYMENT_FORMAT = 1
#: What a trained model can be run as; the ONNX ones need no torch.
DEPLOYMENTS = ("torch", "onnx_fp32", "onnx_int8")
#: Key of ``calibration.json`` and of each graph's metadata: the sha256 of the weights that they belong to.
WEIGHTS_KEY = "weights"
FIX = "export the model again, or copy its folder again"

_Count = Annotated[int, Field(ge=1)]
_Index = Annotated[int, Field(ge=0)]


class Quantisation(BaseModel):
    """How weights and activations are kept; activations are scaled over all that a product reads at once."""

    model_config = ConfigDict(extra="forbid")

    weights: Literal["int8"] = "int8"
    activations: Literal["uint8"] = "uint8"
    per_channel: bool = True
    #: Weights of 7 bits: without VNNI instructions, sums of full 8-bit products overflow.
    reduce_range: bool


class Tokens(BaseModel):
    """What ``tokenizer.json`` does not say of how the model's texts become tokens.

    Attributes
    ----------
    names
        Columns that the tokenizer makes and the graphs read.
    pad
        Id that fills rows up.
    cut
        On which side a text that is too long is cut.
    """

    model_config = ConfigDict(extra="forbid")

    names: list[Literal["input_ids", "attention_mask", "token_type_ids"]]
    pad: _Index
    cut: Literal["left", "right"]


class Deployment(BaseModel):
    """Content of ``deployment.json``.

    Attributes
    ----------
    weights
        sha256 of the ``model.safetensors`` that the graphs were made of.
    rule, threshold
        The setting that the cuts were chosen for: where it can decide, a batch can be stopped.
    cuts
        Layers before the exits at which a batch can be stopped, ascending; the last is the model's last exit.
    exits
        For each segment, the layers before the exits that it answers; all of the model's, in order.
    certainty
        Whether the graphs hold the certainty heads.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = DEPLOYMENT_FORMAT
    deployment: Literal["onnx_fp32", "onnx_int8"]
    weights: str
    rule: str
    threshold: float | None
    cuts: Annotated[list[_Count], Field(min_length=1)]
    exits: list[list[_Count]]
    certainty: bool
    tokens: Tokens
    quantisation: Quantisation | None = None

    @model_validator(mode="after")
    def _segments_end_at_cuts(self) -> Self:
        if [segment[-1] if segment else None for segment in self.exits] != self.cuts:
            raise ValueError(f"segments with the exits {self.exits} do not end at the cuts {self.cuts}")
        if self.cuts != sorted(set(self.cuts)):
            raise ValueError("cuts must be ascending, without repeats")
        return self

    def save(self, folder: Path) -> None:
        """Write ``deployment.json``."""
        write_json(folder / DEPLOYMENT_FILE, self.model_dump())


def segment_file(segment: int) -> str:
    """Name of a segment's graph, by its number from 0."""
    return f"segment_{segment + 1}.onnx"


def is_deployment(home: Path) -> bool:
    """Whether a model folder holds graphs in place of weights."""
    return (home / DEPLOYMENT_FILE).is_file()


def deployment_of(home: Path) -> str:
    """Return which of `DEPLOYMENTS` a model folder holds."""
    return str(read_object(home / DEPLOYMENT_FILE, FIX).get("deployment")) if is_deployment(home) else "torch"


def open_deployment(home: Path, config: dict[str, Any], calibration: dict[str, Any] | None) -> Deployment:
    """Read ``deployment.json`` and check it against what lies beside it.

    Parameters
    ----------
    home
        The model folder.
    config, calibration
        Content of ``config.json`` and ``calibration.json``.

    Raises
    ------
    UserError
        The file is damaged or of another format, a graph is missing, or the operating points are those of other weights.
    """
    file = home / DEPLOYMENT_FILE
    body = read_object(file, FIX)
    if body.get("format") != DEPLOYMENT_FORMAT:
        raise UserError(
            f"{file} is of format {body.get('format')}, and this adaptive-inference reads format {DEPLOYMENT_FORMAT}: use "
            "the release that wrote it, or export the model again"
        )
    check_form(Deployment, body, file, FIX)
    found = Deployment(**body)
    if [layer for segment in found.exits for layer in segment] != config["exits"]:
        raise UserError(f"{file} has the exits {found.exits}, and config.json {config['exits']}; {FIX}")
    fitted_on = (calibration or {}).get(WEIGHTS_KEY, found.weights)
    if fitted_on != found.weights:
        raise UserError(
            f"{home / CALIBRATION_FILE} was fitted on the weights {fitted_on:.12}, and the graphs were made of "
            f"{found.weights:.12}: its thresholds are another model's; {FIX}"
        )
    return found


def check_deployment(name: str) -> None:
    """Refuse what is none of `DEPLOYMENTS`."""
    if name not in DEPLOYMENTS:
        raise UserError(
            f"no deployment {name!r}; allowed: {', '.join(DEPLOYMENTS)}{nearest(name, list(DEPLOYMENTS))}"
        )


def digest_of(file: Path) -> str:
    """Return the sha256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
