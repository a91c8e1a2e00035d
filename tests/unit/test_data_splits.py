"""Splits, features and batches: what is drawn from what, and what never leaks."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.data.splits import check_generated_rows, make_splits, most_calibration_rows
from adaptive_inference.data.statistics import describe, shared_texts
from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import Generated, Task
from adaptive_inference.tasks.encode import collate, encode
from adaptive_inference.tasks.schema import (
    SPLITS,
    Example,
    Schema,
    Split,
    load_schema,
    load_split,
    save_split,
)


def local(folder, count, distinct=None, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"text": f"text {n % (distinct or count)}", "label": n % 2} for n in range(count)]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Task(source="local", train="train.jsonl", labels=["no", "yes"], **changes)


def ids(split):
    return [example.id for example in split]


@given(st.integers(100, 400), st.integers(0, 3), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_carved_splits_are_disjoint_whole_and_share_no_text(tmp_path_factory, count, seed, copies):
    folder = tmp_path_factory.mktemp("data")
    task = local(folder, count, distinct=count // copies)
    _, splits = make_splits("mine", task, folder, seed)
    assert sorted(row for split in splits.values() for row in ids(split)) == list(range(count))
    assert set(shared_texts(splits).values()) == {0}
    assert all(ids(split) == sorted(ids(split)) for split in splits.values())


def test_sizes_are_capped_at_a_tenth_and_a_fifth_of_what_the_evaluation_leaves(tmp_path):
    _, splits = make_splits("mine", local(tmp_path, 1000), tmp_path, seed=0)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 560, "development": 80, "calibration": 160, "evaluation": 200,
    }  # fmt: skip


def test_a_large_train_file_gives_five_hundred_calibration_rows(tmp_path):
    task = local(tmp_path, 6000, evaluation_rows=500, train_rows=2000)
    _, splits = make_splits("mine", task, tmp_path, seed=0)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 2000, "development": 500, "calibration": 500, "evaluation": 500,
    }  # fmt: skip


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"evaluation_rows": 77},
        {"calibration_rows": 9},
        {"evaluation": "train.jsonl"},
        {"source": "generated", "train": None, "generated": Generated(rows=700, evaluation_rows=150)},
    ],
)
def test_the_calibration_rows_are_known_before_anything_is_cut(tmp_path, task):
    given = local(tmp_path, 613).model_copy(update=task)
    _, splits = make_splits("mine", given, tmp_path, seed=2)
    assert most_calibration_rows(given, tmp_path) == len(splits["calibration"])


def test_the_seed_draws_all_but_the_evaluation_split(tmp_path):
    task = local(tmp_path, 900, train_rows=300)
    (_, first), (_, again), (_, other) = (make_splits("mine", task, tmp_path, seed) for seed in (0, 0, 1))
    assert first == again
    assert ids(first["evaluation"]) == ids(other["evaluation"])
    for name in ("train", "development", "calibration"):
        assert ids(first[name]) != ids(other[name])


def test_a_given_evaluation_file_is_reported_whole_and_in_order(tmp_path):
    task = local(tmp_path, 200)
    (tmp_path / "evaluation.jsonl").write_text(
        "".join(json.dumps({"text": f"text {n}", "label": n % 2}) + "\n" for n in range(50))
    )
    _, splits = make_splits(
        "mine", task.model_copy(update={"evaluation": "evaluation.jsonl"}), tmp_path, seed=3
    )
    assert ids(splits["evaluation"]) == list(range(50))
    shared = shared_texts(splits)
    assert sum(count for pair, count in shared.items() if pair.endswith("-evaluation")) == 50


@pytest.mark.parametrize(
    ("count", "changes", "match"),
    [
        (11, {}, "leaves 9 rows .* at least 10"),
        (100, {"evaluation_rows": 200}, "leaves 0 rows"),
        (100, {"train_rows": 90}, r"train_rows: 90 asked for, but 56 are left"),
    ],
)
def test_too_few_rows_are_refused_with_the_count(tmp_path, count, changes, match):
    with pytest.raises(UserError, match=match):
        make_splits("mine", local(tmp_path, count, **changes), tmp_path, seed=0)


def test_one_text_repeated_leaves_an_empty_split(tmp_path):
    with pytest.raises(UserError, match="empty"):
        make_splits("mine", local(tmp_path, 100, distinct=1), tmp_path, seed=0)


def test_the_generated_task_needs_no_file_and_keeps_its_evaluation_rows_over_seeds(tmp_path):
    task = Task(source="generated", generated=Generated(rows=700, evaluation_rows=100, label_noise=0.1))
    (schema, first), (_, other) = (make_splits("tiers", task, tmp_path / "none", seed) for seed in (0, 1))
    assert first["evaluation"] == other["evaluation"]
    assert first["train"] != other["train"]
    assert set(shared_texts(first).values()) == {0}
    assert {name: len(split) for name, split in first.items()} == {
        "train": 420, "development": 60, "calibration": 120, "evaluation": 100,
    }  # fmt: skip
    assert (schema.label_noise, len(schema.tiers), schema.labels) == (0.1, 5, ("negative", "positive"))


@pytest.mark.parametrize(
    ("rows", "train_rows", "match"),
    [
        (100, None, "'tiers' of 100 rows leaves 0 rows .* at least 10 are needed"),
        (109, None, "leaves 9 rows"),
        (200, 71, r"tasks\.tiers\.train_rows: 71 asked for, but 70 are left"),
    ],
)
def test_a_generated_task_of_too_few_rows_is_refused_before_and_while_it_is_split(
    tmp_path, rows, train_rows, match
):
    asked = Generated(rows=rows, evaluation_rows=100)
    task = Task(source="generated", generated=asked, train_rows=train_rows)
    with pytest.raises(UserError, match=match):
        check_generated_rows("tiers", task)
    with pytest.raises(UserError, match=match.replace("'tiers' of 100 rows", "'tiers'")):
        make_splits("tiers", task, tmp_path, seed=0)


def test_a_generated_task_of_just_enough_rows_is_split(tmp_path):
    task = Task(source="generated", generated=Generated(rows=200, evaluation_rows=100), train_rows=70)
    check_generated_rows("tiers", task)
    assert len(make_splits("tiers", task, tmp_path, seed=0)[1]["train"]) == 70


def test_splits_and_schema_survive_the_disk(tmp_path):
    task = Task(source="generated", generated=Generated(rows=200, evaluation_rows=50))
    schema, splits = make_splits("tiers", task, tmp_path, seed=0)
    schema.save(tmp_path)
    for name in SPLITS:
        save_split(tmp_path, name, splits[name])
        assert load_split(tmp_path, name) == splits[name]
    assert load_schema(tmp_path) == schema
    scores = Split([Example(0, ("a\u2028b", "c"), 3.0)])
    save_split(tmp_path, "train", scores)
    assert load_split(tmp_path, "train") == scores
    assert isinstance(load_split(tmp_path, "train")[0].label, float)


def test_a_wrong_schema_or_split_name_is_refused(tmp_path):
    with pytest.raises(UserError, match="did you mean 'calibration'"):
        load_split(tmp_path, "calibraton")
    with pytest.raises(UserError, match="prepare the task's data"):
        load_split(tmp_path, "train")
    with pytest.raises(UserError, match=r"no 'lables'.*did you mean 'labels'"):
        Schema.from_dict({"lables": []})
    with pytest.raises(UserError, match="'kind' is missing"):
        Schema.from_dict({"task": "mine"})


class WordTokenizer:
    """Stands in for a tokenizer: one id per letter count of a word, 1 and 2 around them, cuts at the end."""

    def __call__(self, first, second=None, *, truncation, max_length=None, **ignored):
        pairs = zip(first, second or [None] * len(first), strict=True)
        rows = [[1, *(len(word) + 2 for word in f"{a} {b or ''}".split()), 2] for a, b in pairs]
        rows = [row[:max_length] if truncation else row for row in rows]
        return {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}


def test_features_are_unpadded_and_cut_at_the_maximum_length():
    split = Split([Example(3, ("a bb ccc",), 1), Example(9, ("a",), 0)])
    assert encode(split, WordTokenizer(), 4) == [
        {"input_ids": [1, 3, 4, 5], "attention_mask": [1] * 4, "length": 4, "label": 1, "id": 3},
        {"input_ids": [1, 3, 2], "attention_mask": [1] * 3, "length": 3, "label": 0, "id": 9},
    ]
    assert encode(Split(), WordTokenizer(), 4) == []
    assert encode(Split([Example(0, ("a", "b"), 0)]), WordTokenizer(), 9)[0]["length"] == 4


def test_a_batch_is_padded_to_its_longest_row_and_the_mask_tells_where():
    import torch

    split = Split([Example(3, ("a bb ccc",), 1), Example(9, ("a",), 0)])
    batch = collate(encode(split, WordTokenizer(), 99), pad_token_id=77)
    assert batch["input_ids"].tolist() == [[1, 3, 4, 5, 2], [1, 3, 2, 77, 77]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch["labels"].dtype == torch.long
    assert batch["ids"].tolist() == [3, 9]
    assert "token_type_ids" not in batch
    scores = collate([{"input_ids": [1], "attention_mask": [1], "token_type_ids": [0], "label": 0.5}], None)
    assert scores["labels"].dtype == torch.float32
    assert scores["token_type_ids"].tolist() == [[0]]


def test_statistics_count_what_was_put_in():
    schema = Schema("mine", "classification", ("no", "yes"), "accuracy", 4)
    split = Split([Example(n, (text,), n % 2) for n, text in enumerate(["a", "a b", "a b c", "a"])])
    body = describe(split, schema, WordTokenizer())
    assert body["labels"] == {"no": 2, "yes": 2}
    assert (body["rows"], body["repeated"], body["truncated"]) == (4, 1, 0.25)
    assert (body["tokens"]["0"], body["tokens"]["100"]) == (3, 5)
    scores = Schema("mine", "regression", None, "pearson", 4)
    assert describe(Split([Example(0, ("a",), 1.0), Example(1, ("b",), 3.0)]), scores, WordTokenizer())["labels"] == {
        "mean": 2.0, "deviation": 1.0, "min": 1.0, "max": 3.0,
    }  # fmt: skip
