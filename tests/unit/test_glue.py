"""GLUE submissions: what the server wants of each task, and what cannot be submitted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic_records import PROJECT

from adaptive_inference import cli, load_predictor
from adaptive_inference.data.glue import TASKS, answers, glue_task, read_texts, submission
from adaptive_inference.data.local import Table, read_table
from adaptive_inference.errors import UserError
from adaptive_inference.exits import build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

REAL = PROJECT.parent / "shared" / "data"
INFERENCE = ("entailment", "neutral", "contradiction")
PAIR = ("sentence1", "sentence2")


def schema(task="mine", labels=("0", "1"), text=PAIR):
    kind = "classification" if labels else "regression"
    return Schema(task, kind, labels, "accuracy" if labels else "pearson", 32, text)


def table(*rows):
    return Table("test.jsonl", tuple(dict.fromkeys(key for row in rows for key in row)), list(rows))


# ---- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "file", "labels", "given", "wanted"),
    [
        ("cola", "CoLA.tsv", ("unacceptable", "acceptable"), ["acceptable", "unacceptable"], ["1", "0"]),
        ("sst2", "SST-2.tsv", ("negative", "positive"), ["positive", "negative"], ["1", "0"]),
        ("mrpc", "MRPC.tsv", ("not_equivalent", "equivalent"), ["equivalent", "not_equivalent"], ["1", "0"]),
        ("qqp", "QQP.tsv", ("0", "1"), ["1", "0"], ["1", "0"]),
        ("wnli", "WNLI.tsv", ("not_entailment", "entailment"), ["entailment", "not_entailment"], ["1", "0"]),
        ("rte", "RTE.tsv", ("0", "1"), ["0", "1"], ["entailment", "not_entailment"]),
        ("qnli", "QNLI.tsv", ("0", "1"), ["1", "0"], ["not_entailment", "entailment"]),
        (
            "mnli-m",
            "MNLI-m.tsv",
            ("0", "1", "2"),
            ["2", "0", "1"],
            ["contradiction", "entailment", "neutral"],
        ),
        ("mnli-mm", "MNLI-mm.tsv", INFERENCE, ["neutral", "contradiction"], ["neutral", "contradiction"]),
        ("ax", "AX.tsv", INFERENCE, ["entailment", "neutral"], ["entailment", "neutral"]),
        ("stsb", "STS-B.tsv", None, [-0.2, 2.34567, 5.0004, -0.0], ["0.000", "2.346", "5.000", "0.000"]),
    ],
)
def test_each_task_in_the_servers_words(key, file, labels, given, wanted):
    task = glue_task(key, schema(labels=labels))
    assert task.file == file
    lines = submission(task, schema(labels=labels), given).split("\n")
    assert lines == ["index\tprediction", *(f"{k}\t{word}" for k, word in enumerate(wanted)), ""]


def test_all_eleven_files_of_a_submission_are_there():
    assert len({task.file for task in TASKS.values()}) == len(TASKS) == 11


def test_labels_count_by_name_and_not_by_place():
    assert answers(TASKS["rte"], schema(labels=("not entailment", "Entailment"))) == {
        "not entailment": "not_entailment",
        "Entailment": "entailment",
    }
    assert answers(TASKS["sst2"], schema(labels=("positive", "negative"))) == {
        "positive": "1",
        "negative": "0",
    }
    assert answers(TASKS["mnli-m"], schema(labels=("2", "0", "1")))["2"] == "contradiction"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_score_is_always_within_0_and_5_with_three_decimals(value):
    line = submission(TASKS["stsb"], schema(labels=None), [value]).split("\n")[1]
    number = line.partition("\t")[2]
    assert 0.0 <= float(number) <= 5.0
    assert len(number) == len("0.000")


# ---- which task ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sst2", "SST-2", "sst-2", "sst_2", None])
def test_a_task_goes_by_any_usual_spelling_or_by_the_models_own(name):
    assert glue_task(name, schema("SST-2", ("negative", "positive"))) is TASKS["sst2"]


@pytest.mark.parametrize(
    ("name", "of", "message"),
    [
        ("rt", schema(), "no GLUE task 'rt'; .*did you mean 'rte'"),
        (
            None,
            schema("tickets"),
            "the model's task 'tickets' names no GLUE task; name one with --glue-task: cola",
        ),
        (None, schema("mnli", INFERENCE), "'mnli' names no GLUE task; .*mnli-m, mnli-mm"),
        ("rte", schema(labels=INFERENCE), r"needs 2 classes .* this model's 3 classes"),
        ("mnli-m", schema(), "needs 3 classes"),
        (
            "rte",
            schema(labels=("bad", "good")),
            r"cannot be told .*\(bad, good\); .*`labels: \[entailment, not_",
        ),
        ("sst2", schema(labels=("1", "2")), "cannot be told"),
        ("rte", schema(labels=("entailment", "0")), "cannot be told"),
        ("stsb", schema(), r"needs a score, but this model \(task mine\) answers 2 classes"),
        ("rte", schema(labels=None), "needs 2 classes .* answers a score"),
    ],
)
def test_what_cannot_be_submitted_is_told(name, of, message):
    with pytest.raises(UserError, match=message):
        glue_task(name, of)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="no score"):
        submission(TASKS["stsb"], schema(labels=None), [float("nan")])


# ---- the rows --------------------------------------------------------------------------------------------------------


def test_labels_are_not_looked_at_and_the_index_may_be_absent():
    given = table({"sentence2": "b", "sentence1": "a", "label": -1})
    assert read_texts(given, TASKS["rte"], schema()) == [["a", "b"]]


@pytest.mark.parametrize(
    ("key", "text", "row"),
    [
        ("mnli-mm", ("premise", "hypothesis"), {"index": "0", "sentence1": "a", "sentence2": "b"}),
        ("mrpc", PAIR, {"index": "0", "#1 ID": "7", "#2 ID": "8", "#1 String": "a", "#2 String": "b"}),
    ],
)
def test_columns_of_glues_own_files_stand_for_those_of_the_hub(key, text, row):
    labels = INFERENCE if "mnli" in key else ("0", "1")
    assert read_texts(table(row), TASKS[key], schema(labels=labels, text=text)) == [["a", "b"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no rows"),
        ([{"sentence1": "a", "sentense2": "b"}], "no column 'sentence2', .*did you mean 'sentense2'"),
        ([{"sentence1": "a", "sentence2": None}], "row 0: the text in column 'sentence2' is None"),
        ([{"idx": 0, "sentence1": "a", "sentence2": "b"}, {"idx": 2, "sentence1": "a", "sentence2": "b"}],
         "row 1: column 'idx' holds 2, expected 1"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_submitted_is_named(rows, message):
    with pytest.raises(UserError, match=message):
        read_texts(table(*rows), TASKS["rte"], schema())


def test_an_empty_text_of_a_delimited_file_is_answered(tmp_path):
    file = tmp_path / "test.tsv"
    file.write_text("index\tquestion1\tquestion2\n0\ta\tb\n1\tc\t\n")
    pair = schema(text=("question1", "question2"))
    assert read_texts(read_table(file), TASKS["qqp"], pair) == [["a", "b"], ["c", ""]]


@pytest.mark.parametrize("key", ["cola", "sst2", "mrpc", "stsb", "qnli", "rte"])
def test_the_official_test_files_are_read_whole(key):
    files = sorted(REAL.glob(f"{key}/test.jsonl*"))
    if not files:
        pytest.skip("no ../shared/data beside the project: GLUE's test files are not here")
    labels = None if key == "stsb" else ("0", "1")
    texts = read_texts(read_table(files[0]), TASKS[key], schema(labels=labels, text=TASKS[key].columns[0]))
    assert len(texts) == TASKS[key].rows


# ---- the command -----------------------------------------------------------------------------------------------------


def save(folder: Path, of: Schema) -> Path:
    torch.set_num_threads(1)
    build_model(Backbone(weights="random:bert", exits=[1, 4]), of, 0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rte(tmp_path_factory):
    return save(tmp_path_factory.mktemp("rte"), schema("rte", ("not_entailment", "entailment")))


@pytest.fixture
def tsv(tmp_path):
    rows = [f'{k}\tA film number {k}.\tThere is "a film".\n' for k in range(4)]
    (tmp_path / "test.tsv").write_text("index\tsentence1\tsentence2\n" + "".join(rows))
    return tmp_path / "test.tsv"


@pytest.fixture
def ask(capsys):
    def run(*arguments):
        status = cli.main([str(item) for item in arguments])
        return status, *capsys.readouterr()

    return run


def test_a_submission_holds_what_the_model_answers(ask, rte, tsv):
    status, out, err = ask("predict", rte, tsv, "--format", "glue")
    pairs = [(f"A film number {k}.", 'There is "a film".') for k in range(4)]
    wanted = load_predictor(rte).predict(pairs).labels
    assert status == 0
    assert out == "index\tprediction\n" + "".join(f"{k}\t{label}\n" for k, label in enumerate(wanted))
    assert "RTE.tsv: 4 rows, mean exit layer 4.00" in err
    assert "3000 rows" in err


def test_early_answers_are_submitted_too_and_counted(ask, rte, tsv):
    options = ("--format", "glue", "--rule", "confidence", "--threshold", "0")
    status, _, err = ask("predict", rte, tsv, *options)
    assert status == 0
    assert "mean exit layer 1.00" in err


def test_a_folder_gets_the_servers_file_name(ask, rte, tsv, tmp_path):
    printed = ask("predict", rte, tsv, "--format", "glue")[1]
    for out, file in (("new/", "new/RTE.tsv"), (".", "RTE.tsv"), ("mine.tsv", "mine.tsv")):
        given = f"{tmp_path}/{out}"
        assert ask("predict", rte, tsv, "--format", "glue", "--out", given)[:2] == (0, "")
        assert (tmp_path / file).read_text() == printed


def test_scores_are_submitted(ask, tmp_path, tsv):
    model = save(tmp_path / "model", schema("sts-b", None))
    status, out, _ = ask("predict", model, tsv, "--format", "glue")
    assert status == 0
    assert [len(line.partition("\t")[2]) for line in out.splitlines()[1:]] == [5] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "--format", "glue"], "needs FILE"),
        (["{model}", "{file}", "--format", "glue", "--glue-task", "mnli-m"], "needs 3 classes"),
        (["{model}", "{file}", "--out", "x"], "go with --format glue"),
        (["{model}", "{file}.none.tsv", "--format", "glue"], "No such file"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(ask, rte, tsv, monkeypatch, arguments, message):
    monkeypatch.setitem(
        sys.modules, "adaptive_inference.serving.predictor", None
    )  # an import of it would fail
    status, out, err = ask("predict", *(item.format(model=rte, file=tsv) for item in arguments))
    assert (status, out) == (2, "")
    assert message in err


def test_json_rows_make_the_same_submission(ask, rte, tsv, tmp_path):
    rows = read_table(tsv).rows
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(row | {"label": -1}) + "\n" for row in rows))
    assert ask("predict", rte, file, "--format", "glue")[1] == ask("predict", rte, tsv, "--format", "glue")[1]
