"""The generated task: what each tier means, and that no count of words gives the hard tiers away."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.data import generated, generated_words
from adaptive_inference.data.generated import TIERS, WORDS, generate
from adaptive_inference.errors import UserError

PINNED = [
    "in the end , the story seemed brilliant ; still the opening was horrible .",
    "it had the most boring ending .",
    "in my view the music was really dull , and in the view of anna the scenery was brilliant .",
    "the story seemed not superb during the second half .",
    "i would not say that the acting was not boring when we watched it on sunday .",
]


@pytest.fixture(scope="module")
def rows():
    return generate(3000, "evaluation", label_noise=0.04)


def test_the_same_stream_gives_the_same_rows_and_another_stream_others():
    assert generate(200, "train 0", 0.1) == generate(200, "train 0", 0.1)
    assert generate(200, "train 0", 0.1) != generate(200, "train 1", 0.1)


def test_the_text_of_a_stream_never_changes_over_machines_and_versions():
    """A pinned sample: a change of words or order is a change of every kept result, and must be deliberate."""
    first = generate(5, "pinned")
    assert [example.texts[0] for example in first] == PINNED


@given(st.integers(1, 150), st.text(max_size=5), st.floats(0.0, 0.49))
@settings(max_examples=25, deadline=None)
def test_any_number_of_rows_keeps_the_invariants(count, stream, noise):
    split = generate(count, stream, noise)
    assert [example.id for example in split] == list(range(count))
    assert len({example.texts for example in split}) == count
    for example in split:
        spaced = example.texts[0].split(" ")
        assert WORDS[0] <= len(spaced) <= WORDS[1]
        assert not set("*{}") & set(example.texts[0])
        assert "" not in spaced
        assert example.rationale
        assert all(0 <= position < len(spaced) for position in example.rationale)
        assert {example.label, example.clean_label} <= {0, 1}


def test_tiers_and_clean_labels_are_balanced(rows):
    counts = Counter((example.tier, example.clean_label) for example in rows)
    assert set(counts) == {(tier, label) for tier in range(1, len(TIERS) + 1) for label in (0, 1)}
    assert set(counts.values()) == {300}


def test_noise_flips_the_same_share_of_every_tier(rows):
    for tier in range(1, 6):
        assert sum(e.label != e.clean_label for e in rows if e.tier == tier) == 24
    assert all(e.label == e.clean_label for e in generate(100, "quiet"))


def test_noise_changes_labels_only(rows):
    quiet = generate(500, "noise", 0.0)
    noisy = generate(500, "noise", 0.3)
    assert Counter(e.texts for e in quiet) == Counter(e.texts for e in noisy)
    assert {e.texts: e.clean_label for e in quiet} == {e.texts: e.clean_label for e in noisy}


def test_the_clean_label_is_what_an_independent_reading_of_the_rationale_says(rows):
    """Re-derive the label: the marked cue's polarity, turned round once per marked negator."""
    polarity = {cue: label for label, cues in enumerate(generated_words.CUES) for cue in cues}
    turning = {"not", "never", "hardly", "doubt", "doubted", "deny", "reject", "false", "anything"}
    for example in rows:
        spaced = example.texts[0].split(" ")
        marked = [spaced[position] for position in example.rationale]
        (cue,) = [word for word in marked if word in polarity]
        turns = sum(word in turning for word in marked) if example.tier in (2, 5) else 0
        assert example.clean_label == (polarity[cue] + turns) % 2, example


def test_tier_five_has_two_or_three_negators_and_their_parity_is_balanced(rows):
    turning = {"not", "never", "hardly", "doubt", "doubted", "deny", "reject", "false", "anything"}
    counts = Counter()
    for example in rows:
        if example.tier == 5:
            spaced = example.texts[0].split(" ")
            counts[sum(spaced[position] in turning for position in example.rationale)] += 1
    assert set(counts) == {2, 3}
    assert abs(counts[3] / counts.total() - 0.5) < 0.08


def test_both_polarities_stand_in_every_sentence_of_tiers_three_and_four_in_either_order(rows):
    for tier in (3, 4):
        first = Counter()
        for example in (e for e in rows if e.tier == tier):
            spaced = example.texts[0].split(" ")
            seen = [label for word in spaced for label in (0, 1) if word in generated_words.CUES[label]]
            assert sorted(seen) == [0, 1]
            first[seen[0] == example.clean_label] += 1
        assert abs(first[True] / first.total() - 0.5) < 0.08


def test_a_linear_bag_of_words_solves_tier_one_and_is_lost_on_the_hardest_three():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    evaluation = generate(1500, "evaluation")
    train = generate(4000, "train 0", exclude={example.texts[0] for example in evaluation})
    counter = CountVectorizer(token_pattern=r"\S+")
    model = LogisticRegression(max_iter=2000).fit(counter.fit_transform(train.texts()), train.labels)
    right = model.predict(counter.transform(evaluation.texts())) == np.array(evaluation.labels)
    tiers = np.array(evaluation.tiers)
    for tier in (3, 4, 5):
        assert right[tiers == tier].mean() <= 0.60
    assert right[tiers == 1].mean() >= 0.95


def test_excluded_texts_do_not_occur():
    banned = {example.texts[0] for example in generate(300, "evaluation")}
    assert not banned & {example.texts[0] for example in generate(2000, "train 0", exclude=banned)}


def test_asking_for_more_sentences_than_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(
        generated, "_WRITERS", (lambda random, label: "the plot was really very *good indeed",) * 5
    )
    with pytest.raises(UserError, match="fewer"):
        generate(200, "train 0")
