"""Rationales of local files: what is read, how documents are cut, and which tokens they name."""

from __future__ import annotations

import gzip
import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from synthetic_records import PROJECT

from adaptive_inference.backbones.load import load_tokenizer
from adaptive_inference.data.chunks import cut
from adaptive_inference.data.rationales import read_rationale
from adaptive_inference.data.splits import make_splits
from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import Chunk, Rationale, Task
from adaptive_inference.tasks.encode import encode
from adaptive_inference.tasks.rationale import token_labels
from adaptive_inference.tasks.schema import Example, Split, load_split, save_split

REAL = PROJECT.parent / "shared" / "data"
MASK, SPANS = (Rationale(column="marks", form=form) for form in ("mask", "spans"))
FAMILIES = ["bert", "roberta", "albert", "distilbert", "deberta", "deberta-v2", "mpnet"]


def read(value, text, rationale):
    return read_rationale(value, text, rationale, "data/train.jsonl, row 7")


def local(folder, rows, **changes):
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Task(source="local", train="train.jsonl", labels=["no", "yes"], **changes)


def documents(count, words=20):
    """Every second document has a rationale, of words 3 to 5; one in eight is not known."""
    spans = lambda n: None if n % 8 == 1 else [[3, 6]] if n % 4 < 2 else []  # noqa: E731
    return [
        {"text": " ".join(f"{n}.{w}" for w in range(words)), "label": n % 2, "marks": spans(n)}
        for n in range(count)
    ]


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_a_mask_counts_words_split_on_single_spaces_and_leaves_the_text_alone():
    assert read([0, 1, 0, 1], "a  b c", MASK) == ("a  b c", (1, 3))


def test_spans_count_words_split_on_any_white_space_and_make_it_single_spaces():
    text, rationale = read([[3, 4], [0, 2], [1, 2]], " a\tb \n c d ", SPANS)
    assert (text, rationale) == ("a b c d", (0, 1, 3))
    assert [text.split(" ")[position] for position in rationale] == ["a", "b", "d"]


@pytest.mark.parametrize("form", [MASK, SPANS])
def test_null_is_not_known_and_an_empty_list_is_no_word(form):
    assert read(None, "a b", form)[1] is None
    assert read([], "a b", form)[1] == ()


@pytest.mark.parametrize(
    ("value", "form", "match"),
    [
        ([0, 1], MASK, r"row 7: .*mask of 2, but the text has 3 words.*one 0 or 1 per word"),
        ([0, 1, 2], MASK, r"row 7: .*holds 2; .*allows 0 and 1"),
        ([0, True, 1], MASK, r"row 7: .*holds True"),
        ([[0, 1]], MASK, r"row 7: .*`form: spans`"),
        ("[0, 1, 0]", MASK, r"row 7: .*no list; .*JSONL or Parquet"),
        ([[1, 4]], SPANS, r"row 7: .*\[1, 4\), but the text has 3 words.*end <= 3"),
        ([[2, 2]], SPANS, r"row 7: .*start < end"),
        ([[-1, 2]], SPANS, r"row 7: .*0 <= start"),
        ([0, 1, 0], SPANS, r"row 7: .*holds 0; .*`form: mask`"),
        ([[0, 1.5]], SPANS, r"row 7: .*pairs"),
    ],
)
def test_a_rationale_that_does_not_fit_the_text_is_named_with_its_row_and_the_fix(value, form, match):
    with pytest.raises(UserError, match=match):
        read(value, "a b c", form)


def test_a_missing_rationale_column_is_named(tmp_path):
    task = local(tmp_path, documents(40), rationale={"column": "mark", "form": "spans"})
    with pytest.raises(UserError, match=r"no column 'mark'.*`rationale`.*marks"):
        make_splits("mine", task, tmp_path, seed=0)


