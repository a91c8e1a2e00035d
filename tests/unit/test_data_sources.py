"""Files, hub and labels: what is read, and one clear message for each kind of bad input."""

from __future__ import annotations

import gzip
import json

import pytest

from adaptive_inference.data.local import data_file, read_table
from adaptive_inference.data.splits import make_splits
from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import Task

WORDS = ["bad", "good", "fine"]


def task(**changes):
    given = {"source": "local", "train": "train.jsonl", "labels": ["negative", "positive"]} | changes
    return Task(**{key: value for key, value in given.items() if value is not None})


def rows(count=60, **changes):
    return [{"text": f"text number {n}", "label": n % 2} | changes for n in range(count)]


def write(folder, name, lines):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def refuse(data, match, task_, lines=None, name="train.jsonl"):
    if lines is not None:
        write(data, name, lines)
    with pytest.raises(UserError, match=match) as caught:
        make_splits("mine", task_, data, seed=0)
    return str(caught.value)


def test_every_format_gives_the_same_rows(data):
    import pyarrow
    import pyarrow.parquet

    wanted = [
        {"text": 'He said "no", twice', "label": "positive"},
        {"text": "null", "label": "negative"},
        {"text": "NA", "label": "positive"},
        {"text": "née\u2028über", "label": "negative"},
    ]
    write(data, "a.jsonl", wanted), write(data, "a.jsonl.gz", wanted)
    quoted = "text,label\n" + "".join(
        '"' + row["text"].replace('"', '""') + f'",{row["label"]}\n' for row in wanted
    )
    (data / "a.csv").write_text("\ufeff" + quoted, encoding="utf-8", newline="")
    (data / "a.csv.gz").write_bytes(gzip.compress(quoted.replace("\n", "\r\n").encode()))
    (data / "a.tsv").write_text(
        "text\tlabel\n" + "".join(f"{r['text']}\t{r['label']}\n" for r in wanted), "utf-8"
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(wanted), data / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.tsv", "a.parquet"):
        table = read_table(data / name)
        assert (table.columns, table.rows) == (("text", "label"), wanted), name


def test_a_line_break_inside_a_csv_cell_is_part_of_the_text(data):
    (data / "a.csv").write_text('text,label\n"two\nlines",1\n', encoding="utf-8")
    assert read_table(data / "a.csv").rows == [{"text": "two\nlines", "label": "1"}]


@pytest.mark.parametrize(
    ("name", "body", "match"),
    [
        ("a.csv", b'text,label\n"open,1\n', "line 2.*quotes"),
        ("a.csv", b"text,label\na,b,1\n", "line 2: 3 cells where the header has 2"),
        ("a.csv", b"text,text\na,1\n", "twice"),
        ("a.csv", b"text,label\n\xe9t\xe9,1\n", "not UTF-8"),
        ("a.jsonl", b'{"text": 1}\n{"text":\n', "line 2: no JSON"),
        ("a.jsonl", b"[1, 2]\n", "line 1: no JSON object"),
        ("a.jsonl.gz", b"no gzip", "gzip"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-12], "gzip"),
        ("a.parquet", b"no parquet", "Parquet"),
        ("a.xlsx", b"", r"unknown ending; allowed: \.jsonl, \.csv, \.tsv, \.parquet"),
        ("a.parquet.gz", b"", "unknown ending"),
    ],
)
def test_an_unreadable_file_is_named_with_the_place(data, name, body, match):
    (data / name).write_bytes(body)
    with pytest.raises(UserError, match=match):
        read_table(data / name)


def test_a_linked_file_is_read_and_a_linked_folder_is_refused(data, tmp_path):
    real = write(tmp_path / "elsewhere", "train.jsonl", rows())
    (data / "train.jsonl").symlink_to(real)
    make_splits("mine", task(), data, seed=0)
    (data / "linked").symlink_to(real.parent)
    assert "link the files" in refuse(data, "linked folder", task(train="linked/train.jsonl"))


@pytest.mark.parametrize("name", ["../train.jsonl", "/etc/passwd", "a/../../train.jsonl"])
def test_a_path_outside_the_data_folder_is_refused(data, name):
    with pytest.raises(UserError, match="outside data/"):
        data_file(data, name)


