"""The generated text task: its rule, its kinds of words, and that the kinds differ in what they ask for."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.data.transduction import (
    COPIED,
    DIFFICULTIES,
    DIGITS,
    LOOKED_UP,
    NUMBERS,
    WORDS,
    generate,
    write,
)
from adaptive_inference.errors import UserError

PINNED = [
    "door engine 5 schwein hai letter 4",
    "hund 1 affe schwan camera rocket",
    "kitchen 6 hirsch 4 wheel",
]


@pytest.fixture(scope="module")
def rows():
    return generate(1500, "evaluation")


def test_a_worked_example():
    assert write("katze 6 lamp 3 door 5") == "cat six lamp two door zero"  # 6, 6 + 3 = 9, 2 + 5 = 7


def test_a_word_that_the_task_does_not_have_is_refused():
    with pytest.raises(UserError, match="no word 'zebra'"):
        write("lamp zebra 3")


@given(st.integers(0, 60), st.text(max_size=5))
@settings(max_examples=25, deadline=None)
def test_any_number_of_rows_keeps_the_invariants(count, stream):
    examples = generate(count, stream)
    assert [example.id for example in examples] == list(range(count))
    assert len({example.source for example in examples}) == count
    for example in examples:
        source, target = example.source.split(" "), example.target.split(" ")
        assert WORDS[0] <= len(source) <= WORDS[1]
        assert len(source) == len(target) == len(example.difficulties)
        assert set(example.difficulties) == set(DIFFICULTIES)
        assert example.target == write(example.source)
        by_kind = {"copied": COPIED, "look-up": LOOKED_UP, "arithmetic": DIGITS}
        assert all(word in by_kind[kind] for word, kind in zip(source, example.difficulties, strict=True))
        # what makes the next place findable by the word before
        nouns = [word for word in source if word not in DIGITS]
        assert len(set(nouns)) == len(nouns)
        assert source[0] not in DIGITS
        assert all(not (a in DIGITS and b in DIGITS) for a, b in itertools.pairwise(source))


def test_the_same_stream_gives_the_same_rows_and_another_stream_others():
    assert generate(100, "train 0") == generate(100, "train 0")
    assert generate(100, "train 0") != generate(100, "train 1")


def test_excluded_sources_do_not_occur(rows):
    # of a stream's own rows none is left, and the count is kept
    again = generate(1500, "evaluation", {example.source for example in rows})
    assert not {example.source for example in again} & {example.source for example in rows}
    assert len(again) == 1500


def test_the_text_of_a_stream_never_changes_over_machines_and_versions():
    """A pinned sample: a change of words or order is a change of every kept result, and must be deliberate."""
    assert [example.source for example in generate(3, "pinned")] == PINNED


def test_no_target_word_has_two_kinds():
    kinds = [set(COPIED), set(LOOKED_UP.values()), set(NUMBERS)]
    assert sum(map(len, kinds)) == len(set.union(*kinds))
    assert not set(LOOKED_UP) & set.union(*kinds)  # no source word gives the answer of a look-up away
    assert len(set(LOOKED_UP.values())) == len(LOOKED_UP)


def test_the_source_digit_alone_tells_nothing_of_a_later_total(rows):
    """From the second number of a row on, every total is about as likely as another, whatever the digit."""
    pairs = Counter()
    for example in rows:
        source, target = example.source.split(" "), example.target.split(" ")
        places = [place for place, kind in enumerate(example.difficulties) if kind == "arithmetic"]
        pairs.update((source[place], target[place]) for place in places[1:])
    of_digit = Counter()
    for (digit, _), count in pairs.items():
        of_digit[digit] += count
    best = sum(max(pairs[digit, word] for word in NUMBERS) for digit in of_digit)
    assert best / sum(pairs.values()) < 0.25
    assert sum(pairs.values()) > 800