def test_rationales_change_no_split_and_survive_the_disk(tmp_path):
    task = local(tmp_path, documents(80))
    _, plain = make_splits("mine", task, tmp_path, seed=1)
    _, known = make_splits("mine", task.model_copy(update={"rationale": SPANS}), tmp_path, seed=1)
    for name, split in known.items():
        assert [(e.id, e.texts, e.label) for e in split] == [(e.id, e.texts, e.label) for e in plain[name]]
        assert {e.rationale for e in plain[name]} == {None}
        save_split(tmp_path, name, split)
        assert load_split(tmp_path, name) == split
    assert {e.rationale for split in known.values() for e in split} == {None, (), (3, 4, 5)}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"chunk": {"words": 5, "only_rationales": True}}, "only_rationales` needs `rationale`"),
        ({"chunk": {"words": 5}, "text": ["a", "b"]}, "cuts one text"),
        ({"source": "generated", "train": None, "chunk": {"words": 5}}, "no meaning for source: generated"),
        ({"rationale": {"column": "marks", "form": "words"}}, "mask"),
    ],
)
def test_keys_that_mean_nothing_together_are_refused(changes, match):
    with pytest.raises(ValidationError, match=match):
        Task(**{"source": "local", "train": "train.jsonl"} | changes)


# ---- chunks ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 12))
def test_chunks_hold_every_word_and_mark_once_and_cut_no_run_that_fits(marks, words):
    rationale = tuple(position for position, marked in enumerate(marks) if marked)
    text = " ".join(f"w{n}" for n in range(len(marks)))
    chunks = cut(Example(id=4, texts=(text,), label=1, rationale=rationale), words)
    lengths = [len(chunk.texts[0].split(" ")) for chunk in chunks]
    starts = np.cumsum([0, *lengths[:-1]])
    assert " ".join(chunk.texts[0] for chunk in chunks) == text
    assert max(lengths) <= words
    assert (
        tuple(p + start for chunk, start in zip(chunks, starts, strict=True) for p in chunk.rationale)
        == rationale
    )
    for start in starts[1:]:
        if marks[start - 1] and marks[start]:  # a run is cut: it began with a chunk and filled it
            before = int(starts[np.searchsorted(starts, start) - 1])
            assert all(marks[before:start])
            assert start - before == words


def test_a_chunk_ends_before_the_span_that_would_be_cut():
    document = Example(id=0, texts=("a b c d e f g",), label=0, rationale=(3, 4))
    assert [(c.texts[0], c.rationale) for c in cut(document, 4)] == [("a b c", ()), ("d e f g", (0, 1))]


def test_chunks_of_a_document_stay_in_one_split_with_ids_that_are_unique_and_know_no_seed(tmp_path):
    task = local(tmp_path, documents(80), rationale=SPANS, chunk=Chunk(words=6))
    ids = {}
    for seed in (0, 1):
        _, splits = make_splits("mine", task, tmp_path, seed)
        found = [(e.texts[0], e.id) for split in splits.values() for e in split]
        assert len({row for _, row in found}) == len(found) == 80 * 4
        of = {name: {e.texts[0].split(".")[0] for e in split} for name, split in splits.items()}
        assert sum(map(len, of.values())) == 80
        ids[seed] = dict(found)
    assert ids[0] == ids[1]


def test_only_chunks_known_to_be_without_a_rationale_leave_and_only_the_train_split(tmp_path):
    task = local(tmp_path, documents(80), rationale=SPANS, chunk=Chunk(words=6))
    _, every = make_splits("mine", task, tmp_path, seed=0)
    only = task.model_copy(update={"chunk": Chunk(words=6, only_rationales=True)})
    _, some = make_splits("mine", only, tmp_path, seed=0)
    assert some["train"] == [e for e in every["train"] if e.rationale is None or e.rationale]
    assert 0 < len(some["train"]) < len(every["train"])
    assert all(some[name] == every[name] for name in ("development", "calibration", "evaluation"))


def test_no_chunk_with_a_rationale_word_is_said_to_be_so(tmp_path):
    rows = [row | {"marks": []} for row in documents(40)]
    task = local(tmp_path, rows, rationale=SPANS, chunk=Chunk(words=6, only_rationales=True))
    with pytest.raises(UserError, match="leaves no chunk to train on"):
        make_splits("mine", task, tmp_path, seed=0)


# ---- tokens ----------------------------------------------------------------------------------------------------------

