"""Scores of written texts: worked numbers, agreement with the libraries, and what holds for any text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.errors import UserError
from adaptive_inference.tasks.text_quality import METRICS, score_each, score_texts, sentences, squad_words

WORDS = st.lists(
    st.sampled_from(["the", "a", "red", "Red", "cat,", "dog.", "7", "straße", "!"]), max_size=9
).map(" ".join)


@pytest.mark.parametrize("metric", METRICS)
@given(WORDS, WORDS)
@settings(max_examples=30, deadline=None)
def test_scores_are_fractions_and_a_text_is_worth_1_against_itself(metric, text, other):
    assert 0 <= score_each(metric, [text], [[other]])[0] <= 1
    assert score_each(metric, [text], [[other, text]])[0] == 1


# not BLEU: its brevity penalty follows the reference of the nearest length, which need not be the best
@pytest.mark.parametrize("metric", ["exact_match", "rouge_lsum", "squad_f1"])
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_another_reference_never_lowers_a_score(metric, pairs):
    texts, right = zip(*pairs, strict=True)
    one = score_each(metric, texts, [[reference] for reference in right])
    assert (score_each(metric, texts, [[reference, "red cat"] for reference in right]) >= one).all()


def test_bleu_is_sacrebleus_and_keeps_its_signature():
    texts = ["the cat sat on the mat", "a dog runs"]
    references = [["the cat is on the mat", "a cat sat on the mat"], ["a dog is running"]]
    import sacrebleu

    right = sacrebleu.corpus_bleu(texts, [[references[0][0], references[1][0]], [references[0][1], None]])
    score = score_texts("bleu", texts, references)
    assert score.quality == pytest.approx(right.score / 100, abs=1e-12)
    assert 0 < score.quality < 1
    assert "tok:13a" in score.signature
    assert "version:" in score.signature


def test_bleu_of_a_corpus_is_no_mean_of_sentences():
    texts, references = ["a b c d e f", "g h"], [["a b c d e f"], ["x y"]]
    corpus = score_texts("bleu", texts, references).quality
    assert corpus != pytest.approx(np.mean(score_each("bleu", texts, references)), abs=0.01)


def test_rouge_counts_stems_of_each_sentence():
    text, reference = "Cats are running. Dogs sleep", "Dogs slept. A cat runs"
    score = score_texts("rouge_lsum", [text], [[reference]])
    # stems: (cat are run | dog sleep) against (dog slept | a cat run); 3 words of 5 in common, in order inside a sentence
    assert score.parts["rouge1"] == pytest.approx(3 / 5)
    assert score.parts["rouge_lsum"] == pytest.approx(3 / 5)
    assert score.parts["rouge2"] == 0
    # without the split the order of the two sentences would cost: "dog" alone, or "cat run"
    flat = score_texts("rouge_lsum", [text.replace(".", "")], [[reference.replace(".", "")]])
    assert flat.quality == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("By J. Smith et al. We show it. 3 of 4 agree.", ["By J. Smith et al. We show it.", "3 of 4 agree."]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("it is 3.5 m. and more, e.g. Rome", ["it is 3.5 m. and more, e.g. Rome"]),
        ("one line\n\nanother", ["one line", "another"]),
        ("", []),
    ],
)
def test_sentences_are_split_by_the_documented_rule(text, split):
    assert sentences(text) == split


@given(st.text(alphabet="aB. \n!?\"'é3", max_size=40))
def test_the_split_loses_no_character_but_white_space(text):
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_squad_normalises_as_the_official_program():
    assert squad_words("The  Cat's an 'apple', A.D.") == ["cats", "apple", "ad"]
    text, accepted = ["the Eiffel Tower, Paris"], [["Eiffel tower", "tower"]]
    score = score_texts("squad_f1", text, accepted)
    assert score.quality == pytest.approx(
        2 * 2 / (3 + 2)
    )  # eiffel tower paris; the better of the two references
    assert score.parts["squad_em"] == 0
    assert score_texts("squad_f1", ["An Eiffel  Tower"], accepted).parts["squad_em"] == 1


def test_squad_counts_repeated_words_once_each():
    assert score_each("squad_f1", ["yes yes yes"], [["yes"]])[0] == pytest.approx(2 * 1 / 4)


def test_an_answer_of_articles_alone_is_right_only_where_nothing_is_expected():
    assert score_each("squad_f1", ["the", "the"], [["an"], ["cat"]]).tolist() == [1, 0]


def test_exact_match_compares_words():
    assert score_each("exact_match", ["red  7", "red 8", "Red 7"], [["red 7"]] * 3).tolist() == [1, 0, 0]
    assert score_texts("exact_match", ["red 7", "red 8"], [["red 7"]] * 2).quality == 0.5


@pytest.mark.parametrize(
    ("metric", "texts", "references", "said"),
    [
        ("blue", ["a"], [["a"]], "did you mean 'bleu'"),
        ("bleu", [], [], "no texts"),
        ("bleu", ["a"], [], "1 texts have 0 lists"),
        ("bleu", ["a"], [[]], "text 0 has no list of references"),
        ("bleu", ["a"], ["a"], "text 0 has no list of references"),
    ],
)
def test_what_cannot_be_scored_is_refused(metric, texts, references, said):
    with pytest.raises(UserError, match=said):
        score_texts(metric, texts, references)
