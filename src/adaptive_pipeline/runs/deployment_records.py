"""Records of the stages of deployments: what was exported, and which deployment was chosen on a machine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from adaptive_inference.calibration.operating_point import Seen, Setting
from adaptive_pipeline.runs.record import Part, Record


class Exported(Part):
    """A model as one deployment; ``why`` says why it is refused, else empty.

    Attributes
    ----------
    method
        Key in tables.
    quality, loss
        At full depth on the calibration split, and the points that this is below the same model in PyTorch; None where
        the deployment runs no such model.
    bytes
        Of its graphs, stopped at every exit.
    """

    method: str
    deployment: str
    quality: float | None = None
    loss: float | None = None
    bytes: int | None = None
    why: str = ""


class ExportRecord(Record):
    """`export_model`.

    Attributes
    ----------
    recommended
        What `recommend` offered: method and setting, None of the full model.
    models
        Each in each deployment of ONNX Runtime; then the classifier without layers, ``static_embedding`` run by ``numpy``.
    """

    recommended: tuple[str | None, Setting | None] = (None, None)
    models: list[Exported] = Field(default_factory=list)


class DeploymentOffer(Part):
    """The deployment to use.

    Attributes
    ----------
    deployment, method, setting
        One of `exits.deployment.DEPLOYMENTS`; whose run the model is of; how it answers, None: the full model does.
    asked, limit
        What was asked for: the fastest that loses at most so many points, or the best within so many milliseconds.
    kept
        Whether a candidate is within the limit, as far as calibration tells; where none is, the full PyTorch model is
        offered, or the fastest.
    seen, difference
        What calibration measured; quality minus the full PyTorch model's there. None of the full PyTorch model.
    margin, probability, loss, low, high
        As in `Offer`; None where nothing is promised: asked for was a latency.
    """

    deployment: str
    method: str
    setting: Setting | None
    asked: Literal["max_loss", "max_latency_ms"]
    limit: float
    kept: bool
    seen: Seen | None = None
    difference: float | None = None
    margin: float | None = None
    probability: float | None = None
    loss: float | None = None
    low: float | None = None
    high: float | None = None


class DeployedRow(Part):
    """A model in one deployment, measured on the reported split.

    Attributes
    ----------
    method, deployment
        Key in tables, and one of `exits.deployment.DEPLOYMENTS`; or ``static_embedding`` and ``numpy``, which has no layers.
    adaptive
        Whether texts leave by a rule; else all by the same exit.
    setting
        The fastest that is promised in this deployment; None: nothing is promised, and the row has no figures.
    chosen
        Whether it is what `DeploymentOffer` offers.
    loss, low, high
        Points lost against the full PyTorch model, and the 95 % interval over rows.
    differing
        Of the timed rows, those that left elsewhere, or were answered otherwise, than by graphs stopped at every exit;
        None of the classifier without layers.
    """

    method: str
    deployment: str
    adaptive: bool
    setting: Setting | None
    chosen: bool = False
    quality: float | None = None
    loss: float | None = None
    low: float | None = None
    high: float | None = None
    layers_speedup: float | None = None
    flops_speedup: float | None = None
    differing: int | None = None


class DeploymentRecord(Record):
    """`choose_deployment`: which deployment is the fastest here, so a record that depends on the clock.

    Attributes
    ----------
    recommended
        As in `ExportRecord`.
    candidates
        How many were chosen among.
    """

    recommended: tuple[str | None, Setting | None] = (None, None)
    candidates: int = 0
    metric: str = ""
    offer: DeploymentOffer | None = None
    rows: list[DeployedRow] = Field(default_factory=list)
