"""Tokenizers of text tasks: trained ones are deterministic, lose nothing and say what they cannot hold."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.data.transduction import generate
from adaptive_inference.errors import UserError
from adaptive_inference.generation.tokenizer import SPECIAL, checked, load_text_tokenizer, train_tokenizer
from adaptive_inference.tasks.text_schema import TextExample

ROWS = [
    TextExample(0, "Ein Mann läuft über die Straße.", "A man walks over the street."),
    TextExample(1, "Ein Hund läuft.", "A dog walks."),
]


@cache
def byte_level():
    return train_tokenizer(ROWS, 320)


@cache
def word_level():
    return train_tokenizer(generate(400, "train 0"), 200, words=True)


@pytest.mark.parametrize("words", [False, True])
def test_the_same_rows_give_the_same_tokenizer(words):
    one, other = (train_tokenizer(ROWS, 400, words=words) for _ in range(2))
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


@pytest.mark.parametrize("words", [False, True])
def test_a_saved_tokenizer_comes_back_with_its_special_tokens(tmp_path, words):
    tokenizer = train_tokenizer(ROWS, 400, words=words)
    tokenizer.save_pretrained(tmp_path)
    again = load_text_tokenizer(str(tmp_path))
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    for number, (role, token) in enumerate(SPECIAL.items()):
        assert getattr(again, role) == token
        assert getattr(again, f"{role}_id") == number
    assert again("Ein Hund").input_ids == tokenizer("Ein Hund").input_ids
    assert not set(again("Ein Hund").input_ids) & set(range(len(SPECIAL)))  # adds none by itself


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=20))
@settings(max_examples=50, deadline=None)
def test_byte_level_tokens_give_any_text_back(text):
    text = text.strip()
    assert byte_level().decode(byte_level()(text).input_ids) == text


def test_byte_level_tokens_are_learned_and_limited():
    assert len(byte_level()) <= 320
    assert len(byte_level().tokenize("läuft")) < len("läuft")


def test_each_word_of_the_generated_task_is_one_token():
    for example in generate(50, "other"):
        ids = word_level()(example.target).input_ids
        assert len(ids) == len(example.difficulties)
        assert word_level().decode(ids) == example.target


def test_a_word_of_no_training_row_is_unknown():
    assert word_level()("lamp zebra").input_ids[1] == word_level().unk_token_id


def test_a_vocabulary_too_small_is_refused_with_what_is_needed():
    with pytest.raises(UserError, match="at least 261"):
        train_tokenizer(ROWS, 260)
    with pytest.raises(UserError, match=r"cannot hold the 16 words.*at least 21"):
        train_tokenizer(ROWS, 20, words=True)
    assert len(train_tokenizer(ROWS, 21, words=True)) == 21


def test_a_tokenizer_without_an_end_token_is_refused_and_one_without_padding_pads_with_it():
    tokenizer = train_tokenizer(ROWS, 400)
    tokenizer.pad_token = None
    assert checked(tokenizer, "x").pad_token_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="tokenizer of x has no end token"):
        checked(tokenizer, "x")
