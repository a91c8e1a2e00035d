"""Records of stages: one typed model per stage family, over `record.Record`.

Those of deployments are in `deployment_records`, those of generation in `text_records`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from adaptive_inference.calibration.operating_point import OperatingPoint, Seen, Setting
from adaptive_inference.evaluation.explained import Measured
from adaptive_pipeline.runs.deployment_records import DeploymentRecord, ExportRecord
from adaptive_pipeline.runs.record import FAMILIES, RECORD_FILE, VERSION, Part, Record, digest_params
from adaptive_pipeline.runs.text_records import (
    AssignmentRecord,
    DecodingCalibrationRecord,
    DecodingEvaluationRecord,
    TextDataRecord,
    TextTrainingRecord,
)

__all__ = ["FAMILIES", "RECORD_FILE", "VERSION", "Part", "Record", "digest_params"]


class DataRecord(Record):
    """`prepare_data`: the statistics of each split, the texts that splits share, and the task's schema."""

    splits: dict[str, dict[str, Any]] = Field(default_factory=dict)
    shared_texts: dict[str, int] = Field(default_factory=dict)
    task_schema: dict[str, Any] = Field(default_factory=dict)


class Member(Part):
    """One member of a cascade: its layers, and its own training's steps (None: a copy of the full model)."""

    layer: int
    steps: int | None

    @property
    def copied_from_full(self) -> bool:
        """Whether the full model is this member."""
        return self.steps is None


class Conflict(Part):
    """Cosines of the exits' gradients in one layer; see `training.gradient_conflict`."""

    layer: int
    mean_cosine: float | None
    pairs: dict[str, float | None]


class LossWeights(Part):
    """Where the learned weights of the losses are when training ends; all start at 1."""

    steps: int
    terms: int
    max_deviation: float
    mean_deviation: float
    min: float
    max: float


class TrainingRecord(Record):
    """Any stage that trains.

    Attributes
    ----------
    exits
        Exit layers.
    steps
        Optimiser steps; None where members have their own.
    rows
        Token lengths of the splits that training saw.
    builds_on_full
        The training starts from the full model, learns from it, or builds on a model that did.
    built_on
        The method on whose model it builds; empty: on none but the full one, if on any.
    members
        Of a cascade, else empty.
    """

    exits: list[int] = Field(default_factory=list)
    steps: int | None = None
    rows: dict[str, Any] = Field(default_factory=dict)
    builds_on_full: bool = False
    built_on: str = ""
    members: list[Member] = Field(default_factory=list)
    gradient_conflict: list[Conflict] = Field(default_factory=list)
    loss_weights: LossWeights | None = None

    @property
    def has_copy_of_full(self) -> bool:
        """Whether a member is the full model."""
        return any(member.copied_from_full for member in self.members)


class ScoresRecord(Record):
    """`extract_saliencies`; the kind of scores is the cell's method.

    Attributes
    ----------
    scores
        Digest of the file of scores, as a training's record has it among its inputs.
    """

    scores: str = ""


class CalibrationRecord(Record):
    """`calibrate_thresholds`; ``recommended`` is null where the whole model is to answer."""

    calibrated_on: Literal["calibration", "evaluation"] = "calibration"
    operating_points: list[OperatingPoint] = Field(default_factory=list)
    recommended: OperatingPoint | None = None
    reliability: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)


class Survival(Part):
    """What a model that removes tokens had left of its rows when they left; see `evaluation.survival`."""

    kept: float
    kept_at_exit: dict[str, list[int]]
    exit_correlation: float | None


class PointRow(Part):
    """A method at one operating point, measured on the reported split; null where no threshold reaches the goal.

    Attributes
    ----------
    method
        Key in tables: the cell's method, or ``static_K``.
    attainable
        False: the rule looks at labels.
    tiers
        Difficulty tier -> quality, mean exit layer, count and exit counts; None where the task has none.
    survival
        None of a model that keeps all tokens.
    """

    method: str
    point: OperatingPoint
    metric: str
    attainable: bool
    added_parameters: int
    quality: float | None = None
    quality_low: float | None = None
    quality_high: float | None = None
    layers_speedup: float | None = None
    flops_speedup: float | None = None
    exit_counts: dict[str, int] | None = None
    tiers: dict[str, dict[str, Any]] | None = None
    survival: Survival | None = None


class Agreement(Part):
    """How the engine agrees with the offline sweep at one operating point, on the rows that were timed."""

    method: str
    point: OperatingPoint
    rows: int
    near_threshold: int
    differing: int


