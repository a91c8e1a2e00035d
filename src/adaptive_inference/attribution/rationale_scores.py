"""How well tokens that a model kept, or scores that it gave them, agree with rationales that people marked.

Rows are ragged: a list with one array per row. Labels are those of `tasks.rationale.token_labels`: 1 rationale, 0 not,
-1 not scored. Rows without a rationale token (not known, none marked, or all of them cut off) are left out and counted.
Tokens are word pieces, where ERASER counts words. Leading axes of a row's array, of layers say, are kept: ``(..., N)``
in, ``(...)`` out.

Source: adapler.md section 6; token F1, IoU F1, comprehensiveness and sufficiency as DeYoung et al. 2020 (ERASER) define
them and their published scorer computes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adaptive_inference.errors import UserError

#: ERASER's shares of the tokens that are removed, or left alone, in `comprehensiveness` and `sufficiency`.
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)

Labels = Sequence[np.ndarray | None]


@dataclass(frozen=True)
class Agreement:
    """Measures of agreement with the rationales, each an array ``(...)`` of the leading axes.

    Attributes
    ----------
    rows, left_out
        Rows that were scored, and rows without a rationale token.
    micro
        Measures of the counts summed over all rows.
    macro
        Measures of each row, averaged over the rows.
    """

    rows: int
    left_out: int
    micro: dict[str, np.ndarray]
    macro: dict[str, np.ndarray]


def score_kept(kept: Sequence[np.ndarray], labels: Labels) -> Agreement:
    """Score sets of kept tokens.

    Parameters
    ----------
    kept
        Per row ``(..., N)`` bool.
    labels
        Per row ``(N,)``, or None.

    Returns
    -------
    Agreement
        ``precision`` (kept rationale tokens / kept), ``recall`` (kept rationale tokens / rationale), ``f1`` and
        ``false_positive_rate`` (kept others / others). Precision is 0 where nothing is kept. A row of rationale tokens
        only has no false-positive rate and is no part of its macro average; NaN where no row has one. The macro ``f1``,
        the mean of the rows' F1, is ERASER's token F1.

    Raises
    ------
    UserError
        No row has a rationale token, or a row has another number of tokens than labels.
    """
    counts = [
        (
            (of_row & gold).sum(-1),
            of_row.sum(-1),
            np.full(of_row.shape[:-1], gold.sum()),
            np.full(of_row.shape[:-1], len(gold)),
        )
        for of_row, gold in _scored(kept, labels)
    ]
    hits, chosen, marked, tokens = (np.array(count) for count in zip(*counts, strict=True))
    rows = _measures(hits, chosen, marked, tokens)
    macro = {name: _mean_of_defined(values) for name, values in rows.items()}
    micro = _measures(hits.sum(0), chosen.sum(0), marked.sum(0), tokens.sum(0))
    return Agreement(len(counts), len(labels) - len(counts), micro, macro)


def as_many(scores: Sequence[np.ndarray], kept: Sequence[np.ndarray], labels: Labels) -> list[np.ndarray]:
    """Choose the best tokens by a score, as many in each row as a kept set has, among those that are scored.

    Parameters
    ----------
    scores
        Per row ``(N,)``, or of the shape of ``kept``; of equal scores the earlier token counts as better.
    kept
        Per row ``(..., N)`` bool; tokens that are not scored do not count.
    labels
        Per row ``(N,)``; of a row without labels the kept set itself is returned.

    Returns
    -------
    list of arrays
        Per row ``(..., N)`` bool.
    """
    chosen = []
    for row, (of_row, gold) in enumerate(zip(kept, labels, strict=True)):
        if gold is None:
            chosen.append(of_row)
            continue
        _check_tokens(scores[row], gold, row)
        _check_tokens(of_row, gold, row)
        count = (of_row & (gold >= 0)).sum(-1)
        chosen.append(_best(np.broadcast_to(scores[row], of_row.shape), gold >= 0, count))
    return chosen


def mean_average_precision(scores: Sequence[np.ndarray], labels: Labels) -> tuple[np.ndarray, int]:
    """Return the average precision of scores, averaged over the rows, and how many rows were scored.

    Parameters
    ----------
    scores
        Per row ``(..., N)``; -inf is allowed, as of tokens that are gone.
    labels
        Per row ``(N,)``, or None.

    Returns
    -------
    array ``(...)``
        The mean over the rows with a rationale token; equal scores count together, as in scikit-learn.
    int
        Number of these rows.

    Raises
    ------
    UserError
        As `score_kept`; or a score is NaN.
    """
    values = [_average_precision(of_row, gold) for of_row, gold in _scored(scores, labels)]
    return np.mean(values, axis=0), len(values)


def score_spans(kept: Sequence[np.ndarray], labels: Labels, threshold: float = 0.5) -> Agreement:
    """Score runs of kept tokens against runs of rationale tokens: ERASER's IoU F1.

    A kept run is a hit where its intersection with one rationale run is at least ``threshold`` of their union.

    Returns
    -------
    Agreement
        ``precision`` (hits / kept runs), ``recall`` (hits / rationale runs) and ``f1``. In macro, precision is the mean
        over the rows that keep anything (0 where none does), recall that over all rows, and ``f1`` is that of these two
        means. From a ``threshold`` of 0.5 on no two kept runs hit one rationale run.
    """
    counts = []
    for of_row, gold in _scored(kept, labels):
        truth = _runs(gold)
        flat = [_span_counts(_runs(one), truth, threshold) for one in of_row.reshape(-1, len(gold))]
        counts.append(np.array(flat).reshape(*of_row.shape[:-1], 3))
    hits, chosen, marked = np.moveaxis(np.array(counts), -1, 0)
    precision = np.nan_to_num(_mean_of_defined(_ratio(hits, chosen, np.nan)))
    recall = _ratio(hits, marked).mean(0)
    totals = hits.sum(0), chosen.sum(0), marked.sum(0)
    micro = _precision_recall_f1(_ratio(totals[0], totals[1]), _ratio(totals[0], totals[2]))
    return Agreement(len(counts), len(labels) - len(counts), micro, _precision_recall_f1(precision, recall))


def top_shares(scores_N: np.ndarray, scored_N: np.ndarray, shares: Sequence[float] = BINS) -> np.ndarray:
    """Return for each share the best tokens by a score, ``(K, N)`` bool; each set holds the one before.

    Parameters
    ----------
    scores_N, scored_N
        Scores, and the tokens that may be chosen (no special ones).
    shares
        Fractions of the tokens that may be chosen, rounded up to whole tokens.
    """
    counts = np.ceil(np.round(np.multiply(shares, scored_N.sum()), 9)).astype(np.int64)
    return _best(np.broadcast_to(scores_N, (len(counts), len(scores_N))), scored_N, counts)


def comprehensiveness(full_BC: np.ndarray, without_KBC: np.ndarray) -> np.ndarray:
    """Return by how much the predicted class's probability falls where the rationale is removed: large is good.

    Parameters
    ----------
    full_BC
        Probabilities of the rows as they are.
    without_KBC
        Probabilities of the rows without their rationale, of K sizes (those of `BINS`, or one: kept or not).

    Returns
    -------
    (K,) array
        Means over the rows; ERASER's AOPC is their mean over the sizes.
    """
    return _fall(full_BC, without_KBC)


def sufficiency(full_BC: np.ndarray, alone_KBC: np.ndarray) -> np.ndarray:
    """Return by how much the predicted class's probability falls where the rationale stands alone: small is good.

    Parameters and result as those of `comprehensiveness`, with the rationale alone in place of the rest.
    """
    return _fall(full_BC, alone_KBC)


def _fall(full_BC: np.ndarray, changed_KBC: np.ndarray) -> np.ndarray:
    predicted_B1 = full_BC.argmax(-1)[:, None]
    before_B1 = np.take_along_axis(full_BC, predicted_B1, -1)
    after_KB1 = np.take_along_axis(changed_KBC, predicted_B1[None], -1)
    return (before_B1 - after_KB1)[..., 0].mean(-1)


def _scored(values: Sequence[np.ndarray], labels: Labels) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what each row with a rationale token says of its scored tokens, and which of them are rationale (bool)."""
    if not any(gold is not None and (gold == 1).any() for gold in labels):
        raise UserError(
            f"none of the {len(labels)} rows has a rationale token, so there is nothing to score; check `rationale` of "
            "the task, and that `max_length` does not cut the rationales off"
        )
    for row, (of_row, gold) in enumerate(zip(values, labels, strict=True)):
        if gold is None or not (gold == 1).any():
            continue
        _check_tokens(of_row, gold, row)
        yield of_row[..., gold >= 0], gold[gold >= 0] == 1


