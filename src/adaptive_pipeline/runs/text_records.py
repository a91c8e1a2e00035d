"""Records of the stages that write text: data, training, calibration and evaluation of decoding.

No text of the data is in them. Figures of the clock are in the timings files: ``timings.json`` of an evaluation holds
``environment``, ``goals`` (plain figures by name) and ``rows``, a `TimedRow` each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import Field

from adaptive_pipeline.runs.record import Part, Record

#: What a threshold is chosen for. ``certified``: Learn-then-Test bounds the loss; ``min_quality``: the cheapest that keeps a
#: share of the full quality, without a promise; ``none``: nothing to choose, since the policy reads no fixed threshold.
DecodingGoal = Literal["certified", "min_quality", "none"]
#: In the order in which one stands for a method.
SHOWN_FIRST: tuple[DecodingGoal, ...] = ("min_quality", "none", "certified")


class TextDataRecord(Record):
    """`prepare_texts`.

    Attributes
    ----------
    splits
        Split -> its statistics: rows, quantiles of the tokens of sources and targets, how many were cut.
    shared_texts
        Pair of splits -> sources that both have.
    tokenizer
        Its kind, size and special tokens.
    """

    splits: dict[str, dict[str, Any]] = Field(default_factory=dict)
    shared_texts: dict[str, int] = Field(default_factory=dict)
    tokenizer: dict[str, Any] = Field(default_factory=dict)


class TextTrainingRecord(Record):
    """`train_free`; the cell's method is the training.

    Attributes
    ----------
    built_on
        The training that it began with; empty: the weights of the model.
    architecture, encoder_decoder, blocks
        Model type in transformers; whether an encoder reads the source; decoder blocks.
    loss, exit_layer, classifier
        What was trained; None where the loss has no shallow model, or no classifier followed.
    steps
        Optimiser steps.
    rows
        Token lengths of the splits that training saw.
    """

    built_on: str = ""
    architecture: str = ""
    encoder_decoder: bool = True
    blocks: int = 0
    loss: str = ""
    exit_layer: int | None = None
    classifier: str | None = None
    steps: int = 0
    rows: dict[str, Any] = Field(default_factory=dict)


class AssignmentRecord(Record):
    """`assign_model`; ``training`` is the one whose model the method decodes with."""

    training: str = ""


class TokenKind(Part):
    """Tokens of one known difficulty in texts as long as their target: how many, and the mean block they came from."""

    tokens: int
    blocks: float
    agreement: float


class Decoded(Part):
    """A method at one threshold, really run on rows of a split; nothing is timed here.

    Attributes
    ----------
    threshold
        None where the policy reads no fixed one.
    rows, tokens
        Texts written, and tokens in them, end tokens included.
    quality, quality_low, quality_high
        Of all rows together, as a fraction, and the 95 % interval over rows.
    agreement, same_texts
        Share of places at which the same weights' full greedy text has the same token; share of rows that are that text.
    blocks, paper_blocks
        Decoder blocks per token: as computed, deep rows that caught up included; as papers count, by the depth that emitted.
    block_calls, calls_speedup
        Decoder blocks run one after another per token, tokens that go through together counted once; the full policy's
        per token over them.
    shallow_share
        Share of tokens that an early exit wrote.
    flops, flops_speedup
        Exact decoder FLOPs per token, heads included; the full policy's per token over them.
    loss
        Mean loss of consistency; None on the reported split.
    kinds
        Known difficulty -> its tokens; empty where the task tells none.
    """

    threshold: float | None
    rows: int
    tokens: int
    quality: float
    quality_low: float | None = None
    quality_high: float | None = None
    agreement: float
    same_texts: float
    blocks: float
    paper_blocks: float
    block_calls: float
    calls_speedup: float
    shallow_share: float
    flops: float
    flops_speedup: float
    loss: float | None = None
    kinds: dict[str, TokenKind] = Field(default_factory=dict)


class ChosenThreshold(Part):
    """A threshold chosen on calibration rows; 1 (never exit) where nothing below reaches the goal.

    Attributes
    ----------
    value
        Of the goal: the greatest mean loss, or the share of the full quality.
    reached
        False: the goal needs the full model.
    """

    goal: DecodingGoal
    value: float | None
    threshold: float | None
    reached: bool


class Decoding(Record):
    """What calibration and evaluation of a method both say.

    Attributes
    ----------
    training, policy, exit_layer, blocks
        The model's training; how tokens leave; blocks of the shallow model (None: any); decoder blocks.
    metric
        What quality is measured in.
    full
        All blocks of the same weights, on the rows of ``grid``.
    grid
        Every threshold, in their order, on the same rows.
    """

    training: str = ""
    policy: str = ""
    exit_layer: int | None = None
    blocks: int = 0
    metric: str = ""
    full: Decoded | None = None
    grid: list[Decoded] = Field(default_factory=list)


class DecodingCalibrationRecord(Decoding):
    """`calibrate_decoding`; ``consistency`` is the loss that was bounded."""

    consistency: Literal["textual", "risk"] = "textual"
    chosen: list[ChosenThreshold] = Field(default_factory=list)


class ChosenRow(Part):
    """A chosen threshold on the reported split, and the full policy of the same weights on the same rows."""

    choice: ChosenThreshold
    decoded: Decoded
    full: Decoded


class DecodingEvaluationRecord(Decoding):
    """`evaluate_decoding`.

    Attributes
    ----------
    chosen
        What calibration chose, on ``generation.evaluation.prompts`` rows; ``grid`` is on ``grid_prompts``.
    """

    chosen: list[ChosenRow] = Field(default_factory=list)

    @property
    def shown(self) -> ChosenRow | None:
        """The chosen threshold that stands for the method where there is room for one."""
        return min(self.chosen, key=lambda row: SHOWN_FIRST.index(row.choice.goal), default=None)


class Mixture(Part):
    """Two Beta densities, each by its two parameters: of tokens on which all blocks disagree, and agree."""

    disagree: tuple[float, float]
    agree: tuple[float, float]


#: Equal bins of [0, 1] in which confidences are counted; the last holds 1.
BINS = 50


class Confidences(Part):
    """``confidences.json`` of an evaluation, counted in a run in which no token leaves early, so that all blocks see all.

    Attributes
    ----------
    threshold
        That stands for the method (`DecodingEvaluationRecord.shown`); where it is estimated, the last one.
    disagreeing, agreeing
        Per bin of confidence, tokens of the shallow model that all blocks saw too: which wrote another one, or the same.
    mixture
        Fitted to them; None where nothing was.
    trajectory
        Where the threshold is estimated: that of each text, in order.
    """

    threshold: float | None = None
    disagreeing: list[int] = Field(min_length=BINS, max_length=BINS)
    agreeing: list[int] = Field(min_length=BINS, max_length=BINS)
    mixture: Mixture | None = None
    trajectory: list[float] = Field(default_factory=list)

    @classmethod
    def counted(cls, tokens: Iterable[tuple[float, bool]], **others: Any) -> Self:
        """Count tokens, each by its confidence in [0, 1] and whether all blocks agree; ``others``: the other fields."""
        counts = {agrees: [0] * BINS for agrees in (False, True)}
        for confidence, agrees in tokens:
            counts[agrees][min(int(confidence * BINS), BINS - 1)] += 1
        return cls(disagreeing=counts[False], agreeing=counts[True], **others)


class TimedRow(Part):
    """A chosen threshold on the clock at batch 1, interleaved with plain `generate` of the same weights.

    Attributes
    ----------
    mode
        ``free``: texts end by themselves; ``fixed``: all have the same number of new tokens.
    requests, repeats
        Texts written, and how often each.
    seconds, full_seconds
        Median seconds of a request.
    tokens_per_second, full_tokens_per_second
        All tokens over all seconds.
    speedup, speedup_low, speedup_high
        Median of plain over this per request, and its 95 % bootstrap interval over requests.
    """

    goal: DecodingGoal
    threshold: float | None
    mode: Literal["free", "fixed"]
    requests: int
    repeats: int
    seconds: float
    full_seconds: float
    tokens_per_second: float
    full_tokens_per_second: float
    speedup: float
    speedup_low: float
    speedup_high: float
