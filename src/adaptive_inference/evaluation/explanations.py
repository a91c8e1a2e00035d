"""How well the scores of tokens explain a model: against rationales, against its own answers, and in pictures.

Of a model without token reduction, every kind of `attribution.extract.KINDS` is scored. Of one with it, what its predictors
say and what they keep is, layer by layer; and beside each layer's kept tokens, as many tokens of the full model's kinds: the
comparison that a smaller set cannot win by being smaller.

Shape suffixes: L layers, N tokens of a row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from adaptive_inference.attribution.extract import KINDS, extract_scores
from adaptive_inference.attribution.rationale_scores import (
    Labels,
    as_many,
    mean_average_precision,
    score_kept,
    score_spans,
)
from adaptive_inference.attribution.survival import Survival, survivals
from adaptive_inference.errors import UserError
from adaptive_inference.evaluation.explained import (
    ALL_LAYERS,
    BASELINES,
    CONTRIBUTIONS,
    Explained,
    Line,
    Measured,
    Picture,
)
from adaptive_inference.evaluation.faithfulness import Faithfulness, word_tokens
from adaptive_inference.evaluation.statistics import bootstrap
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.tasks.encode import Feature, encode
from adaptive_inference.tasks.quality import predict
from adaptive_inference.tasks.rationale import token_labels
from adaptive_inference.tasks.schema import Example, Split

logger = logging.getLogger("adaptive_inference")


def explain(
    model: MultiExitModel,
    full: MultiExitModel,
    split: Split,
    *,
    rows: int,
    integrated_gradients_rows: int,
    pictures: int,
    batch_size: int,
    resamples: int = 1000,
    seed: int = 0,
) -> Explained:
    """Score the explanations of a model's last exit.

    Parameters
    ----------
    model
        With its tokenizer and schema.
    full
        The full model of the same tokenizer: its saliency, attention and rollout are what kept tokens are compared with.
        Not run where ``model`` removes no tokens.
    split
        Examples; their first rows are explained, see `chosen_rows`.
    rows, integrated_gradients_rows
        How many; integrated gradients take `steps` + 2 passes for each row. 0 of them: that kind is left out.
    pictures
        Rows of which a picture is made.
    batch_size
        Rows per forward.
    resamples, seed
        Of the intervals of differences.

    Raises
    ------
    UserError
        The model is a cascade; it lacks its tokenizer or schema; or the split's rationales name no token that is left.
    """
    if not isinstance(model, MultiExitModel) or model.tokenizer is None or model.schema is None:
        raise UserError(
            f"a {type(model).__name__} cannot be explained: it must be one encoder, saved with tokenizer and schema; name "
            "a method that trains one in `explanations.methods`"
        )
    chosen, labels = chosen_rows(split, model, rows)
    features = encode(chosen, model.tokenizer, model.schema.max_length)
    asked = _Asked(model, features, labels, batch_size)
    if model.reduction is None:
        measured, lines = _of_kinds(asked, integrated_gradients_rows)
    else:
        found = survivals(model, features, batch_size)
        measured = list(_of_layers(asked, found))
        if asked.marked:
            for kind in BASELINES:
                scores = _scores(full, features, kind, batch_size)
                measured += _beside(asked, kind, scores, found, resamples, seed)
        lines = [_layer_lines(item) for item in found]
    answers = predict(asked.logits_BC, model.schema.kind)
    shown = list(zip(chosen, features, labels, answers, lines, strict=True))[:pictures]
    return Explained(measured, [_picture(model, *item) for item in shown])


def chosen_rows(split: Split, model: MultiExitModel, rows: int) -> tuple[Split, list[np.ndarray | None]]:
    """Return the first rows with a rationale token and their labels; of a task without rationales, the first rows.

    Raises
    ------
    UserError
        The split has rationales, but none of their words became a token.
    """
    labels = token_labels(split, model.tokenizer, model.schema.max_length)
    places = [row for row, gold in enumerate(labels) if gold is not None and (gold == 1).any()]
    if not places and any(example.rationale for example in split):
        raise UserError(
            f"no word of the {len(split)} rows' rationales became a token, so that nothing can be compared with them; "
            "check `rationale` of the task, and that `max_length` does not cut the rationales off"
        )
    places = (places or list(range(len(split))))[:rows]
    logger.info("%d of %d rows are explained", len(places), len(split))
    return Split(split[place] for place in places), [labels[place] for place in places]


class _Asked:
    """The rows that are explained, and what the model answers to them."""

    def __init__(
        self, model: MultiExitModel, features: Sequence[Feature], labels: Labels, batch_size: int
    ) -> None:
        self.model, self.features, self.labels, self.batch_size = model, features, labels, batch_size
        self.marked = sum(gold is not None and bool((gold == 1).any()) for gold in labels)
        self.faithful = Faithfulness(model, features, batch_size)
        self.logits_BC = self.faithful.logits_BC

    def scored(self, scores: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return what can be said of scores alone, ``(N,)`` each, of the first rows or of all."""
        labels, found = self.labels[: len(scores)], {}
        if self.marked:
            found["average_precision"] = float(mean_average_precision(scores, labels)[0])
        if self.model.schema.kind == "classification":
            found |= zip(("comprehensiveness", "sufficiency"), self.faithful.of(scores), strict=True)
        return self.counted(len(scores)) | found

    def counted(self, rows: int) -> dict[str, int]:
        """Return the numbers of rows."""
        return {"rows": rows, "rationales": min(rows, self.marked)}


