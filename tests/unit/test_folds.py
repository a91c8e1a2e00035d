"""Folds of cross-validation."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_inference.errors import UserError
from adaptive_inference.tasks.schema import Example, Split
from adaptive_inference.training.folds import Fold, fold_of_rows

TEXTS = st.lists(st.integers(0, 30), min_size=2, max_size=80).filter(lambda texts: len(set(texts)) >= 2)


@given(TEXTS, st.integers(0, 5), st.data())
def test_folds_keep_a_text_together_and_are_as_even_as_that_allows(texts, seed, data):
    count = data.draw(st.integers(2, len(set(texts))))
    drawn = fold_of_rows(texts, count, seed)
    sizes = Counter(drawn)
    assert set(sizes) == set(range(count))
    assert len({(text, fold) for text, fold in zip(texts, drawn, strict=True)}) == len(set(texts))
    assert max(sizes.values()) - min(sizes.values()) <= max(Counter(texts).values())
    assert drawn == fold_of_rows(texts, count, seed)


def test_the_seed_and_the_number_of_folds_draw_anew():
    texts = range(100)
    assert fold_of_rows(texts, 5, 0) != fold_of_rows(texts, 5, 1)
    assert fold_of_rows(texts, 5, 0) != fold_of_rows(texts, 4, 0)


def rows(labels):
    return Split(Example(place, (f"row {place}",), label) for place, label in enumerate(labels))


@given(st.integers(2, 6), st.integers(0, 3))
def test_each_row_is_held_out_once_and_trained_on_otherwise(count, seed):
    whole = rows([place / 40 for place in range(40)])
    held = []
    for number in range(count):
        train, out = Fold(number, count, seed).split(whole)
        assert sorted(row.id for row in train + out) == [row.id for row in whole]
        assert [row.id for row in train] == sorted(row.id for row in train)
        held += [row.id for row in out]
    assert sorted(held) == [row.id for row in whole]


@pytest.mark.parametrize(
    ("labels", "fold", "says"),
    [
        ([0, 1] * 2, Fold(0, 5, 0), "5 folds of 4 distinct texts"),
        ([0, 1] * 9, Fold(5, 5, 0), "no fold 5"),
        ([0, 1] * 9, Fold(0, 1, 0), "at least 2 folds"),
        ([0] * 18, Fold(0, 2, 0), "one label only"),
        ([0.5] * 18, Fold(1, 2, 0), "one label only"),
    ],
)
def test_folds_that_cannot_be_cut_or_scored_are_refused(labels, fold, says):
    with pytest.raises(UserError, match=says):
        fold.split(rows(labels))
