"""Splits of text tasks: templates over columns, nested ones too, and rows of one source in one split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.data.text_splits import check_text_task, make_text_splits, text_files
from adaptive_inference.errors import UserError
from adaptive_inference.settings.generation import TextTask
from adaptive_inference.tasks.schema import SPLITS, save_split
from adaptive_inference.tasks.text_schema import TextExample, TextSchema, load_text_split

SHARED = Path(__file__).parents[3] / "shared" / "data"


def local(tmp_path, rows, **keys):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    keys = {"train": "rows.jsonl", "source_text": "{a}", "target_text": "{b}", "metric": "bleu"} | keys
    return TextTask(source="local", **keys)


def pairs(count):
    return [{"a": f"source {row}", "b": f"target {row}"} for row in range(count)]


@given(st.lists(st.integers(1, 2), min_size=40, max_size=60), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_no_two_splits_share_a_source(tmp_path_factory, repeats, seed):
    folder = tmp_path_factory.mktemp("data")
    rows = [{"a": f"s{n}", "b": f"t{n}{again}"} for n, times in enumerate(repeats) for again in range(times)]
    _, splits = make_text_splits("t", local(folder, rows), folder, seed)
    assert tuple(splits) == SPLITS
    assert sorted(e.id for split in splits.values() for e in split) == list(range(len(rows)))
    sources = [{e.source for e in split} for split in splits.values()]
    assert sum(map(len, sources)) == len(set.union(*sources)) == len(repeats)


@given(st.lists(st.integers(1, 3), min_size=30, max_size=40), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_rows_of_one_group_are_in_one_split(tmp_path_factory, questions, seed):
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"a": f"q{n}.{number}", "b": "t", "passage": f"p{n}"}
        for n, times in enumerate(questions)
        for number in range(times)
    ]
    task = local(folder, rows, source_text="{a} {passage}", together="passage")
    _, splits = make_text_splits("t", task, folder, seed)
    assert sorted(e.id for split in splits.values() for e in split) == list(range(len(rows)))
    groups = [{e.group for e in split} for split in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == len(questions)


def test_a_group_column_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no column .pasage..*together"):
        make_text_splits("t", local(tmp_path, pairs(40), together="pasage"), tmp_path, 0)


def test_rows_that_repeat_too_few_sources_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"split of .* is empty"):
        make_text_splits("t", local(tmp_path, [{"a": "s", "b": "t"}] * 40), tmp_path, 0)


def test_the_evaluation_rows_are_the_same_for_every_seed(tmp_path):
    task = local(tmp_path, pairs(100))
    one, other = (make_text_splits("t", task, tmp_path, seed)[1] for seed in (0, 1))
    assert one["evaluation"] == other["evaluation"]
    assert len(one["evaluation"]) == 20
    assert one["calibration"] != other["calibration"]


def test_a_generated_task_shares_no_source_over_splits_and_tells_its_kinds():
    task = TextTask(source="generated", rows=200, evaluation_rows=50, metric="exact_match")
    schema, splits = make_text_splits("t", task, Path(), 0)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 105,
        "development": 15,
        "calibration": 30,
        "evaluation": 50,
    }
    assert len({e.source for split in splits.values() for e in split}) == 200
    assert schema.difficulties == ("copied", "look-up", "arithmetic")
    assert make_text_splits("t", task, Path(), 1)[1]["evaluation"] == splits["evaluation"]


def test_columns_of_objects_and_lists_of_answers_are_read_as_hub_sets_hold_them(tmp_path):
    rows = [
        {"translation": {"de": f"ja {n}", "en": f"yes {n}"}, "answers": {"text": [f"a{n}", "b", "b"]}}
        for n in range(20)
    ]
    task = local(
        tmp_path, rows, source_text="translate: {de} ({en})", target_text="{text}", references="text"
    )
    _, splits = make_text_splits("t", task, tmp_path, 0)
    example = splits["train"][0]
    assert example.source == f"translate: ja {example.id} (yes {example.id})"
    assert example.target == f"a{example.id}"
    assert example.accepted == (f"a{example.id}", "b")


@pytest.mark.parametrize(
    ("row", "keys", "said"),
    [
        ({"a": "x", "b": None}, {}, "row 20: the text in column 'b' is null"),
        ({"a": " ", "b": "y"}, {}, "row 20: '{a}' gives an empty text"),
        ({"a": "x", "b": []}, {}, "row 20: 'b' lists no answer"),
        ({"a": ["x"], "b": "y"}, {}, "row 20: the text in column 'a' is a list"),
        ({"a": "x", "b": "y", "c": []}, {"references": "c"}, "row 0: the text in column 'c' is null"),
        ({"a": "x", "b": "y"}, {"source_text": "{aa}"}, "has no column 'aa'.*did you mean 'a'"),
        ({"a": "x", "b": "y"}, {"train_rows": 100}, "generation.tasks.t.train_rows: 100 asked for, but 13 are"),
    ],
)  # fmt: skip
def test_what_gives_no_pair_is_refused_with_its_row(tmp_path, row, keys, said):
    with pytest.raises(UserError, match=said):
        make_text_splits("t", local(tmp_path, [*pairs(20), row], **keys), tmp_path, 0)
    with pytest.raises(UserError, match=said):
        check_text_task("t", local(tmp_path, [*pairs(20), row], **keys), tmp_path)


def test_two_columns_of_objects_with_one_name_inside_are_ambiguous(tmp_path):
    rows = [{"one": {"x": "a"}, "other": {"x": "b"}, "b": "t"}] * 20
    with pytest.raises(UserError, match="has no column 'x'"):
        make_text_splits("t", local(tmp_path, rows, source_text="{x}"), tmp_path, 0)


@pytest.mark.parametrize("keys", [{"rows": 11}, {"rows": 40, "train_rows": 30}])
def test_too_few_generated_rows_are_refused_before_any_is_written(keys):
    task = TextTask(source="generated", metric="exact_match", **keys)
    with pytest.raises(UserError, match=r"rows for training|asked for, but"):
        check_text_task("t", task, Path())


def test_too_few_local_rows_are_refused(tmp_path):
    with pytest.raises(UserError, match="leaves 8 rows"):
        make_text_splits("t", local(tmp_path, pairs(10)), tmp_path, 0)


def test_the_files_of_a_task_are_named_by_role(tmp_path):
    task = local(tmp_path, pairs(3))
    assert text_files(task, tmp_path) == {"train": tmp_path / "rows.jsonl"}
    assert text_files(TextTask(source="generated", metric="bleu"), tmp_path) == {}


def test_splits_and_schema_come_back_as_they_were_saved(tmp_path):
    examples = [
        TextExample(0, "a\u2028b", "c", ("c", "d")),
        TextExample(1, "x", "y", difficulties=("copied",)),
    ]
    save_split(tmp_path, "train", examples)
    assert load_text_split(tmp_path, "train") == examples
    schema = TextSchema("t", "bleu", 24, 16, ("copied", "look-up"))
    schema.save(tmp_path)
    assert TextSchema.load(tmp_path) == schema
    with pytest.raises(UserError, match="did you mean 'train'"):
        load_text_split(tmp_path, "trian")
    with pytest.raises(UserError, match="prepare the task's texts again"):
        load_text_split(tmp_path, "evaluation")
    with pytest.raises(UserError, match="did you mean 'metric'"):
        TextSchema.from_dict(schema.to_dict() | {"metrics": "bleu"})


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
@pytest.mark.parametrize(
    ("train", "keys"),
    [
        ("multi30k_de_en/validation.jsonl", {"source_text": "{de}", "target_text": "{en}"}),
        ("scitldr/validation.jsonl.gz", {"source_text": "{document}", "target_text": "{summary}",
                                         "references": "summaries"}),
        ("squad/test.jsonl.gz", {"source_text": "question: {question} context: {context}", "target_text": "{text}",
                                 "references": "text"}),
    ],
)  # fmt: skip
def test_the_shared_sets_can_be_read(train, keys):
    task = TextTask(source="local", train=train, metric="bleu", **keys)
    _, splits = make_text_splits("t", task, SHARED, 0)
    assert all(e.source and e.target in e.accepted for split in splits.values() for e in split)


def test_a_hub_set_gives_what_its_rows_in_a_file_give(tmp_path, monkeypatch):
    import datasets

    rows = [{"translation": {"de": f"ja {n}", "en": f"yes {n}"}} for n in range(20)]
    asked = []

    def load(*given, **named):
        asked.append((given, named))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    words = {"source_text": "{de}", "target_text": "{en}", "metric": "bleu"}
    hub = TextTask(
        source="hub", hub_id="some/set", hub_config="de-en", revision="0" * 40, train="train", **words
    )
    splits = make_text_splits("t", hub, tmp_path, 0)
    assert asked == [(("some/set", "de-en"), {"split": "train", "revision": "0" * 40})]
    assert splits == make_text_splits("t", local(tmp_path, rows, **words), tmp_path, 0)
