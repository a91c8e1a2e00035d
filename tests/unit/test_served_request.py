"""What a client may send: read as it is meant, or refused in a sentence that names the value."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_inference.errors import UserError
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.serving.request import (
    MAX_CHARACTERS,
    MAX_TEXTS,
    Options,
    TooLarge,
    read_options,
    read_request,
)

ONE = Schema("movies", "classification", ("bad", "good"), "accuracy", 32)
TWO = Schema("pairs", "classification", ("no", "yes"), "accuracy", 32, ("question", "answer"))


def read(body, schema=ONE):
    return read_request(json.dumps(body).encode(), schema)


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
def test_the_same_texts_are_read_from_each_form(pairs):
    rows = [dict(zip(TWO.text, pair, strict=True)) for pair in pairs]
    split = {"columns": ["answer", "question"], "data": [[answer, question] for question, answer in pairs]}
    for body in (
        {"inputs": pairs},
        {"instances": rows},
        {"dataframe_records": rows},
        {"dataframe_split": split},
    ):
        assert read(body, TWO).texts == pairs
    single = [text for text, _ in pairs]
    for body in ({"inputs": single}, {"inputs": [[text] for text in single]}):
        assert read(body).texts == [(text,) for text in single]


def test_options_are_read_and_null_is_left_out():
    given_ = {"rule": "entropy", "threshold": 0, "max_latency_ms": 3}
    assert read({"inputs": ["a"], "params": given_}).options == Options("entropy", 0.0, 3.0)
    for params in (None, {}, {"rule": None, "threshold": None}):
        assert read({"inputs": ["a"], "params": params}).options == Options()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"inputs": ["a"], "params": {"threshold": NaN}}', "NaN is no number of JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "is a list of 0; send an object"),
        (b'"a text"', 'is "a text"; send an object'),
        (b"{}", "has no texts; send an object"),
    ],
)
def test_what_is_no_request_is_refused(body, told):
    with pytest.raises(UserError, match=told):
        read_request(body, ONE)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"input": ["a"]}, "unknown field: 'input'; allowed: inputs.*did you mean 'inputs'"),
        ({"inputs": ["a"], "treshold": 0.9}, "unknown field: 'treshold'"),
        ({"inputs": ["a"], "instances": ["a"]}, "has inputs and instances"),
        ({"inputs": "a"}, '`inputs` is "a", not a list'),
        ({"inputs": []}, "there are no texts"),
        ({"inputs": [3]}, "text 0 is 3; it must be"),
        ({"inputs": ["a", None]}, "text 1 is null"),
        ({"inputs": [["a", "b"]]}, "text 0 is a list of 2"),
        ({"inputs": [[]]}, "text 0 is a list of 0"),
        ({"inputs": [{"text": 3}]}, "text 0 has 3 in place of a string"),
        ({"inputs": [{}]}, "text 0 has null in place of a string"),
        ({"inputs": [{"text": "a", "id": 1}]}, "unknown column of text 0: 'id'; allowed: text"),
        ({"inputs": ["\ud800"]}, "half a surrogate pair"),
        ({"dataframe_split": ["a"]}, "`dataframe_split` is a list of 1, not an object"),
        ({"dataframe_split": {"columns": ["text"]}}, "needs `columns`.* and `data`"),
        ({"dataframe_split": {"columns": ["text"], "data": ["a"]}}, "row 0 of `dataframe_split`"),
        ({"dataframe_split": {"columns": ["texts"], "data": [["a"]]}}, "unknown column of text 0: 'texts'"),
        ({"inputs": ["a"], "params": [1]}, "`params` is a list of 1, not an object"),
        (
            {"inputs": ["a"], "params": {"treshold": 1}},
            "unknown params entry: 'treshold'.*did you mean 'threshold'",
        ),
        ({"inputs": ["a"], "params": {"rule": 1}}, "`rule` is 1; it must be the name of an exit rule"),
        ({"inputs": ["a"], "params": {"threshold": "0.9"}}, '`threshold` is "0.9"; it must be a number'),
        ({"inputs": ["a"], "params": {"threshold": True}}, "`threshold` is true"),
        ({"inputs": ["a"], "params": {"threshold": 1e99}}, "`threshold` is 1e"),
        (
            {"inputs": ["a"], "params": {"max_latency_ms": 0}},
            "`max_latency_ms` is 0; it must be a number above 0",
        ),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused_with_the_value(body, told):
    with pytest.raises(UserError, match=told) as error:
        read(body)
    assert not isinstance(error.value, TooLarge)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["a" * 1_000_000], f"text 0 has 1000000 characters; at most {MAX_CHARACTERS}"),
        (["a"] * (MAX_TEXTS + 1), f"has {MAX_TEXTS + 1} texts; at most {MAX_TEXTS}"),
    ],
)
def test_what_is_too_large_is_told_apart_and_never_repeated(texts, told):
    with pytest.raises(TooLarge, match=told) as error:
        read({"inputs": texts})
    assert len(str(error.value)) < 300


def test_the_largest_that_is_allowed_is_read():
    assert len(read({"inputs": ["a" * MAX_CHARACTERS]}).texts[0][0]) == MAX_CHARACTERS
    assert len(read({"inputs": ["a"] * MAX_TEXTS}).texts) == MAX_TEXTS


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["inputs", "dataframe_split", "dataframe_records", "params", "x"])


@given(st.dictionaries(KEYS, JSON_VALUES, max_size=3))
def test_whatever_is_sent_is_read_or_refused_shortly(body):
    try:
        found = read(body)
    except UserError as error:
        found, said = None, str(error)
    assert (
        len(said) < 500 if found is None else all(type(part) is str for text in found.texts for part in text)
    )


@given(JSON_VALUES)
def test_whatever_the_params_are_they_are_read_or_refused(params):
    try:
        found = read_options(params)
    except UserError as error:
        found = str(error)
    assert isinstance(found, Options) or len(found) < 400