WORDS = st.text("abcdefgh.,'éß漢", min_size=1, max_size=7)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_word_marks_tokens_of_its_own_in_order_and_together_they_are_all_tokens(family):
    tokenizer = load_tokenizer(f"random:{family}")

    @given(st.lists(WORDS, min_size=1, max_size=12), st.integers(5, 40))
    @settings(max_examples=25, deadline=None)
    def check(words, max_length):
        split = Split(
            Example(id=n, texts=(" ".join(words),), label=0, rationale=(n,)) for n in range(len(words))
        )
        feature = encode(split, tokenizer, max_length)[0]
        labels = np.stack(token_labels(split, tokenizer, max_length))
        assert labels.shape == (len(words), feature["length"])
        inner = labels[:, labels[0] >= 0]
        assert ((labels == -1).all(0) | (labels >= 0).all(0)).all()
        assert (labels[:, [0, -1]] == -1).all()
        assert inner.shape[1] == feature["length"] - tokenizer.num_special_tokens_to_add()
        pieces = np.array(tokenizer.convert_ids_to_tokens(feature["input_ids"]))[labels[0] >= 0]
        of_no_word = [piece.strip("Ġ▁ ") == "" for piece in pieces]  # a space that is a token
        assert (inner.sum(0) + of_no_word == 1).all()
        owners = inner.argmax(0)[inner.any(0)]
        assert (np.diff(owners) >= 0).all()
        if feature["length"] < max_length:  # nothing was cut
            assert set(owners) == set(range(len(words)))

    check()


def test_the_tokens_of_the_marked_word_are_marked():
    tokenizer = load_tokenizer("random:bert")
    split = Split([Example(id=0, texts=("bad , good film",), label=0, rationale=(2,))])
    (labels,) = token_labels(split, tokenizer, 64)
    pieces = tokenizer.convert_ids_to_tokens(encode(split, tokenizer, 64)[0]["input_ids"])
    marked = "".join(piece.removeprefix("##") for piece, one in zip(pieces, labels, strict=True) if one == 1)
    assert marked == "good"


def test_of_a_pair_the_first_text_is_labelled_and_unknown_rationales_have_no_labels():
    tokenizer = load_tokenizer("random:bert")
    pair = ("good film", "bad film")
    split = Split(
        [Example(0, pair, 0, rationale=(0,)), Example(1, pair, 0), Example(2, pair, 0, rationale=())]
    )
    some, unknown, none = token_labels(split, tokenizer, 64)
    types = np.array(encode(split, tokenizer, 64)[0]["token_type_ids"])
    assert unknown is None
    assert set(some[types == 1].tolist()) == {-1}
    assert {0, 1} <= set(some[types == 0].tolist())
    assert set(none.tolist()) == {-1, 0}


# ---- real data -------------------------------------------------------------------------------------------------------


def real_rows(folder, name, step):
    """Write every ``step``-th row of a real file, which may be sorted by label, as a data folder's train file."""
    files = sorted(REAL.glob(f"{name}/train.jsonl.gz"))
    if not files:
        pytest.skip(f"no ../shared/data beside the project: {name} is not here")
    with gzip.open(files[0], "rt", encoding="utf-8", newline="\n") as stream:
        rows = list(islice(stream, 0, None, step))
    (folder / "train.jsonl").write_text("".join(rows), encoding="utf-8", newline="\n")
    return [json.loads(row) for row in rows]


def test_rows_of_hatexplain_keep_their_masks(tmp_path):
    rows = real_rows(tmp_path, "hatexplain", 50)
    task = Task(source="local", train="train.jsonl", rationale={"column": "rationale_union", "form": "mask"})
    _, splits = make_splits("hatexplain", task, tmp_path, seed=0)
    examples = {e.id: e for split in splits.values() for e in split}
    kinds = {None: 0, "none": 0, "some": 0}
    for position, row in enumerate(rows):
        mask, rationale = row["rationale_union"], examples[position].rationale
        kinds[None if mask is None else "some" if mask else "none"] += 1
        assert rationale == (None if mask is None else tuple(np.flatnonzero(mask).tolist()))
    assert min(kinds.values()) > 0


def test_chunks_of_eraser_movies_hold_the_words_of_the_evidences(tmp_path):
    rows = real_rows(tmp_path, "eraser_movies", 25)
    task = Task(
        source="local", train="train.jsonl", rationale={"column": "evidences", "form": "spans"}, chunk=Chunk(words=150)
    )  # fmt: skip
    _, splits = make_splits("movies", task, tmp_path, seed=0)
    chunks = sorted((e for split in splits.values() for e in split), key=lambda e: e.id)
    found = [chunk.texts[0].split(" ")[position] for chunk in chunks for position in chunk.rationale]
    gold = [sorted({p for start, end in row["evidences"] for p in range(start, end)}) for row in rows]
    assert found == [row["text"].split()[p] for row, marks in zip(rows, gold, strict=True) for p in marks]
    assert max(len(chunk.texts[0].split(" ")) for chunk in chunks) <= 150
