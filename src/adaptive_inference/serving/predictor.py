"""Answer texts with a saved model: which rule, at which threshold, and what comes out.

Shapes: N texts, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits.model import ExitModule
from adaptive_inference.tasks.schema import Schema

Text = str | Sequence[str]


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
    """A model with a rule and a threshold, ready to answer one text after another.

    Parameters
    ----------
    model
        With schema and tokenizer, as `load_model` returns it.
    rule, threshold
        Default: the recommended operating point of the calibration. A rule alone takes that rule's operating
        point; a threshold alone changes the recommended rule's. Without calibration: full depth.

    Raises
    ------
    UserError
        The model has no schema or tokenizer, or the rule does not fit it.
    """

    def __init__(self, model: ExitModule, rule: str | None = None, threshold: float | None = None) -> None:
        from adaptive_inference.engine.batch1 import Batch1Engine

        if model.schema is None or model.tokenizer is None:
            raise UserError(
                "this model has no schema or tokenizer; load one that a training stage or export saved"
            )
        self.model, self.schema = model, model.schema
        self.engine = Batch1Engine(model, *operating_point(model, rule, threshold))

    def answer(self, text: Text) -> Prediction:
        """Answer one text; see `predict`."""
        import torch

        from adaptive_inference.tasks.encode import TOKEN_COLUMNS, encode_texts

        texts = check_text(text, self.schema)
        (row,) = encode_texts([texts], self.model.tokenizer, self.schema.max_length)
        features = {name: torch.tensor([row[name]]) for name in TOKEN_COLUMNS if name in row}
        decision = self.engine.run(features)
        logits = decision.logits.float().cpu().numpy()
        if self.schema.labels is None:
            return Prediction(float(logits[0, 0]), None, decision.exit_layer)
        probabilities = softmax(self.engine.calibrator.logits(logits, decision.exit_index)[0])
        return Prediction(self.schema.labels[int(logits[0].argmax())], probabilities, decision.exit_layer)


def predict(
    model: ExitModule,
    texts: Sequence[Text],
    rule: str | None = None,
    threshold: float | None = None,
    batch_size: int = 1,
) -> Predictions:
    """Answer each text at the first exit where the rule fires.

    Parameters
    ----------
    model, rule, threshold
        See `Predictor`.
    texts
        Strings, or pairs of strings for a task with two text columns.
    batch_size
        Rows at once; only 1 for the time being.

    Raises
    ------
    UserError
        A text is missing or of the wrong shape, or the rule does not fit the model.
    """
    if batch_size != 1:
        raise UserError(f"batch size {batch_size} is not supported; use 1")
    if isinstance(texts, str):
        raise UserError("`texts` is one string; give a list of them")
    predictor = Predictor(model, rule, threshold)
    for row, text in enumerate(texts):  # all of them before any is answered
        try:
            check_text(text, predictor.schema)
        except UserError as error:
            raise UserError(f"text {row}: {error}") from None
    answers = [predictor.answer(text) for text in texts]
    layers = np.array([answer.exit_layer for answer in answers], dtype=np.int64)
    labels = [answer.label for answer in answers]
    if predictor.schema.labels is None:
        return Predictions(labels, None, layers)
    probabilities = np.array([answer.probabilities for answer in answers])
    return Predictions(labels, probabilities.reshape(-1, len(predictor.schema.labels)), layers)


def check_text(text: Text, schema: Schema) -> tuple[str, ...]:
    """Return the text or texts of one row, or say what the task needs."""
    texts = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, (list, tuple)) else ()
    if len(texts) != len(schema.text) or not all(isinstance(item, str) for item in texts):
        needs = "one string" if len(schema.text) == 1 else f"{len(schema.text)} strings"
        raise UserError(
            f"{text!r} does not fit task {schema.task}, which reads {needs} ({', '.join(schema.text)})"
        )
    return texts


def operating_point(
    model: ExitModule, rule: str | None = None, threshold: float | None = None
) -> tuple[str, float | None]:
    """Return the rule and threshold to predict with; see `predict` for the defaults.

    Raises
    ------
    UserError
        No threshold is given for a rule that the calibration has no operating point of, or one that makes no sense.
    """
    recommended = recommendation(model)
    rule = None if rule is None else load_rule(rule).name
    if rule is None and threshold is not None and recommended["rule"] == "fixed":
        raise UserError(
            f"threshold {threshold:g} needs a rule: this model has no recommended one to apply it to; name one, e.g. "
            "rule confidence"
        )
    if threshold is not None and model.schema is not None:
        asked = load_rule(rule or recommended["rule"])
        if model.schema.kind in asked.kinds:  # otherwise the engine refuses the rule
            asked.check_threshold(threshold, len(model.schema.labels or ()))
    if rule is None or (rule == recommended["rule"] and threshold is None):
        return recommended["rule"], recommended["threshold"] if threshold is None else threshold
    if (
        threshold is not None or rule == "fixed" or not load_rule(rule).attainable
    ):  # the last is the engine's to refuse
        return rule, threshold
    points = [point for point in _points(model) if point["qualifies"]]
    own = [point for point in points if point["rule"] == rule]
    if not own:
        known = ", ".join(sorted({point["rule"] for point in points})) or "none"
        raise UserError(
            f"no calibrated threshold for rule {rule!r}; give a threshold, or use a rule that has one: {known}"
        )
    kept = [point for point in own if point["name"].startswith("max_loss_")]
    if not kept:
        choices = ", ".join(f"{point['threshold']:g} ({point['name']})" for point in own)
        raise UserError(
            f"no threshold of rule {rule!r} keeps the quality on the calibration split; name one yourself: {choices}"
        )
    return rule, max(kept, key=lambda point: point["layers_speedup"])["threshold"]


def recommendation(model: ExitModule) -> dict[str, Any]:
    """Return the calibration's recommended rule, threshold and operating point; full depth where there is none."""
    from adaptive_inference.calibration.operating_points import recommend

    given = (model.calibration or {}).get("recommended")
    return given or recommend(_points(model), len(model.exits))


def _points(model: ExitModule) -> list[dict[str, Any]]:
    """Return the operating points that can be answered with: none of a cascade's member alone, none of a bound."""
    points = (model.calibration or {}).get("operating_points", [])
    return [point for point in points if not point.get("method") and load_rule(point["rule"]).attainable]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
