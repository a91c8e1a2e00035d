"""A decoder's folder as its user meets it: where the model lies, what its texts are, how it is to write. Loads no torch.

An exported folder is a model folder (`generation.model_dir`) with ``decoding.json``, the policy and threshold that it writes
with unless told otherwise, and a card. A method's run folder says the same by its records, a training's model folder alone
says none of it: then all blocks write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from adaptive_inference.decoding.policy import EXITS_AT_ONE_BLOCK, DecodingPolicy
from adaptive_inference.errors import UserError, blamed_on
from adaptive_inference.exits.layout import CONFIG_FILE, FIX, KINDS, RUN_MODEL
from adaptive_inference.files import check_form, read_object, write_json
from adaptive_inference.generation.trained_for import TRAINED_FOR_FILE, TrainedFor, read_trained_for
from adaptive_inference.serving.export import read_record
from adaptive_inference.settings.generation import DecodingMethod
from adaptive_inference.tasks.text_schema import TextSchema

DECODING_FILE = "decoding.json"
FORMAT = 1  #: of ``decoding.json``
#: In a method's run folder: which training's model is its own, what calibration chose, what the evaluation split gave.
RUN_ASSIGNED, RUN_CALIBRATION = Path("assigned/model.json"), Path("calibration/metrics.json")
RUN_EVALUATION = Path("evaluation/metrics.json")
_FIX = "calibrate the method again, or export it again"
_FORBID = ConfigDict(extra="forbid")

GoalName = Literal["certified", "min_quality", "none"]
#: Goals in the order in which one stands for a method, here as in tables.
GOALS: tuple[GoalName, ...] = ("min_quality", "none", "certified")
#: Policies that read no threshold.
WITHOUT_THRESHOLD = ("full", "static")


@dataclass(frozen=True)
class Measured:
    """What the reported split gave at a threshold, on rows that chose nothing.

    Attributes
    ----------
    rows
        Texts written.
    quality, full_quality
        In the task's metric, a fraction; and of all blocks of the same weights on the same rows.
    agreement
        Share of places with the token that all blocks write.
    blocks
        Decoder blocks computed per token, those included that caught up.
    flops_speedup
        Decoder FLOPs per token of all blocks over its own.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    rows: int
    quality: float
    full_quality: float
    agreement: float
    blocks: float
    flops_speedup: float


