"""Agreement with rationales: values worked by hand, scikit-learn's where it has them, and what must hold of all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from adaptive_inference.attribution.rationale_scores import (
    BINS,
    as_many,
    comprehensiveness,
    mean_average_precision,
    score_kept,
    score_spans,
    sufficiency,
    top_shares,
)
from adaptive_inference.errors import UserError

GOLD = np.array([-1, 1, 1, 0, 0, 0, -1], np.int8)
KEPT = np.array([1, 1, 0, 1, 1, 0, 0], bool)  # the first token and the separator do not count
OTHER_GOLD, OTHER_KEPT = np.array([-1, 0, 1, -1], np.int8), np.array([1, 0, 1, 1], bool)


def score_as_many(scores, kept, labels):
    return score_kept(as_many(scores, kept, labels), labels)


def at(agreement, name, average="micro"):
    return float(getattr(agreement, average)[name])


@st.composite
def scored_rows(draw, layers=1, distinct=False):
    """Rows of (scores (L, N), kept (L, N), labels (N,)), each with a rationale token and another one."""
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(3, 12))
        gold = draw(arrays(np.int8, count, elements=st.integers(-1, 1)))
        gold[:2] = (1, 0)
        gold = gold[draw(st.permutations(range(count)))]
        kept = draw(arrays(bool, (layers, count)))
        unique = {"unique": True} if distinct else {}
        scores = draw(arrays(np.float64, (layers, count), elements=st.integers(-9, 99), **unique))
        rows.append((scores, kept, gold))
    return tuple(zip(*rows, strict=True))


# ---- kept sets -------------------------------------------------------------------------------------------------------


def test_kept_tokens_are_scored_by_hand_worked_counts():
    found = score_kept([KEPT, OTHER_KEPT], [GOLD, OTHER_GOLD])
    # first row: 1 of 3 kept is rationale, of 2; 2 of 3 others are kept. Second: perfect
    assert [
        at(found, name) for name in ("precision", "recall", "f1", "false_positive_rate")
    ] == pytest.approx([2 / 4, 2 / 3, 4 / 7, 2 / 4])
    assert [
        at(found, name, "macro") for name in ("precision", "recall", "f1", "false_positive_rate")
    ] == pytest.approx([(1 / 3 + 1) / 2, (1 / 2 + 1) / 2, (2 / 5 + 1) / 2, (2 / 3 + 0) / 2])


def test_each_layer_is_scored_by_itself():
    layers = np.stack([np.ones(7, bool), KEPT, np.zeros(7, bool)])
    found = score_kept([layers], [GOLD])
    assert found.micro["recall"].tolist() == [1, 0.5, 0]
    assert found.micro["precision"].tolist() == pytest.approx([2 / 5, 1 / 3, 0])
    assert found.micro["false_positive_rate"].tolist() == pytest.approx([1, 2 / 3, 0])
    assert found.micro["f1"].tolist()[2] == 0


def test_rows_without_a_rationale_are_left_out_and_counted():
    labels = [GOLD, None, np.array([-1, 0, 0, -1], np.int8), OTHER_GOLD]
    kept = [KEPT, KEPT, OTHER_KEPT, OTHER_KEPT]
    found, two = score_kept(kept, labels), score_kept([KEPT, OTHER_KEPT], [GOLD, OTHER_GOLD])
    assert (found.rows, found.left_out) == (2, 2)
    assert found.micro == two.micro
    assert found.macro == two.macro
    assert score_spans(kept, labels).left_out == 2
    assert score_as_many([k.astype(float) for k in kept], kept, labels).left_out == 2
    assert mean_average_precision([k.astype(float) for k in kept], labels)[1] == 2


def test_a_row_of_rationale_tokens_only_has_no_false_positive_rate():
    whole, kept = np.array([-1, 1, 1], np.int8), np.array([1, 1, 0], bool)
    assert np.isnan(score_kept([kept], [whole]).macro["false_positive_rate"])
    both = score_kept([kept, KEPT], [whole, GOLD])
    assert at(both, "false_positive_rate", "macro") == pytest.approx(2 / 3)


@given(scored_rows(layers=2))
def test_micro_measures_are_scikit_learns_of_all_tokens(rows):
    _, kept, labels = rows
    found = score_kept(kept, labels)
    for layer in range(2):
        gold = np.concatenate([row[row >= 0] for row in labels])
        chosen = np.concatenate([k[layer][row >= 0] for k, row in zip(kept, labels, strict=True)])
        expected = precision_recall_fscore_support(gold, chosen, average="binary", zero_division=0)[:3]
        mine = [found.micro[name][layer] for name in ("precision", "recall", "f1")]
        assert mine == pytest.approx(list(expected))


@given(scored_rows(layers=2))
def test_keeping_all_has_recall_and_false_positive_rate_1_and_keeping_the_rationale_1_and_0(rows):
    _, kept, labels = rows
    everything = score_kept([np.ones_like(k) for k in kept], labels)
    exactly = score_kept([np.broadcast_to(row == 1, (2, len(row))) for row in labels], labels)
    for average in ("micro", "macro"):
        of_all, of_gold = getattr(everything, average), getattr(exactly, average)
        assert of_all["recall"].tolist() == of_all["false_positive_rate"].tolist() == [1, 1]
        assert of_gold["f1"].tolist() == [1, 1]
        assert of_gold["false_positive_rate"].tolist() == [0, 0]


@given(scored_rows(), st.data())
def test_what_happens_to_tokens_that_are_not_scored_changes_nothing(rows, data):
    scores, kept, labels = rows
    other = [
        np.where(row < 0, data.draw(arrays(bool, k.shape)), k) for k, row in zip(kept, labels, strict=True)
    ]
    loud = [np.where(row < 0, 1e6, s) for s, row in zip(scores, labels, strict=True)]
    assert score_kept(other, labels).micro == score_kept(kept, labels).micro
    assert score_as_many(loud, other, labels).micro == score_as_many(scores, kept, labels).micro
    assert mean_average_precision(loud, labels) == mean_average_precision(scores, labels)


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_average_precision_is_that_worked_by_hand():
    scores = np.array([9, 0.9, 0.2, 0.5, 0.1, 0.0, 9])  # ranks of the rationale tokens: 1 and 3
    value, rows = mean_average_precision([scores], [GOLD])
    assert (float(value), rows) == (pytest.approx((1 + 2 / 3) / 2), 1)


@given(scored_rows(layers=2))
def test_average_precision_is_scikit_learns_averaged_over_the_rows(rows):
    scores, _, labels = rows
    found, _ = mean_average_precision(scores, labels)
    for layer in range(2):
        expected = [
            average_precision_score(row[row >= 0], s[layer][row >= 0])
            for s, row in zip(scores, labels, strict=True)
        ]
        assert found[layer] == pytest.approx(np.mean(expected))


@given(scored_rows())
def test_a_perfect_score_has_average_precision_1_and_no_false_positive_among_as_many(rows):
    _, _, labels = rows
    perfect = [row.astype(float) for row in labels]
    gold = [row == 1 for row in labels]
    assert mean_average_precision(perfect, labels)[0] == 1
    assert at(score_as_many(perfect, gold, labels), "false_positive_rate") == 0


@given(scored_rows(distinct=True), st.randoms())
def test_the_order_of_tokens_does_not_matter(rows, random):
    scores, kept, labels = rows
    orders = [random.sample(range(len(row)), len(row)) for row in labels]
    shuffled = [
        [values[..., order] for values, order in zip(column, orders, strict=True)]
        for column in (scores, kept, labels)
    ]
    assert mean_average_precision(shuffled[0], shuffled[2]) == mean_average_precision(scores, labels)
    assert score_kept(*shuffled[1:]).macro == score_kept(kept, labels).macro
    assert score_as_many(*shuffled).macro == score_as_many(scores, kept, labels).macro


def test_a_score_is_compared_at_the_number_of_tokens_that_were_kept():
    scores = np.array([9, 0.1, 0.9, 0.8, 0.2, 0.3, 9])  # best three that count: 2, 3 and 5
    found = score_as_many([scores], [KEPT], [GOLD])
    assert [at(found, name) for name in ("precision", "recall", "false_positive_rate")] == pytest.approx(
        [1 / 3, 1 / 2, 2 / 3]
    )


@given(scored_rows(layers=3))
def test_as_many_tokens_are_chosen_as_were_kept_for_one_score_or_one_per_layer(rows):
    scores, kept, labels = rows
    for given_ in ([s[0] for s in scores], scores):
        mine, theirs = score_as_many(given_, kept, labels), score_kept(kept, labels)
        for layer in range(3):  # equal numbers: hits / precision
            for found in (mine, theirs):
                hits = found.micro["recall"][layer] * sum((row == 1).sum() for row in labels)
                false = found.micro["false_positive_rate"][layer] * sum((row == 0).sum() for row in labels)
                count = sum((k[layer] & (row >= 0)).sum() for k, row in zip(kept, labels, strict=True))
                assert hits + false == pytest.approx(count)


def test_rows_that_do_not_fit_their_labels_and_scores_that_are_no_numbers_are_named():
    with pytest.raises(UserError, match=r"row 0 has 4 tokens, but 7 labels; .*same tokenizer"):
        score_kept([OTHER_KEPT], [GOLD])
    with pytest.raises(UserError, match="row 1 has a score that is NaN"):
        mean_average_precision([KEPT * 1.0, OTHER_KEPT * np.nan], [GOLD, OTHER_GOLD])
    with pytest.raises(UserError, match="none of the 2 rows has a rationale token"):
        score_kept([KEPT, OTHER_KEPT], [None, np.array([-1, 0, 0, -1], np.int8)])


# ---- ERASER ----------------------------------------------------------------------------------------------------------


def test_spans_are_hits_from_half_of_the_union_on():
    gold = np.array([1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0], np.int8)
    kept = np.array([0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 1, 0], bool)  # IoU 2/4, 1/3, 0
    found = score_spans([kept, OTHER_KEPT], [gold, OTHER_GOLD])
    assert [at(found, name) for name in ("precision", "recall", "f1")] == pytest.approx([2 / 4, 2 / 3, 4 / 7])
    assert [at(found, name, "macro") for name in ("precision", "recall")] == pytest.approx([4 / 6, 3 / 4])
    assert at(found, "f1", "macro") == pytest.approx(2 * (4 / 6) * (3 / 4) / (4 / 6 + 3 / 4))


def test_a_row_that_keeps_nothing_has_no_precision_of_spans_but_recall_0():
    found = score_spans([np.zeros(7, bool), OTHER_KEPT], [GOLD, OTHER_GOLD])
    assert (at(found, "precision", "macro"), at(found, "recall", "macro")) == (1, 0.5)
    assert at(score_spans([np.zeros(7, bool)], [GOLD]), "f1", "macro") == 0


@given(scored_rows(layers=2))
def test_a_higher_threshold_hits_no_more_spans_and_the_rationale_hits_all(rows):
    _, kept, labels = rows
    low, high = score_spans(kept, labels, 0.5), score_spans(kept, labels, 0.9)
    assert (high.micro["f1"] <= low.micro["f1"]).all()
    assert (low.micro["recall"] <= 1).all()
    gold = [row == 1 for row in labels]
    assert at(score_spans(gold, labels, 1.0), "f1") == 1


def test_comprehensiveness_and_sufficiency_are_falls_of_the_predicted_class():
    full = np.array([[0.9, 0.1], [0.2, 0.8]])
    without = np.array([[[0.4, 0.6], [0.5, 0.5]], [[0.9, 0.1], [0.2, 0.8]]])
    assert comprehensiveness(full, without).tolist() == pytest.approx([(0.5 + 0.3) / 2, 0])
    alone = np.array([[[1.0, 0.0], [0.3, 0.7]]])
    assert sufficiency(full, alone).tolist() == pytest.approx([(-0.1 + 0.1) / 2])


@given(
    arrays(
        np.float64, array_shapes(min_dims=1, max_dims=1, min_side=3, max_side=60), elements=st.floats(-5, 5)
    )
)
def test_shares_are_nested_rounded_up_and_never_of_special_tokens(scores):
    scored = np.ones(len(scores), bool)
    scored[[0, -1]] = False
    chosen = top_shares(scores, scored)
    assert chosen.shape == (len(BINS), len(scores))
    assert chosen.sum(1).tolist() == [-(-scored.sum() * percent // 100) for percent in (1, 5, 10, 20, 50)]
    assert (chosen[:-1] <= chosen[1:]).all()
    assert not chosen[:, ~scored].any()
    for of_share in chosen:
        assert scores[of_share].min() >= max(scores[scored & ~of_share], default=-np.inf)
