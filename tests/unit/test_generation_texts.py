"""Pairs as token ids: what is read, learned, cut and padded, for models with an encoder and without."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from adaptive_inference.data.transduction import LOOKED_UP, generate
from adaptive_inference.errors import UserError
from adaptive_inference.generation.texts import (
    Pair,
    check_context,
    collate_pairs,
    collate_sources,
    encode_pairs,
    encode_sources,
    token_difficulties,
    written_texts,
)
from adaptive_inference.generation.tokenizer import train_tokenizer
from adaptive_inference.tasks.text_schema import TextExample, TextSchema

PAD, END, BEGIN, SEPARATOR = 0, 1, 3, 4
SCHEMA = TextSchema("t", "exact_match", 24, 16)
IDS = st.lists(st.integers(5, 99), min_size=1, max_size=6).map(tuple)
PAIRS = st.lists(st.tuples(IDS, IDS), min_size=1, max_size=5).map(
    lambda rows: [Pair(number, source, (*target, END)) for number, (source, target) in enumerate(rows)]
)


@cache
def tokenizer():
    return train_tokenizer(generate(300, "train 0"), 200, words=True)


def ids(text):
    return tuple(tokenizer()(text).input_ids)


def encoded(source, target, *, encoder_decoder, schema=SCHEMA):
    return encode_pairs(
        [TextExample(7, source, target)], tokenizer(), schema, encoder_decoder=encoder_decoder
    )


def test_an_encoder_decoder_reads_and_learns_texts_with_their_ends():
    assert encoded("lamp 6", "lamp six", encoder_decoder=True).pairs == [
        Pair(7, (*ids("lamp 6"), END), (*ids("lamp six"), END))
    ]


def test_a_decoder_only_model_reads_the_source_up_to_a_separator():
    assert encoded("lamp 6", "lamp six", encoder_decoder=False).pairs == [
        Pair(7, (*ids("lamp 6"), SEPARATOR), (*ids("lamp six"), END))
    ]


def test_a_begin_token_is_kept_and_a_line_break_separates_where_no_token_does():
    other = train_tokenizer([TextExample(0, "lamp 7\n", "lamp")], 300)
    other.sep_token = None
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BEGIN), ("</s>", END)]
    )
    rows, _ = encode_sources(["lamp"], other, 24, encoder_decoder=False)
    plain = other("lamp", add_special_tokens=False).input_ids
    line_break = other("\n", add_special_tokens=False).input_ids
    assert rows == [(BEGIN, *plain, *line_break)]
    assert other.decode(line_break).strip(" ") == "\n"


@given(st.integers(2, 12), st.integers(2, 12), st.booleans())
@settings(max_examples=30, deadline=None)
def test_too_long_texts_keep_their_beginning_and_their_special_token(most_source, most_target, whole):
    schema = TextSchema("t", "exact_match", most_source, most_target)
    example = generate(1, "one")[0]
    result = encode_pairs([example], tokenizer(), schema, encoder_decoder=whole)
    source, target = ids(example.source), ids(example.target)
    last = END if whole else SEPARATOR
    assert result.pairs[0].source == (*source[: most_source - 1], last)
    assert result.pairs[0].target == (*target[: most_target - 1], END)
    assert result.cut_sources == (len(source) + 1 > most_source)
    assert result.cut_targets == (len(target) + 1 > most_target)


def test_cut_texts_are_said(caplog):
    encoded("lamp 7 katze", "lamp", encoder_decoder=True, schema=TextSchema("t", "exact_match", 3, 4))
    assert caplog.messages == ["1 of 1 texts are longer than max_source: 3 tokens; their ends are cut off"]


def test_a_length_without_room_for_a_word_is_refused():
    with pytest.raises(UserError, match="max_source: 1 leaves no room beside 1 special tokens"):
        encode_sources(["lamp"], tokenizer(), 1, encoder_decoder=True)


@given(PAIRS)
def test_batches_of_an_encoder_decoder_hold_every_token_and_nothing_else(pairs):
    batch = collate_pairs(pairs, PAD, encoder_decoder=True)
    for row, pair in enumerate(pairs):
        assert tuple(batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()) == pair.source
        assert tuple(batch["labels"][row, : len(pair.target)].tolist()) == pair.target
        assert batch["attention_mask"][row, : len(pair.source)].all()
        assert (batch["labels"][row, len(pair.target) :] == -100).all()


@given(PAIRS)
def test_a_decoder_only_model_learns_the_target_alone(pairs):
    batch = collate_pairs(pairs, PAD, encoder_decoder=False)
    assert batch["labels"].shape == batch["input_ids"].shape
    learned = batch["labels"] != -100
    assert torch.equal(batch["labels"][learned], batch["input_ids"][learned])
    for row, pair in enumerate(pairs):
        assert tuple(batch["labels"][row][learned[row]].tolist()) == pair.target
        assert (
            tuple(batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist())
            == pair.source + pair.target
        )


@given(st.lists(IDS, min_size=1, max_size=5))
def test_prompts_are_padded_on_the_side_that_is_not_continued(sources):
    left = collate_sources(sources, PAD, encoder_decoder=False)
    right = collate_sources(sources, PAD, encoder_decoder=True)
    for row, source in enumerate(sources):
        assert tuple(left["input_ids"][row, -len(source) :].tolist()) == source
        assert tuple(right["input_ids"][row, : len(source)].tolist()) == source
        assert left["attention_mask"][row].sum() == right["attention_mask"][row].sum() == len(source)
        assert left["attention_mask"][row, -1] == 1


def test_a_written_text_ends_at_its_first_end_token():
    rows = [[PAD, *ids("lamp six"), END, *ids("door"), PAD], list(ids("door")), [END]]
    assert written_texts(rows, tokenizer()) == ["lamp six", "door", ""]
    assert written_texts([], tokenizer()) == []


def test_tokens_of_the_generated_task_have_the_difficulty_of_their_words():
    example = generate(1, "one")[0]
    pair = encode_pairs([example], tokenizer(), SCHEMA, encoder_decoder=True).pairs[0]
    kinds = token_difficulties(example, pair)
    assert kinds == (*example.difficulties, "end")
    looked_up = [
        tokenizer().decode([token])
        for token, kind in zip(pair.target, kinds, strict=True)
        if kind == "look-up"
    ]
    assert looked_up
    assert set(looked_up) <= set(LOOKED_UP.values())
    with pytest.raises(UserError, match="words of known difficulty"):
        token_difficulties(example, Pair(0, pair.source, pair.target[1:]))


def test_texts_longer_than_the_context_are_refused():
    check_context(SCHEMA, 40, encoder_decoder=False)
    check_context(SCHEMA, 24, encoder_decoder=True)
    check_context(SCHEMA, None, encoder_decoder=False)
    with pytest.raises(UserError, match="need 40 positions, but the model has 39"):
        check_context(SCHEMA, 39, encoder_decoder=False)
    with pytest.raises(UserError, match="need 24 positions"):
        check_context(SCHEMA, 23, encoder_decoder=True)