@dataclass(frozen=True)
class Choice:
    """A threshold that calibration chose.

    Attributes
    ----------
    goal, value
        ``certified``: with a bounded mean loss of at most `value`; ``min_quality``: with that share of the full quality at
        the least cost, without a promise; ``none``: the policy reads no fixed threshold.
    threshold
        None of ``none``.
    reached
        False: no threshold below 1 reaches the goal, so no token leaves early.
    measured
        None where nothing was evaluated.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    goal: GoalName
    value: float | None
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] | None
    reached: bool
    measured: Measured | None = None


@dataclass(frozen=True)
class StoredDecoding:
    """How a model is to write.

    Attributes
    ----------
    policy
        With the threshold of the choice that stands for the method.
    adaptive
        ``keep``: the threshold is estimated as texts are written, as `decoding.adaptive` says; None: it is fixed.
    choices
        What calibration chose; empty: nothing was calibrated.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    policy: DecodingPolicy
    adaptive: Literal["corrected", "reference"] | None = None
    choices: tuple[Choice, ...] = ()

    @property
    def default(self) -> Choice | None:
        """The choice that stands for the method."""
        return min(self.choices, key=lambda choice: GOALS.index(choice.goal), default=None)

    def save(self, folder: Path) -> None:
        """Write ``decoding.json``."""
        write_json(folder / DECODING_FILE, asdict(self) | {"format": FORMAT})

    @classmethod
    def load(cls, folder: Path) -> StoredDecoding:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            The file is damaged, or of another version.
        """
        file = folder / DECODING_FILE
        body = read_object(file, _FIX)
        if (version := body.pop("format", None)) != FORMAT:
            raise UserError(f"{file} has format {version!r}, and this version reads {FORMAT}; {_FIX}")
        check_form(cls, body, file, _FIX)
        return TypeAdapter(cls).validate_json(json.dumps(body), strict=True)


@dataclass(frozen=True)
class SavedGenerator:
    """What is known of a decoder before its weights are read.

    Attributes
    ----------
    home
        Its model folder.
    trained_for
        What it was trained for.
    schema
        What it reads and writes.
    decoding
        How it is to write.
    """

    home: Path
    trained_for: TrainedFor
    schema: TextSchema
    decoding: StoredDecoding

    def asked(
        self,
        policy: str | DecodingPolicy | None = None,
        threshold: float | None = None,
        exit_layer: int | None = None,
    ) -> tuple[DecodingPolicy, Literal["corrected", "reference"] | None]:
        """Return how to write, by what a user asks for in place of the folder's own choice.

        Parameters
        ----------
        policy
            None: the folder's. A name takes the exit layer that the model was trained for.
        threshold
            Of the policy. A policy that the folder does not name needs one, where it reads one.
        exit_layer
            Blocks of the shallow model.

        Returns
        -------
        policy, adaptive
            See `StoredDecoding`.

        Raises
        ------
        UserError
            There is no such policy, it does not fit the decoder, or it lacks, or does not read, what is given.
        """
        own, adaptive = self.decoding.policy, None
        given = {"threshold": threshold, "exit_layer": exit_layer}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if isinstance(policy, DecodingPolicy):
            chosen = replace(policy, **changes)
        elif policy in (None, own.kind):
            chosen = replace(own, **changes)
            adaptive = self.decoding.adaptive if threshold is None else None
        else:
            chosen = self._named(str(policy), changes)
        if threshold is not None and chosen.kind in WITHOUT_THRESHOLD:
            raise UserError(
                f"threshold {threshold!r}: policy {chosen.kind!r} reads none; leave it out, or name a policy that reads "
                "one, e.g. verify"
            )
        chosen.check(self.trained_for.blocks)
        return chosen, adaptive

    def _named(self, kind: str, changes: dict[str, Any]) -> DecodingPolicy:
        """Return a policy that the folder does not name."""
        if kind in EXITS_AT_ONE_BLOCK:
            layer = self.decoding.policy.exit_layer or self.trained_for.exit_layer
            changes = {"exit_layer": layer} | changes
        chosen = DecodingPolicy(kind, **changes)
        if "threshold" not in changes and kind not in WITHOUT_THRESHOLD:
            raise UserError(
                f"policy {kind!r} needs a threshold from 0 to 1: none was calibrated for it on this model, whose own "
                f"policy is {self.decoding.policy.kind!r}"
            )
        return chosen


def open_generator(folder: str | Path) -> SavedGenerator:
    """Find the decoder of an exported folder, a method's run folder or a training's model folder.

    Raises
    ------
    UserError
        There is none, it is a classifier, or a file is damaged or of another version.
    """
    folder = Path(folder)
    if (folder / RUN_ASSIGNED).is_file():
        return _of_run(folder)
    _check_kind(folder)
    stored = (folder / DECODING_FILE).is_file()
    return _saved(folder, StoredDecoding.load(folder) if stored else StoredDecoding(DecodingPolicy("full")))


def is_generator(folder: Path) -> bool:
    """Whether a folder is of a model that writes texts, by the files that it has."""
    return (folder / RUN_ASSIGNED).is_file() or (folder / TRAINED_FOR_FILE).is_file()


def _check_kind(folder: Path) -> None:
    if (folder / TRAINED_FOR_FILE).is_file():
        return
    for file in (folder / CONFIG_FILE, folder / RUN_MODEL / CONFIG_FILE):
        if file.is_file() and read_object(file, FIX).get("kind") in KINDS:
            raise UserError(
                f"{folder} holds a classifier, which writes no texts; use `adaptive-inference predict`, or load_predictor"
            )
    raise UserError(
        f"{folder} holds no decoder (no {TRAINED_FOR_FILE}, nor {RUN_ASSIGNED}); name a folder written by "
        "`adaptive-inference export`, or a method's run folder such as runs/TASK/MODEL/seed0/free"
    )


def _saved(home: Path, decoding: StoredDecoding) -> SavedGenerator:
    trained_for = read_trained_for(home)
    with blamed_on(home / TRAINED_FOR_FILE, FIX):
        schema = TextSchema.from_dict(trained_for.texts)
    with blamed_on(home, _FIX):
        decoding.policy.check(trained_for.blocks)
    return SavedGenerator(home, trained_for, schema, decoding)


# ---- a method's run ------------------------------------------------------------------------------------------------


def _of_run(run: Path) -> SavedGenerator:
    note = run / RUN_ASSIGNED
    training = read_object(note, _FIX).get("training")
    if not isinstance(training, str) or Path(training).name != training:
        raise UserError(f"{note} names no training ({training!r}); run its stage again")
    home = run.parent / "trainings" / training / RUN_MODEL
    if not (home / TRAINED_FOR_FILE).is_file():
        raise UserError(
            f"{home}, the model of {run}, is missing; train it, or copy the trainings beside {run}"
        )
    if not (run / RUN_CALIBRATION).is_file():
        raise UserError(f"{run} has no {RUN_CALIBRATION}; calibrate the method first")
    return _saved(home, _decoding_of(run))


def _decoding_of(run: Path) -> StoredDecoding:
    file, evaluation = run / RUN_CALIBRATION, run / RUN_EVALUATION
    body = read_record(file, _FIX)
    with blamed_on(file, _FIX):
        method = _method(body["params"])
        choices = tuple(Choice(**item) for item in body["chosen"])
    if evaluation.is_file():
        rows = read_record(evaluation, "evaluate the method again")
        with blamed_on(evaluation, "evaluate the method again"):
            found = {
                (row["choice"]["goal"], row["choice"]["threshold"]): _measured(row) for row in rows["chosen"]
            }
        choices = tuple(replace(item, measured=found.get((item.goal, item.threshold))) for item in choices)
    with blamed_on(file, _FIX):
        default = StoredDecoding(DecodingPolicy("full"), choices=choices).default
        threshold = None if default is None else default.threshold
        return StoredDecoding(_policy(method, body["exit_layer"], threshold), method.adaptive, choices)


def _method(params: Mapping[str, Any]) -> DecodingMethod:
    sections = [value for key, value in params.items() if key.startswith("generation.methods.")]
    if len(sections) != 1:
        raise ValueError("its params name no method, or several")
    return DecodingMethod(**sections[0])


def _policy(method: DecodingMethod, exit_layer: int | None, threshold: float | None) -> DecodingPolicy:
    given = method.model_dump(include={"min_layer", "confidence", "decay_tau", "rollback", "max_pending"})
    given |= {"exit_layer": exit_layer, "threshold": threshold}
    return DecodingPolicy(
        method.policy, **{name: value for name, value in given.items() if value is not None}
    )


def _measured(row: Mapping[str, Any]) -> Measured:
    own = {name: row["decoded"][name] for name in ("rows", "quality", "agreement", "blocks", "flops_speedup")}
    return Measured(full_quality=row["full"]["quality"], **own)
