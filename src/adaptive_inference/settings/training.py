"""Typed view of the keys that say how methods are trained: `training` and `methods.NAME`; loads no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from adaptive_inference.settings.base import MOST_EPOCHS, Count, Epochs, Fraction, Positive, Section


class Training(Section):
    """Optimisation, shared by all methods; a method may override any key in its own `training`."""

    epochs: Epochs = Field(3, description="Passes over the training rows, at most 1000.")
    batch_size: Count = Field(
        16, description="Rows per batch; times `gradient_accumulation` per optimiser step."
    )
    gradient_accumulation: Count = Field(1, description="Batches summed up to one optimiser step.")
    learning_rate: Positive = Field(5e-5, description="Peak rate of the pre-trained weights.")
    head_learning_rate: Positive | None = Field(
        None, description="Peak rate of poolers and classifiers; absent: as `learning_rate`."
    )
    schedule: Literal["linear", "constant", "cosine"] = Field("linear", description="Decay of the rate.")
    warmup_ratio: Fraction = Field(0.0, description="Share of the steps in which the rate climbs from 0.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="Of AdamW.")
    max_grad_norm: Annotated[float, Field(ge=0.0)] = Field(1.0, description="Gradient clip; 0: none.")
    group_by_length: bool = Field(False, description="Batch rows of like length together: less padding.")
    score_every: Count = Field(
        1, description="Epochs between two scorings on the development split, from which the best is kept."
    )
    save_every: Count = Field(200, description="Steps between the files that a killed run resumes from.")
    patience: Count | None = Field(
        None,
        description="Stop after this many scorings without a better development quality (mean of all exits); absent: never.",
    )


class TrainingOverride(Section):
    """Keys of `training` that one method sets otherwise."""

    epochs: Epochs | None = Field(None, description="See `training.epochs`.")
    batch_size: Count | None = Field(None, description="See `training.batch_size`.")
    gradient_accumulation: Count | None = Field(None, description="See `training.gradient_accumulation`.")
    learning_rate: Positive | None = Field(None, description="See `training.learning_rate`.")
    head_learning_rate: Positive | None = Field(None, description="See `training.head_learning_rate`.")
    schedule: Literal["linear", "constant", "cosine"] | None = Field(
        None, description="See `training.schedule`."
    )
    warmup_ratio: Fraction | None = Field(None, description="See `training.warmup_ratio`.")
    weight_decay: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="See `training.weight_decay`."
    )
    max_grad_norm: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="See `training.max_grad_norm`."
    )
    group_by_length: bool | None = Field(None, description="See `training.group_by_length`.")
    score_every: Count | None = Field(None, description="See `training.score_every`.")
    save_every: Count | None = Field(None, description="See `training.save_every`.")
    patience: Count | None = Field(None, description="See `training.patience`.")


class Distillation(Section):
    """Terms by which exits learn from other exits (LeeBERT, equations 2 to 5)."""

    teachers: Literal["last", "later", "all"] = Field(
        "all",
        description="Who teaches an exit: the last exit, all later ones (LLE), or all others (LAE).",
    )
    temperature: Positive = Field(
        2.0, description="Softens teacher and student; the paper names no value, 1 to 4 are usual."
    )
    detach: bool = Field(True, description="A teacher is a constant: it is not pulled towards its students.")


class WeightLearning(Section):
    """How the weights of the loss terms are learned beside the network (LeeBERT, section 3.4)."""

    scheme: Literal["slo", "blo", "clo_v1", "clo_v2"] = Field(
        "clo_v2",
        description="`slo`: with the network, on the same batch; `blo`: on the other half of the rows; `clo_v1`: on both "
        "halves; `clo_v2`: `clo_v1` in every `group`-th step only.",
    )
    group: Count = Field(4, description="C: optimiser steps per update of the weights (`clo_v2`).")
    between: Literal["text", "algorithm"] = Field(
        "text",
        description="Steps of `clo_v2` in between: weights untouched (the paper's text), or updated on the network's own "
        "batch (its Algorithm 2).",
    )
    parametrisation: Literal["raw", "softplus", "softmax"] = Field(
        "softmax",
        description="`raw`: the weights themselves, may turn negative; `softplus`: positive; `softmax`: positive, and the "
        "terms of each exit keep their mean of 1.",
    )
    minimum: Annotated[float, Field(ge=0.0)] | None = Field(
        None,
        description="`raw`: weights stop falling here; absent: below 0 the network maximises their losses.",
    )
    learning_rate: Positive = Field(1e-3, description="Rate of the weights (the paper's lambda 2).")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="Of the weights.")
    mixing: Literal["ratio", "equal"] = Field(
        "ratio",
        description="Weight of the first half's gradient in CLO: `ratio`: network's rate over the weights' rate, as the "
        "paper writes it; `equal`: 1.",
    )

    @model_validator(mode="after")
    def _fits(self) -> WeightLearning:
        if self.minimum is not None and self.parametrisation != "raw":
            raise ValueError(
                f"`minimum` has no meaning for parametrisation: {self.parametrisation}; remove it"
            )
        for key, schemes in READ_BY_SCHEME.items():
            unset = getattr(self, key) == type(self).model_fields[key].default
            if not unset and self.scheme not in schemes:
                raise ValueError(
                    f"`{key}` has no meaning for scheme: {self.scheme}, only for {' and '.join(schemes)}; remove it"
                )
        return self


class PatientDistillation(Section):
    """A small model that learns from the full one (PKD)."""

    alpha: Fraction = Field(
        0.5, description="Share of the teacher's answers; 1 - `alpha` is the labels' share."
    )
    beta: Annotated[float, Field(ge=0.0)] = Field(
        1.0, description="Weight of the distance between inner states; 0: plain distillation."
    )
    temperature: Positive = Field(5.0, description="Softens teacher and student.")


class Replacement(Section):
    """How layers of the full model are replaced by new ones (BERT-of-Theseus)."""

    start: Fraction = Field(0.5, description="Probability of a replacement in the first step.")
    ramp: Fraction = Field(
        0.5, description="Share of the steps over which it climbs to 1; afterwards the new layers run alone."
    )


class HeadPruning(Section):
    """Which attention heads are removed before the fine-tuning."""

    share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.5, description="Of all heads; the least important go, and every layer keeps one."
    )
    rows: Count = Field(2000, description="Training rows on which importance is measured; whole batches.")


class RemovalOverride(Section):
    """Keys of `removal` that one task sets otherwise: how much a token left weighs goes with the length of the texts."""

    gamma: Annotated[float, Field(ge=0.0)] | None = Field(None, description="See `removal.gamma`.")
    phi: Annotated[float, Field(ge=0.0)] | None = Field(None, description="See `removal.phi`.")
    threshold_learning_rate: Positive | None = Field(
        None, description="See `removal.threshold_learning_rate`."
    )


class Removal(Section):
    """How a model learns which tokens to remove (AdapLeR)."""

    gamma: Annotated[float, Field(ge=0.0)] = Field(
        0.005,
        description="Weight of the predictors' imitation of the saliencies; it trains weights, no threshold.",
    )
    phi: Annotated[float, Field(ge=0.0)] = Field(
        0.0005,
        description="Weight of the tokens left in all layers; it trains thresholds alone. Shrink it as 1 / length.",
    )
    eta: Annotated[float, Field(ge=0.01, le=1.0)] = Field(
        0.25,
        description="Thresholds at the start: the share of the uniform contribution, 1 / n of n tokens, that a token needs.",
    )
    threshold_learning_rate: Positive = Field(5e-4, description="Peak rate of the thresholds.")
    start: Literal["pretrained", "fine_tuned"] = Field(
        "pretrained", description="Begin with the pre-trained encoder, or with the full fine-tuned model."
    )
    max_loss: Annotated[float, Field(ge=0.0)] = Field(
        1.0,
        description="Points of development quality below the full model's within which the fastest epoch is kept.",
    )
    by_task: dict[str, RemovalOverride] = Field({}, description="Task -> what it sets otherwise.")

    def on(self, task: str) -> Removal:
        """Return what holds for a task."""
        own = self.by_task.get(task) or RemovalOverride()
        return self.model_copy(update=own.model_dump(exclude_none=True) | {"by_task": {}})


class WeightLearningOverride(Section):
    """Keys of `weight_learning` that one task sets otherwise."""

    group: Count | None = Field(None, description="See `weight_learning.group`.")
    learning_rate: Positive | None = Field(None, description="See `weight_learning.learning_rate`.")


class TaskTraining(TrainingOverride):
    """How the methods are trained on one task, where papers tune per task; a method's own keys come before these."""

    weight_learning: WeightLearningOverride | None = Field(
        None, description="For the methods that learn the weights of their losses."
    )