def test_a_missing_file_names_those_there_and_the_nearest(data):
    write(data, "sst2/train.jsonl", rows())
    with pytest.raises(UserError, match=r"files there: sst2/train\.jsonl; did you mean"):
        data_file(data, "sst2/trian.jsonl")
    (data / "gone.jsonl").symlink_to(data / "nowhere.jsonl")
    with pytest.raises(UserError, match="mend the link"):
        data_file(data, "gone.jsonl")


def test_a_missing_column_names_the_columns_there_are(data):
    message = refuse(data, "no column 'sentence'", task(text=["sentence"]), rows())
    assert "text, label" in message
    refuse(data, "did you mean 'label'", task(label="lable"))


def test_another_separator_is_guessed_from_the_header(data):
    (data / "train.csv").write_text("text;label\na;1\n")
    refuse(data, "commas", task(train="train.csv"))


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv"])
def test_an_empty_file_is_refused(data, name):
    (data / name).write_text("text,label\n" if name.endswith("csv") else "")
    refuse(data, "no rows", task(train=name))
    write(data, "full.jsonl", rows())
    refuse(data, "evaluation split, has no rows", task(train="full.jsonl", evaluation=name))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"label": 2}, "row 7: label '2'.*out of range; .* allowed: 0 to 1 or negative, positive"),
        ({"label": -1}, "row 7: label -1 marks a withheld label"),
        ({"label": None}, "row 7: the label .* is null"),
        ({"label": 0.5}, "row 7: label 0.5 .* regression"),
        ({"text": None}, "row 7: the text in column 'text' is null"),
        ({"label": [0, 1]}, "row 7.*multi-label and token-classification"),
        ({"text": ["a", "b"], "label": 0}, "row 7.*token-classification"),
        ({"text": {"a": 1}}, "row 7.*dict"),
    ],
)
def test_one_bad_row_is_named_in_either_file(data, change, match):
    spoilt = rows()
    spoilt[7] |= change
    refuse(data, match, task(), spoilt)
    write(data, "good.jsonl", rows())
    refuse(data, match, task(train="good.jsonl", evaluation="train.jsonl"))


def test_an_empty_csv_cell_is_a_null(data):
    lines = [f"some text {n},{n % 2}" for n in range(30)]
    lines[3] = ",1"
    (data / "train.csv").write_text("text,label\n" + "\n".join(lines))
    refuse(data, "row 3: the text .* is null", task(train="train.csv"))


def test_a_misspelt_class_name_is_answered_with_the_nearest(data):
    spoilt = [row | {"label": ["negative", "positive"][row["label"]]} for row in rows()]
    spoilt[4]["label"] = "positiv"
    refuse(data, "row 4: label 'positiv'.*did you mean 'positive'", task(), spoilt)


def test_withheld_labels_are_not_taken_for_a_class(data):
    write(data, "test.jsonl", rows(label=-1))
    refuse(data, "withheld", task(train="test.jsonl", labels=None))
    mixed = [row | {"label": row["label"] - n % 2} for n, row in enumerate(rows())]
    write(data, "mixed.jsonl", [row | {"label": n % 3 - 1} for n, row in enumerate(mixed)])
    refuse(data, "withheld", task(train="mixed.jsonl", labels=None))
    _, splits = make_splits("mine", task(train="mixed.jsonl", labels=["-1", "0", "1"]), data, seed=0)
    assert {label for split in splits.values() for label in split.labels} == {0, 1, 2}


def test_one_class_only_is_refused_in_train_and_evaluation(data):
    refuse(data, "one class only .positive", task(), rows(label=1))
    write(data, "good.jsonl", rows())
    refuse(data, "evaluation split holds one class only", task(train="good.jsonl", evaluation="train.jsonl"))


def test_class_names_come_from_the_train_file_when_not_given(data):
    for values, names in (
        (["spam", "ham", "eggs"], ("eggs", "ham", "spam")),
        ([2, 10, 1], ("1", "2", "10")),
        (["2.0", "10.0", "1.0"], None),
        ([True, False, True], ("false", "true")),
        ([1.0, 0.0, 1.0], ("0", "1")),
    ):
        write(data, "train.jsonl", [row | {"label": values[n % 3]} for n, row in enumerate(rows())])
        if names is None:
            refuse(data, "regression", task(labels=None))
            continue
        schema, splits = make_splits("mine", task(labels=None), data, seed=0)
        assert schema.labels == names
        assert {label for split in splits.values() for label in split.labels} == set(range(len(names)))


