"""Tables that `predict` answers: which column, which line, and what is no text."""

import csv
import gzip
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
import torch

from adaptive_inference import cli
from adaptive_inference.exits import build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

TEXTS = ("a good film", "two\nlines, one cell", 'a "bad" one')


def save(folder, **schema):
    torch.set_num_threads(1)
    body = {
        "kind": "classification",
        "labels": ("bad", "good"),
        "metric": "accuracy",
        "max_length": 32,
    } | schema
    model = build_model(Backbone(weights="random:bert", exits=[1, 4]), Schema("tickets", **body), 0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"), text=("message",))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return save(tmp_path_factory.mktemp("pair"), text=("question", "answer"))


@pytest.fixture
def ask(capsys):
    """Run `predict`; return status, standard output and the error text."""

    def run(*arguments):
        status = cli.main(["predict", *(str(item) for item in arguments)])
        return status, *capsys.readouterr()

    return run


def table(file, rows=TEXTS):
    """Write texts, with a column of something else before them, in the form that the name says."""
    columns = {"id": [str(k) for k in range(len(rows))], "message": list(rows)}
    if file.name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
        return file
    out = io.StringIO()
    if ".jsonl" in file.name:
        out.writelines(json.dumps({"id": k, "message": text}) + "\n" for k, text in enumerate(rows))
    else:
        csv.writer(out, lineterminator="\n").writerows(
            zip(*([name, *cells] for name, cells in columns.items()), strict=True)
        )
    data = out.getvalue().encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("t.csv", [2, 3, 5]),
        ("T.CSV", [2, 3, 5]),
        ("t.csv.gz", [2, 3, 5]),
        ("t.jsonl", [1, 2, 3]),
        ("t.jsonl.gz", [1, 2, 3]),
        ("t.parquet", [1, 2, 3]),
    ],
)
def test_a_table_is_read_by_its_ending_and_each_answer_has_its_line(ask, model, tmp_path, name, lines):
    wanted = [json.loads(ask(model, table(tmp_path / "alone.jsonl", [text]))[1]) for text in TEXTS]
    status, out, err = ask(model, table(tmp_path / name))
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        answer | {"line": line} for answer, line in zip(wanted, lines, strict=True)
    ]
    assert err.startswith("3 rows, "), "the header is no row"


def test_tsv_takes_a_quote_for_a_quote(ask, model, tmp_path):
    file = tmp_path / "t.tsv"
    file.write_text('message\tid\n"a\t1\nb"\t2\n')
    assert [json.loads(line)["line"] for line in ask(model, file)[1].splitlines()] == [2, 3]


def test_another_column_is_taken_where_it_is_named(ask, model, tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("message,body\na good film,the worst meal\n")
    only = tmp_path / "only.csv"
    only.write_text("message\nthe worst meal\n")
    assert ask(model, file, "--column", "body")[1] == ask(model, only)[1] != ask(model, file)[1]


def test_json_lines_take_the_named_key_too(ask, model, monkeypatch):
    given = io.TextIOWrapper(io.BytesIO(b'{"message": 3, "body": "the worst meal"}\n'))
    monkeypatch.setattr("sys.stdin", given)
    assert ask(model, "--column", "body")[0] == 0


def test_a_pair_takes_its_two_columns_or_those_that_are_named(ask, pair, tmp_path):
    own, named = tmp_path / "own.csv", tmp_path / "named.csv"
    own.write_text("id,answer,question\n1,yes,is it?\n")
    named.write_text("a,q\nyes,is it?\n")
    answer = ask(pair, own)[1]
    assert answer
    assert ask(pair, named, "--column", "q", "--column", "a")[1] == answer
    status, _, err = ask(pair, named, "--column", "q")
    assert status == 2
    assert "reads 2 texts (question, answer); give it once for each" in err


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_blank_cells_are_left_out_and_said(ask, model, tmp_path, name):
    file = tmp_path / name
    file.write_text("message\tid\na\t1\n\t2\n  \t3\nb\t4\n".replace("\t", "," if name == "t.csv" else "\t"))
    _, out, err = ask(model, file)
    assert [json.loads(line)["line"] for line in out.splitlines()] == [2, 5]
    assert "note: 2 rows without a text left out" in err


@pytest.mark.parametrize(("form", "mark"), [("csv", ","), ("tsv", "\t")])
def test_answers_can_be_a_table(ask, model, tmp_path, form, mark):
    file = table(tmp_path / "t.csv")
    _, out, _ = ask(model, file, "--format", form)
    rows = list(csv.reader(io.StringIO(out), delimiter=mark))
    objects = [json.loads(line) for line in ask(model, file)[1].splitlines()]
    assert rows[0] == ["line", "label", "probability", "exit_layer", "cut", "flops"]
    assert rows[1:] == [
        [
            str(row["line"]),
            row["label"],
            str(row["probability"]),
            str(row["exit_layer"]),
            "no",
            str(row["flops"]),
        ]
        for row in objects
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"message,team\n", "holds only a header (message, team), no rows"),
        ("t.csv", b"", "holds nothing, no rows"),
        ("t.csv", b"mesage,team\na,b\n", "has no column 'message'; name the right one with --column; its columns (its "
         "first line): mesage, team; did you mean 'mesage'?"),
        ("t.csv", b"message;team\na;b\n", "is another separator used?"),
        ("t.csv", b"message\n \n\n", "holds no text to answer"),
        ("t.csv", bytes(range(256)), "is not UTF-8 text"),
        ("t.csv", "message\na\n".encode("utf-16"), "is not UTF-8 text"),
        ("t.csv", "message\na\n".encode("utf-16-le"), "it holds zero bytes"),
        ("t.parquet", b"PAR1 is not enough", "cannot be read as Parquet"),
        ("t.jsonl", b'{"message": 3}\n', "line 1: 'message' is 3, not a string"),
        ("t.jsonl", b'{"message": "a"}\n\n{"id": 1}\n', "line 3 has no key 'message'"),
        ("t.txt", bytes(range(256)), "line 1 is no text (it holds a zero byte)"),
        ("t.txt", b"\x89PNG\n", "line 1 is not UTF-8"),
        ("t.txt", b"", "t.txt holds no text to answer"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_told_in_one_line(ask, model, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    status, out, err = ask(model, tmp_path / name)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_cell_of_a_megabyte_is_answered(ask, model, tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(f"id,message\n1,{'word ' * 200_000}\n")
    status, out, _ = ask(model, file)
    assert status == 0
    assert json.loads(out)["cut"] is True