class MethodTraining(TrainingOverride):
    """How one method is trained; a change here trains it again."""

    epochs: Annotated[int, Field(ge=0, le=MOST_EPOCHS)] | None = Field(
        None,
        description="See `training.epochs`; 0, for `full` on encoders with `head: checkpoint`: not trained any more.",
    )
    objective: str = Field(
        "joint",
        description="File of `objectives/` that gives the loss, or code of one's own: a file of own_code/, or "
        "`package.module` (docs/your_method.md).",
    )
    gradient: Literal["shared", "blockwise", "equilibrium"] = Field(
        "shared",
        description="`shared`: every exit trains all layers below it (EE); `blockwise`: its own block (SWEET); "
        "`equilibrium`: all layers below, each layer the mean over the exits above it (ElasticBERT).",
    )
    clip: Literal["global", "per_block"] = Field(
        "global", description="Gradient clipping over the whole model, or over each block by itself."
    )
    backward: Literal["whole", "block_local"] = Field(
        "whole",
        description="`block_local` (blockwise gradients only) frees a block's activations at its exit.",
    )

    exits: list[Count] | None = Field(
        None,
        min_length=1,
        description="Exit layers in place of the backbone's, e.g. [3]: the first 3 layers alone.",
    )
    keep_epochs: Count = Field(
        1,
        description="`full` only: epochs of best development quality whose weights are kept, one model each; saliencies are "
        "the mean over them (the paper: 3).",
    )
    weights: Literal["uniform", "depth", "random"] = Field(
        "uniform",
        description="Of the exits' losses: 1 each (EE); the exit's layer over the sum of layers (PABEE); `random` "
        "integers of 1 to 50 over their sum per exit (`distill` only, LeeBERT-rand).",
    )
    alternate: bool = Field(
        False, description="`joint`: odd steps train all exits, even steps the last one alone (BERxiT)."
    )
    targets: Literal["labels", "teacher"] = Field(
        "labels",
        description="`frozen`: inner exits learn labels (DeeBERT) or the last exit's answer (FastBERT).",
    )
    inner_head: Literal["as_backbone", "attention"] = Field(
        "as_backbone",
        description="`frozen`: head of the inner exits; `attention` is FastBERT's student (2 heads over 128 units).",
    )
    distillation: Distillation | None = Field(
        None, description="`distill` and `weight_learning`: who teaches whom; absent: the defaults."
    )
    weight_learning: WeightLearning | None = Field(
        None, description="`weight_learning`: how the loss weights are learned; absent: the defaults."
    )
    patient: PatientDistillation | None = Field(
        None, description="`patient_distillation`: what the student learns from; absent: the defaults."
    )
    replacement: Replacement | None = Field(
        None, description="`module_replacing`: when layers are replaced; absent: the defaults."
    )
    drop_rate: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.2, description="`layer_drop`: probability that a layer is left out in a step."
    )
    pruning: HeadPruning | None = Field(
        None, description="`head_pruning`: how many heads are removed; absent: the defaults."
    )
    removal: Removal | None = Field(
        None, description="`adapler` and `adapler_joint`: how removal is learned; absent: the defaults."
    )

    @model_validator(mode="after")
    def _fits(self) -> MethodTraining:
        for key, value in (("backward", "block_local"), ("clip", "per_block")):
            if getattr(self, key) == value and self.gradient != "blockwise":
                raise ValueError(f"{key}: {value} needs gradient: blockwise")
        if self.backward == "block_local" and self.alternate:
            raise ValueError(
                "backward: block_local needs a loss at every exit in every step; leave out `alternate`"
            )
        if self.backward == "block_local" and self.objective in (*EXITS_TOGETHER, *REDUCING):
            raise ValueError(
                f"backward: block_local needs losses that stand alone; objective: {self.objective} looks at all of them"
            )
        if self.epochs == 0 and (
            others := self.model_fields_set & TrainingOverride.model_fields.keys() - {"epochs"}
        ):
            raise ValueError(f"`{min(others)}` has no meaning for epochs: 0, which trains nothing; remove it")
        if self.exits is not None and list(self.exits) != sorted(set(self.exits)):
            raise ValueError(f"exits {self.exits} must be ascending and without repeats, e.g. [2, 4, 6]")
        if self.objective in STATIC and len(self.exits or []) != 1:
            raise ValueError(
                f"objective: {self.objective} makes a model of one exit; say after which layer by `exits`, e.g. [3]"
            )
        if self.objective in REDUCING and self.gradient == "equilibrium":
            raise ValueError(
                f"gradient: equilibrium has no meaning for objective: {self.objective}: survival weights cannot be shared "
                "among exits; use shared or blockwise"
            )
        if self.objective == "adapler" and self.exits is not None:
            raise ValueError(
                f"exits {self.exits} have no meaning for objective: adapler, which trains the last exit alone; remove "
                "them, or train exits with it by objective: adapler_joint"
            )
        for key, objectives in READ_BY.items():
            unset = getattr(self, key) == type(self).model_fields[key].default
            if not unset and self.objective in OURS and self.objective not in objectives:
                raise ValueError(
                    f"`{key}` has no meaning for objective: {self.objective}, only for {' and '.join(objectives)}; remove it"
                )
        if len(self.exits or []) == 1:
            self.check_single_exit(f"the single exit {self.exits}")
        for value, objectives in (("random", ("joint",)), ("depth", ("distill",))):
            if self.weights == value and self.objective in objectives:
                raise ValueError(
                    f"weights: {value} has no meaning for objective: {self.objective}; use uniform"
                )
        return self

    def check_single_exit(self, what: str) -> None:
        """Refuse keys that say how several exits share a model, for a model of one.

        Raises
        ------
        ValueError
            Names the key and ``what`` has the single exit.
        """
        for key in BETWEEN_EXITS:
            unset = getattr(self, key) == type(self).model_fields[key].default
            if not unset and self.objective in OURS:
                raise ValueError(
                    f"`{key}` has no meaning for {what}: it says how exits share a model; remove it"
                )