def _of_kinds(asked: _Asked, integrated_rows: int) -> tuple[list[Measured], list[tuple[Line, ...]]]:
    """Score every kind; the lines of a picture are the kinds."""
    measured, lines = [], [()] * len(asked.features)
    for kind in KINDS:
        features = asked.features[: integrated_rows if kind == "integrated_gradients" else None]
        if not features:
            continue
        scores = _scores(asked.model, features, kind, asked.batch_size)
        measured.append(Measured(kind, **asked.scored(scores)))
        for place, of_row in enumerate(scores):
            lines[place] += (Line(kind.replace("_", " "), of_row, np.ones(len(of_row), dtype=bool)),)
    return measured, lines


def _of_layers(asked: _Asked, found: Sequence[Survival]) -> Iterator[Measured]:
    """Score what the predictors say and what is kept, layer by layer and over all layers."""
    kept = _agreement([item.kept_LN for item in found], asked.labels) if asked.marked else {}
    for layer in range(len(found[0].kept_LN)):
        of_layer = {name: float(values[layer]) for name, values in kept.items()}
        scores = asked.scored([item.ranked_LN[layer] for item in found])
        yield Measured(CONTRIBUTIONS, str(layer + 1), **scores, **of_layer)
    means = {name: float(values.mean()) for name, values in kept.items()}
    yield Measured(CONTRIBUTIONS, ALL_LAYERS, **asked.scored([item.mean_N for item in found]), **means)


def _beside(
    asked: _Asked,
    kind: str,
    scores: Sequence[np.ndarray],
    found: Sequence[Survival],
    resamples: int,
    seed: int,
) -> Iterator[Measured]:
    """Score as many tokens by another kind as each layer keeps."""
    kept = [item.kept_LN for item in found]
    others = as_many(scores, kept, asked.labels)
    figures = _agreement(others, asked.labels)
    rates_BL, own_BL = (_false_positive_rates(item, asked.labels) for item in (others, kept))
    differences_BL = own_BL - rates_BL
    counted = asked.counted(len(scores))
    for layer in range(differences_BL.shape[1]):
        of_layer = {name: float(values[layer]) for name, values in figures.items()}
        difference = _difference(differences_BL[:, layer], resamples, seed)
        yield Measured(kind, str(layer + 1), **counted, **of_layer, **difference)
    means = {name: float(values.mean()) for name, values in figures.items()}
    means["average_precision"] = float(mean_average_precision(scores, asked.labels)[0])
    difference = _difference(differences_BL.mean(1), resamples, seed)
    yield Measured(kind, ALL_LAYERS, **counted, **means, **difference)


def _agreement(kept: Sequence[np.ndarray], labels: Labels) -> dict[str, np.ndarray]:
    """Return the figures of kept tokens, ``(L, N)`` each, by layer; means over the rows, as ERASER reports them."""
    macro = score_kept(kept, labels).macro
    figures = {name: macro[name] for name in ("precision", "recall", "false_positive_rate")}
    return figures | {"token_f1": macro["f1"], "iou_f1": score_spans(kept, labels).macro["f1"]}


def _false_positive_rates(kept: Sequence[np.ndarray], labels: Labels) -> np.ndarray:
    """Return the false-positive rate of each row that has one, ``(B, L)``."""
    rates = [
        score_kept([of_row], [gold]).macro["false_positive_rate"]
        for of_row, gold in zip(kept, labels, strict=True)
        if gold is not None and (gold == 1).any() and (gold == 0).any()
    ]
    return np.array(rates).reshape(len(rates), -1)


def _difference(values_B: np.ndarray, resamples: int, seed: int) -> dict[str, float | None]:
    if not len(values_B):
        return {}
    low, high = bootstrap(lambda rows: values_B[rows].mean(-1), len(values_B), resamples, seed)
    return {"fpr_difference": float(values_B.mean()), "fpr_low": low, "fpr_high": high}


def _scores(
    model: MultiExitModel, features: Sequence[Feature], kind: str, batch_size: int
) -> list[np.ndarray]:
    scores = extract_scores(model, features, kind, batch_size, model.schema.max_length, {})
    return scores.of(features, scores.origin)


def _layer_lines(found: Survival) -> tuple[Line, ...]:
    pairs = zip(found.scores_LN, found.kept_LN, strict=True)
    return tuple(Line(f"layer {layer}", *pair) for layer, pair in enumerate(pairs, start=1))


def _picture(
    model: MultiExitModel,
    example: Example,
    feature: Feature,
    gold: np.ndarray | None,
    answer: float,
    lines: tuple[Line, ...],
) -> Picture:
    # Alone, a token of byte pairs or of sentence pieces is decoded without the sign that it begins a word.
    tokens = tuple(model.tokenizer.decode([token]).strip() or "␣" for token in feature["input_ids"])
    names = model.schema.labels
    label, prediction = (
        f"{value:.3g}" if names is None else names[int(value)] for value in (example.label, answer)
    )
    rationale_N = None if gold is None else gold == 1
    (words_N,) = word_tokens(model, [feature])
    return Picture(example.id, tokens, words_N, rationale_N, label, prediction, lines)
