"""Scores on disk: each example gets its own back, and those of other rows, lengths or tokenizers are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.attribution.attention import attention_rollout, last_layer_attention
from adaptive_inference.attribution.extract import KINDS, extract_scores
from adaptive_inference.attribution.integrated import integrated_gradients
from adaptive_inference.attribution.saliency import saliencies
from adaptive_inference.attribution.store import Origin, Scores, mean_scores, tokenizer_digest
from adaptive_inference.backbones.load import load_tokenizer
from adaptive_inference.errors import UserError
from adaptive_inference.exits import build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.encode import collate, encode
from adaptive_inference.tasks.schema import Example, Schema

SCHEMA = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)
MODEL = build_model(Backbone(weights="random:bert", exits=[1, 2]), SCHEMA, 0).eval()
TEXTS = ("the film was good", "bad", "a dull and boring story about food and music", "great")
SPLIT = [Example(10 * place + 3, (text,), place % 3) for place, text in enumerate(TEXTS)]
ORIGIN = Origin("tokens", 32, {"backbone": "b", "model": "m"})


def make(lengths, kind="saliency", origin=ORIGIN, seed=0):
    draw = np.random.default_rng(seed)
    rows = [draw.random(length, dtype=np.float32) for length in lengths]
    return Scores.join(kind, range(100, 100 + len(rows)), rows, origin)


def features(scores):
    return [
        {"id": int(id_), "length": int(length)}
        for id_, length in zip(scores.ids, np.diff(scores.offsets), strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8), data=st.data())
def test_each_example_gets_its_own_scores_in_the_order_asked(lengths, data, tmp_path_factory):
    file = tmp_path_factory.mktemp("scores") / "scores.safetensors"
    scores = make(lengths)
    scores.save(file)
    places = data.draw(st.permutations(range(len(lengths))))
    asked = [features(scores)[place] for place in places]
    found = Scores.load(file).of(asked, ORIGIN)
    for place, row in zip(places, found, strict=True):
        assert row.dtype == np.float32
        assert row.tolist() == scores.values[scores.offsets[place] : scores.offsets[place + 1]].tolist()


def test_equal_scores_are_equal_bytes_and_come_back_whole(tmp_path):
    for name in ("a", "b"):
        make([3, 1, 4]).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = Scores.load(tmp_path / "a")
    assert (back.kind, back.origin) == ("saliency", ORIGIN)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (replace(ORIGIN, max_length=64), r"max_length 32, but this run has max_length 64"),
        (replace(ORIGIN, tokenizer="other"), r"tokenizer tokens, but this run has tokenizer other"),
        (replace(ORIGIN, made_from={"backbone": "c"}), r"backbone b, but this run has backbone c"),
        (replace(ORIGIN, made_from={"data": "d"}), r"data None, but this run has data d"),
    ],
)
def test_scores_made_of_something_else_are_refused_with_the_fix(asked, said):
    scores = make([3, 2])
    with pytest.raises(UserError, match=said + r"; the two must be the same: run the stage"):
        scores.of(features(scores), asked)


def test_what_a_reader_does_not_ask_is_not_compared():
    scores = make([3, 2])
    assert len(scores.of(features(scores), replace(ORIGIN, made_from={"backbone": "b"}))) == 2


def test_missing_examples_are_counted_and_named():
    scores = make([3, 2])
    asked = [*features(scores), {"id": 7, "length": 2}, {"id": 8, "length": 2}]
    with pytest.raises(
        UserError, match=r"2 of 4 examples have no token scores, the first with id 7; .*: run the stage"
    ):
        scores.of(asked, ORIGIN)


def test_an_example_with_another_number_of_tokens_is_refused():
    scores = make([3, 2])
    asked = features(scores)
    asked[1]["length"] = 5
    with pytest.raises(UserError, match=r"id 101 has 5 tokens, but 2 token scores; .*: run the stage"):
        scores.of(asked, ORIGIN)


def test_a_missing_a_damaged_and_a_strange_file_are_told(tmp_path):
    file = tmp_path / "scores.safetensors"
    with pytest.raises(UserError, match=r"holds no token scores .*; run its stage again"):
        Scores.load(file)
    scores = make([3, 2])
    replace(scores, values=scores.values[:-1]).save(file)
    with pytest.raises(UserError, match="its rows do not add up"):
        Scores.load(file)
    file.write_bytes(b"something else")
    with pytest.raises(UserError, match="holds no token scores"):
        Scores.load(file)


# ---------------------------------------------------------------- mean over epochs


def test_the_mean_over_epochs_is_that_of_the_raw_arrays():
    each = [make([3, 2], seed=seed) for seed in range(3)]
    each[1] = replace(each[1], values=10 * each[1].values)  # larger ones weigh more
    wanted = sum(item.values.astype(np.float64) for item in each) / 3
    np.testing.assert_allclose(mean_scores(each).values, wanted, rtol=1e-6)
    assert mean_scores(each[:1]).values.tolist() == each[0].values.tolist()


def test_the_mean_keeps_what_all_were_made_of_and_digests_what_differs():
    each = [make([3, 2], origin=replace(ORIGIN, made_from={"backbone": "b", "model": name})) for name in "mn"]
    made_from = mean_scores(each).origin.made_from
    assert made_from["backbone"] == "b"
    assert made_from["model"] not in ("m", "n")
    assert mean_scores(each[:1]).origin == each[0].origin


@pytest.mark.parametrize(
    "other",
    [
        make([3, 3]),
        make([3, 2], kind="attention"),
        make([3, 2], origin=replace(ORIGIN, tokenizer="other")),
        make([3, 2], origin=replace(ORIGIN, max_length=8)),
        replace(make([3, 2]), ids=np.array([100, 102])),
    ],
)
def test_scores_of_other_rows_or_kinds_are_not_averaged(other):
    with pytest.raises(UserError, match="must be"):
        mean_scores([make([3, 2]), other])


# ---------------------------------------------------------------- extraction


def test_the_tokenizer_s_digest_is_of_its_words_and_not_of_its_last_call():
    tokenizer = load_tokenizer("random:bert")
    before = tokenizer_digest(tokenizer)
    tokenizer(["a long text", "a"], padding=True, truncation=True, max_length=3)
    assert tokenizer_digest(tokenizer) == before
    tokenizer.add_tokens(["adapler"])
    assert tokenizer_digest(tokenizer) != before


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_gets_the_scores_of_that_row_alone_whatever_the_batch(kind):
    rows = encode(SPLIT, MODEL.tokenizer, 32)
    scores = extract_scores(MODEL, rows, kind, 3, 32, {"backbone": "b"}, steps=2)
    asked = Origin(tokenizer_digest(MODEL.tokenizer), 32, {"backbone": "b"})
    alone = {
        "saliency": saliencies,
        "integrated_gradients": lambda *given: integrated_gradients(*given, steps=2).scores_BN,
        "attention": lambda model, batch, labels: last_layer_attention(model, batch),
        "attention_rollout": lambda model, batch, labels: attention_rollout(model, batch),
    }[kind]
    for feature, row in zip(rows, scores.of(rows, asked), strict=True):
        batch = collate([feature], 0)
        wanted = alone(MODEL, batch, batch["labels"])[0]
        torch.testing.assert_close(torch.from_numpy(row), wanted, rtol=1e-4, atol=1e-6)


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"'attn'; there are saliency, .*"):
        extract_scores(MODEL, [], "attn", 2, 32, {})