def effective(
    training: Training, by_task: TaskTraining, own: MethodTraining
) -> tuple[Training, MethodTraining]:
    """Return how a method is trained on a task: `training`, the task's section over it, the method's own over both."""
    for section in (by_task, own):
        changes = section.model_dump(include=set(Training.model_fields), exclude_none=True)
        training = training.model_copy(update=changes)
    if by_task.weight_learning and own.objective == "weight_learning":
        learning = own.weight_learning or WeightLearning()
        changes = by_task.weight_learning.model_dump(exclude_none=True, exclude=learning.model_fields_set)
        own = own.model_copy(update={"weight_learning": learning.model_copy(update=changes)})
    return training, own


#: Objectives of this project that read a key; one from elsewhere may read any.
READ_BY = {
    "gradient": ("joint", "frozen", "distill", "weight_learning", "learning_to_exit", "adapler_joint"),
    "weights": ("joint", "distill", "adapler_joint"),
    "alternate": ("joint",),
    "targets": ("frozen",),
    "inner_head": ("frozen",),
    "distillation": ("distill", "weight_learning"),
    "weight_learning": ("weight_learning",),
    "patient": ("patient_distillation",),
    "replacement": ("module_replacing",),
    "drop_rate": ("layer_drop",),
    "pruning": ("head_pruning",),
    "removal": ("adapler", "adapler_joint"),
}
#: Schemes of `weight_learning` that read a key.
READ_BY_SCHEME = {"group": ("clo_v2",), "between": ("clo_v2",), "mixing": ("clo_v1", "clo_v2")}
#: Keys that say how several exits share a model.
BETWEEN_EXITS = ("gradient", "weights", "alternate")
#: Objectives that make a static model of fewer layers.
SHALLOW = ("patient_distillation", "module_replacing", "layer_drop")
#: All that make a model of one exit; heads are pruned in as many layers as one likes.
STATIC = ("head_pruning", *SHALLOW)
#: Objectives under which a model learns to remove tokens; they need saliencies.
REDUCING = ("adapler", "adapler_joint")
#: Objectives that read or start from a model of all layers, which their training must be given.
FROM_FULL = ("frozen", *REDUCING, *STATIC)
#: Objectives whose losses look at several exits at once.
EXITS_TOGETHER = ("frozen", "distill", "weight_learning")
OURS = ("joint", "distill", "weight_learning", "learning_to_exit", *FROM_FULL)
