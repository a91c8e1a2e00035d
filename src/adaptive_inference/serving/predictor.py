"""Answer texts with a saved model: which rule, at which threshold, and what comes out. Loads torch with a model only.

Shapes: N texts, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules.base import shifted_exponentials
from adaptive_inference.serving.setting import choose_setting
from adaptive_inference.tasks.encode import collate, encode_texts
from adaptive_inference.tasks.schema import SCHEMA_FILE, Schema

if TYPE_CHECKING:
    from adaptive_inference.exits.model import ExitModule

Text = str | Sequence[str]

#: Batches' worth of a stream that are sorted by length before they are cut into batches.
SORTED_BATCHES = 16


@dataclass
class Prediction:
    """The answer to one text: class and calibrated ``probabilities`` (C,), or a raw score and None (regression)."""

    label: str | float
    probabilities: np.ndarray | None
    exit_layer: int


@dataclass
class Predictions:
    """What the model answers.

    Attributes
    ----------
    labels
        Names of the most probable classes; scores (floats) of a regression task, as the head gives them: not clipped
        to the range of the training scores.
    probabilities
        (N, C), calibrated; None for a regression task.
    exit_layers
        (N,), layers run before the exit that answered.
    """

    labels: list[str] | list[float]
    probabilities: np.ndarray | None
    exit_layers: np.ndarray


class Predictor:
    """A model with a rule and a threshold, ready to answer.

    Parameters
    ----------
    model
        With schema and tokenizer, as `load_model` returns it.
    rule, threshold
        Default: the operating point that the calibration recommends. A rule alone takes that rule's operating
        point; a threshold alone changes the recommended rule's. Without calibration: full depth.

    Raises
    ------
    UserError
        The model has no schema or tokenizer, or the rule does not fit it.
    """

    def __init__(self, model: ExitModule, rule: str | None = None, threshold: float | None = None) -> None:
        from adaptive_inference.engine import Engine

        needed = {SCHEMA_FILE: model.schema, "tokenizer_config.json": model.tokenizer}
        if lacking := [name for name, part in needed.items() if part is None]:
            raise UserError(
                f"this model was saved without {' and '.join(lacking)}, which answers need; load one that a training stage "
                "or export saved"
            )
        self.model, self.schema = model, model.schema
        setting = choose_setting(model.calibration, len(model.exits), model.schema, rule, threshold)
        self.engine = Engine(model, setting.rule, setting.threshold)

    def answer(self, text: Text) -> Prediction:
        """Answer one text; see `predict`."""
        (answer,) = self._answers([text], 1)
        return answer

    def stream(self, texts: Iterable[Text], batch_size: int = 1) -> Iterator[Prediction]:
        """Answer texts as they come, in their order: each at once, or with larger batches some batches' worth together."""
        check_batch_size(batch_size)
        waiting = iter(texts)
        while group := list(islice(waiting, batch_size if batch_size == 1 else SORTED_BATCHES * batch_size)):
            yield from self._answers(group, batch_size)

    def predict(self, texts: Sequence[Text], batch_size: int = 1) -> Predictions:
        """Answer each text at the first exit where the rule fires.

        Parameters
        ----------
        texts
            Strings, or pairs of strings for a task with two text columns.
        batch_size
            Rows at once, of like length; each gets the answer that it gets alone, up to rounding.

        Raises
        ------
        UserError
            A text is missing or of the wrong shape; then none is answered.
        """
        check_batch_size(batch_size)
        if isinstance(texts, str):
            raise UserError("`texts` is one string; give a list of them")
        for row, text in enumerate(texts):
            try:
                check_text(text, self.schema)
            except UserError as error:
                raise UserError(f"text {row}: {error}") from None
        answers = self._answers(texts, batch_size)
        layers = np.array([answer.exit_layer for answer in answers], dtype=np.int64)
        labels = [answer.label for answer in answers]
        if self.schema.labels is None:
            return Predictions(labels, None, layers)
        probabilities = np.array([answer.probabilities for answer in answers])
        return Predictions(labels, probabilities.reshape(-1, len(self.schema.labels)), layers)

    def _answers(self, texts: Sequence[Text], batch_size: int) -> list[Prediction]:
        """Answer texts in batches of like length; the answers are in the texts' order."""
        if not texts:
            return []
        tokenizer = self.model.tokenizer
        checked = [check_text(text, self.schema) for text in texts]
        rows = encode_texts(checked, tokenizer, self.schema.max_length)
        known = self.model.vocabulary
        if any(max(row["input_ids"], default=known) >= known for row in rows):
            raise UserError(
                "the tokenizer gives no token, or one that the model does not know, and is of another model; put the "
                "model's own tokenizer files into its folder"
            )
        order = sorted(range(len(rows)), key=lambda place: rows[place]["length"])
        found: dict[int, Prediction] = {}
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            decisions = self.engine.run(collate([rows[place] for place in places], tokenizer.pad_token_id))
            for place, logits, index, layer in zip(
                places, decisions.logits, decisions.exit_indices, decisions.exit_layers, strict=True
            ):
                found[place] = self._prediction(logits, int(index), int(layer))
        return [found[place] for place in range(len(rows))]

    def _prediction(self, logits: np.ndarray, index: int, layer: int) -> Prediction:
        if self.schema.labels is None:
            return Prediction(float(logits[0]), None, layer)
        probabilities = softmax(self.engine.calibrator.logits(logits, index))
        return Prediction(self.schema.labels[int(logits.argmax())], probabilities, layer)


def load_predictor(
    folder: str | Path, rule: str | None = None, threshold: float | None = None, revision: str | None = None
) -> Predictor:
    """Load a saved model, ready to answer texts.

    Parameters
    ----------
    folder
        An exported model's folder, a method's run folder, or a model's id on a hub.
    rule, threshold
        See `Predictor`.
    revision
        Of an id; see `hub.model_folder`.

    Raises
    ------
    UserError
        There is no model that this release can read, or the rule does not fit it.
    """
    from adaptive_inference.serving.hub import model_folder

    home = model_folder(folder, revision)
    from adaptive_inference.exits.load import load_model

    return Predictor(load_model(home), rule, threshold)


def check_batch_size(batch_size: int) -> None:
    """Refuse what is no number of rows."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"batch size {batch_size} must be a whole number from 1, e.g. 32")


def check_text(text: Text, schema: Schema) -> tuple[str, ...]:
    """Return the text or texts of one row, or say what the task needs."""
    texts = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, (list, tuple)) else ()
    if len(texts) != len(schema.text) or not all(isinstance(item, str) for item in texts):
        needs = "one string" if len(schema.text) == 1 else f"{len(schema.text)} strings"
        raise UserError(
            f"{text!r} does not fit task {schema.task}, which reads {needs} ({', '.join(schema.text)})"
        )
    return texts


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis."""
    exponentials = shifted_exponentials(logits)[1]
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