def _check_tokens(of_row: np.ndarray, gold: np.ndarray, row: int) -> None:
    if of_row.shape[-1] != len(gold):
        raise UserError(
            f"row {row} has {of_row.shape[-1]} tokens, but {len(gold)} labels; make both with the same tokenizer and "
            "`max_length`"
        )
    if np.isnan(of_row).any():
        raise UserError(f"row {row} has a score that is NaN; make the scores again")


def _best(scores: np.ndarray, allowed_N: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Choose the ``count`` best of the allowed tokens, ``(..., N)`` and ``(...)`` to ``(..., N)`` bool."""
    order = np.lexsort((-scores, np.broadcast_to(~allowed_N, scores.shape)), axis=-1)
    return order.argsort(-1) < count[..., None]


def _average_precision(scores: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Average precision along the last axis: the sum over distinct scores of precision times the gain in recall."""
    order = np.argsort(-scores, axis=-1)
    ranked = np.take_along_axis(scores, order, -1)
    hits = gold[order].cumsum(-1)
    last = np.ones(scores.shape, dtype=bool)  # of its equals
    last[..., :-1] = ranked[..., 1:] != ranked[..., :-1]
    precision = hits / np.arange(1, scores.shape[-1] + 1)
    reached = np.maximum.accumulate(np.where(last, hits, 0), -1)
    gained = np.diff(reached, axis=-1, prepend=0)
    return (precision * gained).sum(-1) / gold.sum()


def _runs(marked_N: np.ndarray) -> np.ndarray:
    """Return runs of marked tokens, ``(S, 2)``: half-open."""
    edges = np.diff(marked_N.astype(np.int8), prepend=0, append=0)
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)