class ExitRow(Part):
    """One exit by itself: every row forced to leave there."""

    layer: int
    quality: float
    layers_speedup: float
    flops_speedup: float | None = None


class EvaluationRecord(Record):
    """`evaluate_batch1`."""

    calibrated_on: Literal["calibration", "evaluation"] = "calibration"
    rows: list[PointRow] = Field(default_factory=list)
    agreement: list[Agreement] = Field(default_factory=list)
    exits: list[ExitRow] = Field(default_factory=list)
    overthinking: dict[str, Any] | None = None
    recommended: OperatingPoint | None = None


class Offer(Part):
    """A candidate under a goal, as calibration sees it; ``method`` null: the full model, since nothing else is promised.

    Attributes
    ----------
    max_loss
        The goal, in points.
    setting, seen, difference
        Rule and threshold; what calibration measured; quality minus the full model's there.
    margin
        Points that the choice took off the goal inside.
    probability, kept_full
        Share of resamples in which the goal was held, and of those that kept the full model (which holds it).
    loss, low, high
        Points lost on rows not seen by what the others chose: mean, and their middle 80 %.
    """

    max_loss: float
    method: str | None
    setting: Setting | None
    seen: Seen | None
    difference: float | None
    margin: float
    probability: float
    kept_full: float
    loss: float
    low: float
    high: float


class Share(Part):
    """How often the resamples chose a method with a rule; ``rule`` is empty for the full model."""

    method: str
    rule: str
    share: float


def model_of(method: str) -> str:
    """Return under which name of its inputs a `RecommendationRecord` holds the digest of a method's model."""
    return f"model of {method}"


class RecommendationRecord(Record):
    """`recommend`: one model, rule and threshold of a seed, chosen on calibration rows.

    Attributes
    ----------
    offer
        Under ``goal.max_loss``.
    exportable
        The same among the methods that ONNX Runtime can run, where ``offer`` is none of them.
    others
        Under half and twice of it.
    shares
        What the resamples chose, the most frequent first.
    with_more_rows
        Speed-up that the choice would have with four times the rows, were the margin half; null: the full model.
    """

    calibrated_on: Literal["calibration", "evaluation"] = "calibration"
    candidates: int = 0
    rows: int = 0
    offer: Offer | None = None
    exportable: Offer | None = None
    others: list[Offer] = Field(default_factory=list)
    shares: list[Share] = Field(default_factory=list)
    with_more_rows: float | None = None


class Drift(Part):
    """Whether a classifier tells calibration rows from evaluation rows; see `selection.drift`."""

    auc: float
    p_value: float
    features: list[str]

    @property
    def found(self) -> bool:
        """Whether the rows differ surely, and by enough to matter: thousands of rows show any trifle."""
        return self.p_value < 0.01 and self.auc >= 0.55


class RecommendedRecord(Record):
    """`evaluate_recommended`: what was recommended, on the reported split; method and setting null: the full model.

    Attributes
    ----------
    loss, low, high
        Points lost against the full model of the same seed, and the 95 % interval over rows.
    """

    method: str | None = None
    setting: Setting | None = None
    metric: str = ""
    rows: int = 0
    quality: float | None = None
    full_quality: float | None = None
    loss: float | None = None
    low: float | None = None
    high: float | None = None
    layers_speedup: float | None = None
    flops_speedup: float | None = None
    drift: Drift | None = None
    agreement: dict[str, int] | None = None


class ExplanationRecord(Record):
    """`score_rationales`; no text of the data is in it."""

    explained: list[Measured] = Field(default_factory=list)


FAMILIES |= {
    "prepare_data": DataRecord,
    "finetune_backbone": TrainingRecord,
    "train_sweet": TrainingRecord,
    "train_leebert": TrainingRecord,
    "train_multi_model": TrainingRecord,
    "train_adapler": TrainingRecord,
    "train_adapler_exits": TrainingRecord,
    "train_fold": TrainingRecord,
    "extract_saliencies": ScoresRecord,
    "calibrate_thresholds": CalibrationRecord,
    "evaluate_batch1": EvaluationRecord,
    "recommend": RecommendationRecord,
    "evaluate_recommended": RecommendedRecord,
    "export_model": ExportRecord,
    "choose_deployment": DeploymentRecord,
    "score_rationales": ExplanationRecord,
    "prepare_texts": TextDataRecord,
    "train_free": TextTrainingRecord,
    "assign_model": AssignmentRecord,
    "calibrate_decoding": DecodingCalibrationRecord,
    "evaluate_decoding": DecodingEvaluationRecord,
}
