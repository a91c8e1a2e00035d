"""Whether a model's answer hangs on the tokens that an explanation names: they are taken from the text, or left alone in it.

Source: comprehensiveness and sufficiency of DeYoung et al. 2020 (ERASER), as means over five sizes (AOPC).

Shape suffixes: N tokens of a row, K sizes, B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adaptive_inference.attribution.rationale_scores import comprehensiveness, sufficiency, top_shares
from adaptive_inference.exit_rules._softmax import shifted_exponentials
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.exits.outputs import collect_outputs
from adaptive_inference.tasks.encode import TOKEN_COLUMNS, Feature, special_ids


class Faithfulness:
    """Asks one model about rows with tokens taken out; what it was asked before, it is not asked again.

    Parameters
    ----------
    model
        With its tokenizer. Its last exit's answer counts, by probabilities without temperature.
    features
        Rows of `tasks.encode.encode`.
    batch_size
        Rows per forward.

    Attributes
    ----------
    logits_BC
        Of the rows as they are.
    """

    def __init__(self, model: MultiExitModel, features: Sequence[Feature], batch_size: int) -> None:
        self._model, self._features, self._batch_size = model, features, batch_size
        self._known: dict[bytes, np.ndarray] = {}
        self._words = word_tokens(model, features)
        self.logits_BC = self._logits(features)

    def of(self, scores: Sequence[np.ndarray]) -> tuple[float, float]:
        """Return a classifier's comprehensiveness (large is good) and sufficiency (small is good) of the best tokens.

        Special tokens stay in all inputs; which of them score high is of no matter. A row without a word is left as it is,
        so that it counts 0.

        Parameters
        ----------
        scores
            Per row ``(N,)``, of the first rows or of all.
        """
        without, alone = [], []
        for of_row, feature, words_N in zip(scores, self._features, self._words, strict=False):
            chosen_KN = top_shares(of_row, words_N)
            without += [_with(feature, ~chosen_N) for chosen_N in chosen_KN]
            alone += [_with(feature, chosen_N | ~words_N) for chosen_N in chosen_KN]
        full_BC = _probabilities(self.logits_BC[: len(scores)])
        without_KBC, alone_KBC = (
            _probabilities(self._logits(changed)).reshape(len(full_BC), -1, full_BC.shape[1]).swapaxes(0, 1)
            for changed in (without, alone)
        )
        return (
            float(comprehensiveness(full_BC, without_KBC).mean()),
            float(sufficiency(full_BC, alone_KBC).mean()),
        )

    def _logits(self, features: Sequence[Feature]) -> np.ndarray:
        keys = [_key(feature) for feature in features]
        new = {key: row for key, row in zip(keys, features, strict=True) if key not in self._known}
        if new:
            found = collect_outputs(self._model, list(new.values()), self._batch_size)
            self._known |= zip(new, found.logits[:, -1], strict=True)
        return np.array([self._known[key] for key in keys])


def _probabilities(logits: np.ndarray) -> np.ndarray:
    _, parts = shifted_exponentials(logits)
    return parts / parts.sum(-1, keepdims=True)


def word_tokens(model: MultiExitModel, features: Sequence[Feature]) -> list[np.ndarray]:
    """Return which tokens of each row are of its texts, ``(N,)`` bool: all but the special ones."""
    special = special_ids(model.tokenizer)
    return [~np.isin(feature["input_ids"], special) for feature in features]


def _with(feature: Feature, kept_N: np.ndarray) -> Feature:
    """Return a row with some of its tokens, in their order, as if its text had no others."""
    columns = [name for name in TOKEN_COLUMNS if name in feature]
    kept = {name: [int(item) for item in np.asarray(feature[name])[kept_N]] for name in columns}
    return feature | kept | {"length": int(kept_N.sum())}


def _key(feature: Feature) -> bytes:
    columns = [feature[name] for name in TOKEN_COLUMNS if name in feature]
    return np.array(columns, dtype=np.int64).tobytes()