@pytest.mark.parametrize("value", ["a long comment {}", "{}"])
def test_a_column_of_free_text_or_of_numbers_of_rows_is_no_label(data, value):
    lines = [row | {"label": value.format(n)} for n, row in enumerate(rows(300))]
    refuse(data, "look like no classes", task(labels=None), lines)


def test_integers_index_the_names_and_strings_are_names(data):
    write(data, "a.jsonl", rows())
    write(data, "b.jsonl", [row | {"label": ["negative", "positive"][row["label"]]} for row in rows()])
    first = make_splits("mine", task(train="a.jsonl"), data, seed=0)
    assert first == make_splits("mine", task(train="b.jsonl"), data, seed=0)


def test_scores_are_floats_and_bad_ones_are_named(data):
    score = {"kind": "regression", "metric": "pearson", "labels": None}
    lines = [row | {"label": n / 10} for n, row in enumerate(rows())]
    write(data, "train.jsonl", lines)
    schema, splits = make_splits("mine", task(**score), data, seed=0)
    assert (schema.labels, schema.outputs) == (None, 1)
    assert all(isinstance(label, float) for label in splits["train"].labels)
    lines[5]["label"] = "high"
    refuse(data, "row 5: score 'high'", task(**score), lines)
    lines[5]["label"] = float("nan")
    refuse(data, "row 5: score nan", task(**score), lines)
    refuse(data, "one score only", task(**score), rows(label=2.5))


HUB = {
    "source": "hub",
    "hub_id": "someone/reviews",
    "revision": "0123456789abcdef" + 24 * "0",
    "train": "train",
    "labels": None,
}


def test_a_hub_that_cannot_be_reached_is_said_to_be_so(data, monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        try:
            raise TimeoutError("timed out")
        except TimeoutError as error:
            raise RuntimeError("could not load") from error

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert "source: local" in refuse(data, "hub cannot be reached for someone/reviews", task(**HUB))


def test_what_the_hub_does_not_have_is_named(data, monkeypatch):
    import datasets

    def absent(*args, **kwargs):
        raise ValueError("Unknown split 'trian'")

    monkeypatch.setattr(datasets, "load_dataset", absent)
    refuse(data, "the hub has not someone/reviews@0123456789ab:train .*Unknown split", task(**HUB))


def named_dataset(names):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    return datasets.Dataset.from_list(rows(), features=features)


def test_hub_rows_come_with_the_names_of_their_classes_and_the_pinned_revision(data, monkeypatch):
    import datasets

    asked = {}

    def load(name, config, *, split, revision):
        asked[split] = (name, config, revision)
        return named_dataset(["no", "yes"])

    monkeypatch.setattr(datasets, "load_dataset", load)
    schema, splits = make_splits("mine", task(**HUB, evaluation="test"), data, seed=0)
    assert schema.labels == ("no", "yes")
    assert [e.label for e in splits["evaluation"]][:4] == [0, 1, 0, 1]
    assert asked == dict.fromkeys(("train", "test"), ("someone/reviews", None, HUB["revision"]))


@pytest.mark.parametrize("names", [["no", "yes"], ["1", "2"]])
def test_integers_of_the_hub_count_in_the_datasets_order_whatever_the_order_of_the_labels(
    data, monkeypatch, names
):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: named_dataset(names))
    for labels, expected in ((None, [0, 1, 0, 1]), (names[::-1], [1, 0, 1, 0])):
        chosen = task(**HUB | {"labels": labels}, evaluation="test")
        schema, splits = make_splits("mine", chosen, data, seed=0)
        assert [e.label for e in splits["evaluation"]][:4] == expected
        assert schema.labels == tuple(labels or names)


def test_labels_that_the_hubs_dataset_does_not_name_are_refused(data, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: named_dataset(["no", "yes"]))
    refuse(data, "names class 'no', .*leave `labels` out: no, yes", task(**HUB | {"labels": ["bad", "good"]}))


def test_classes_of_the_hub_may_be_scores(data, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: named_dataset(["5 stars", "4 stars"]))
    scores = task(**HUB | {"kind": "regression", "metric": "pearson"}, evaluation="test")
    schema, splits = make_splits("mine", scores, data, seed=0)
    assert schema.labels is None
    assert [e.label for e in splits["evaluation"]][:4] == [0.0, 1.0, 0.0, 1.0]