def _span_counts(kept_S2: np.ndarray, truth_T2: np.ndarray, threshold: float) -> tuple[int, int, int]:
    start, end = (kept_S2[:, None, side] for side in (0, 1))
    shared = np.minimum(end, truth_T2[:, 1]) - np.maximum(start, truth_T2[:, 0])
    either = np.maximum(end, truth_T2[:, 1]) - np.minimum(start, truth_T2[:, 0])  # the union, where they meet
    hit = (shared > 0) & (shared >= threshold * either)
    return int(hit.any(1).sum()), len(kept_S2), len(truth_T2)


def _measures(
    hits: np.ndarray, chosen: np.ndarray, marked: np.ndarray, tokens: np.ndarray
) -> dict[str, np.ndarray]:
    body = _precision_recall_f1(_ratio(hits, chosen), _ratio(hits, marked))
    return body | {"false_positive_rate": _ratio(chosen - hits, tokens - marked, np.nan)}


def _precision_recall_f1(precision: np.ndarray, recall: np.ndarray) -> dict[str, np.ndarray]:
    f1 = _ratio(2 * precision * recall, precision + recall)
    return {"precision": precision, "recall": recall, "f1": f1}


def _ratio(part: np.ndarray, whole: np.ndarray, undefined: float = 0.0) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), undefined), where=np.asarray(whole) > 0)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(0), defined.sum(0), np.nan)
