import io
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from adaptive_inference import cli, load_predictor
from adaptive_inference.exits import build_model
from adaptive_inference.files import write_json
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SAVED = Path(__file__).parent / "saved_models/format1"
SCHEMA = Schema("tiny", "classification", ("bad", "good"), "accuracy", 32)
POINT = {
    "goal": {"kind": "max_loss", "value": 1.0, "cost": "layers"},
    "setting": {"rule": "confidence", "threshold": 0.0, "member": None},
    "qualifies": True,
    "seen": {"quality": 0.9, "layers_speedup": 4.0, "flops_speedup": None},
    "evidence": {},
}
CALIBRATION = {
    "temperatures": [1.0, 1.0],
    "certainty_min": None,
    "certainty_max": None,
    "full_quality": 0.9,
    "num_layers": 4,
    "operating_points": [POINT],
    "recommended": POINT,
}


def save(folder, schema=SCHEMA):
    torch.set_num_threads(1)
    build_model(Backbone(weights="random:bert", exits=[1, 4]), schema, 0).save_pretrained(
        folder / "train" / "model"
    )
    write_json(folder / "calibration" / "calibration.json", CALIBRATION)
    row = {"method": "sweet", "point": POINT, "attainable": True, "quality": 0.8765}
    row |= {"layers_speedup": 3.5, "flops_speedup": 3.25}
    write_json(folder / "evaluation" / "metrics.json", {"version": 2, "rows": [row]})
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory):
    schema = Schema("pair", "regression", None, "pearson", 32, ("premise", "hypothesis"))
    return save(tmp_path_factory.mktemp("pair"), schema)


@pytest.fixture
def ask(monkeypatch, capsys):
    """Run the command with some standard input; return status, output objects and the error text."""

    def run(*arguments, given=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        status = cli.main([str(item) for item in arguments])
        out, err = capsys.readouterr()
        return status, [json.loads(line) for line in out.splitlines() if line.startswith("{")], err

    return run


def test_text_lines_in_json_lines_out(ask, run_folder):
    status, out, _ = ask("predict", run_folder, given="a good film\n\nécole ☃\r\nbad\u2028split\n".encode())
    assert status == 0
    assert [row["line"] for row in out] == [1, 3, 4], "a blank line is skipped, and counted"
    for row in out:
        assert list(row) == ["line", "label", "probability", "probabilities", "exit_layer", "cut", "flops"]
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["label"]]
        assert row["exit_layer"] == 1


def test_json_lines_give_the_same_answers_as_text_and_as_the_library(ask, run_folder, tmp_path):
    texts = ["a good film", "the worst meal"]
    _, plain, _ = ask("predict", run_folder, given="\n".join(texts).encode())
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text, "id": 3}) + "\n" for text in texts))
    _, objects, _ = ask("predict", run_folder, file)
    assert plain == objects
    answer = load_predictor(run_folder).predict(texts)
    assert [row["label"] for row in plain] == answer.labels
    assert [row["probability"] for row in plain] == pytest.approx(answer.probabilities.max(1), abs=1e-6)


def test_batches_answer_in_the_inputs_order(ask, run_folder):
    given = "\n".join(f"{'a very good film ' * (number % 5)}{number}" for number in range(70)).encode()
    _, alone, _ = ask("predict", run_folder, "--threshold", "0.5002", given=given)
    for size in (4, 32):
        status, found, _ = ask(
            "predict", run_folder, "--threshold", "0.5002", "--batch-size", size, given=given
        )
        assert status == 0
        assert [row["label"] for row in found] == [row["label"] for row in alone]
        assert [row["probability"] for row in found] == pytest.approx(
            [row["probability"] for row in alone], abs=2e-6
        )


def test_rule_and_threshold_are_taken(ask, run_folder):
    assert ask("predict", run_folder, "--threshold", "1.01", given=b"x\n")[1][0]["exit_layer"] == 4
    assert ask("predict", run_folder, "--rule", "fixed", given=b"x\n")[1][0]["exit_layer"] == 4
    assert (
        ask("predict", run_folder, "--rule", "margin", "--threshold", "0", given=b"x\n")[1][0]["exit_layer"]
        == 1
    )


def test_a_pair_task_reads_its_columns_and_answers_a_score(ask, pair_folder):
    given = b'{"premise": "a film", "hypothesis": "a movie"}\n'
    status, out, _ = ask("predict", pair_folder, "--rule", "fixed", given=given)
    assert status == 0
    assert list(out[0]) == ["line", "score", "exit_layer", "cut", "flops"]


@pytest.mark.parametrize(
    "first",
    [
        "Hello, text, bye",
        "the text, and its label",
        "text " * 20,
        "label, then a colon",
        "text,a sentence of words",
    ],
)
def test_a_first_line_that_only_speaks_of_a_column_is_a_text(ask, run_folder, first):
    status, out, err = ask("predict", run_folder, given=f"{first}\na\n".encode())
    assert status == 0, err
    assert [row["line"] for row in out] == [1, 2]


@pytest.mark.parametrize(
    "header", ["Text,Label", "id\tSENTENCE", '"id","text"', "text;team", "Label", "label,id"]
)
def test_a_header_is_known_however_it_is_written(ask, run_folder, header):
    status, out, err = ask("predict", run_folder, given=f"{header}\na,b\n".encode())
    assert (status, out) == (2, [])
    assert "looks like a table's header" in err


def test_a_header_alone_is_answered_with_a_warning(ask, run_folder):
    status, out, err = ask("predict", run_folder, given=b"text\n\n")
    assert status == 0
    assert len(out) == 1
    assert err.startswith("warning: line 1 (text) looks like a table's header")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"ok\n\xff\xfe\n", "line 2 is not UTF-8"),
        (b"ok\nt\0e\0x\0t\0\n", "line 2 is no text (it holds a zero byte)"),
        (b'[\n{"text": "a"}]\n', "line 1 begins a JSON array; give one JSON object per line"),
        (b"text,label\na,bad\n", "line 1 (text,label) looks like a table's header"),
        (b"text\na\n", "line 1 (text) looks like a table's header"),
        (b"", "standard input holds no text to answer"),
        (b"\n  \n", "standard input holds no text to answer"),
        (b'{"text": "a"}\nplain\n', "line 2 is no JSON object"),
        (b'{"text": "a"\n{"text": "b"}\n', "line 1 looks like a JSON object, but cannot be read as one"),
        (b'plain\n{"text": "b"}\n', "line 2 is a JSON object, but the lines before it are plain text"),
        (b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2: 'text' holds half a character"),
        (b'{"txt": "a"}\n', "line 1 has no key 'text' (keys: txt); did you mean 'txt'?"),
        (b'{"text": null}\n', "line 1: 'text' is null, not a string"),
    ],
)
def test_a_bad_line_is_told_by_its_number(ask, run_folder, given, message):
    status, _, err = ask("predict", run_folder, given=given)
    assert status == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_plain_text_for_a_pair_task_is_told(ask, pair_folder):
    status, _, err = ask("predict", pair_folder, "--rule", "fixed", given=b"alone\n")
    assert status == 2
    assert "keys premise, hypothesis" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "{tmp}/none"], "holds no saved model"),
        (["predict", "{old}"], "is of format 0, and this adaptive-inference reads format 1"),
        (["predict", "{run}", "{tmp}/none.txt"], "cannot read"),
        (["predict", "{run}", "--rule", "confidance"], "did you mean 'confidence'"),
        (["predict", "{run}", "--rule", "oracle"], "true labels"),
        (["predict", "{run}", "--rule", "patience(tolerence=1)"], "did you mean 'tolerance'"),
        (["predict", "{run}", "--rule", "patience", "--threshold", "1.5"], "whole number from 0"),
        (["predict", "{run}", "--rule", "entropy", "--threshold", "3"], "is above ln 2"),
        (["predict", "{run}", "--rule", "entropy"], "no calibrated threshold for rule 'entropy'"),
        (["predict", "{run}", "--batch-size", "0"], "--batch-size 0 must be a whole number from 1"),
        (
            ["predict", "{run}", "--column", "a", "--column", "b"],
            "--column is given 2 times, but task tiny reads 1",
        ),
        (["export", "{tmp}/none", "{tmp}/out"], "holds no saved model"),
        (["export", "{run}", "{run}"], "is not an empty folder"),
        (["export", "{run}/train/model", "{tmp}/out"], "calibrate the model first"),
    ],
)
def test_mistakes_are_one_clear_line(ask, run_folder, tmp_path, arguments, message):
    write_json(tmp_path / "old" / "config.json", {"kind": "multi_exit"})
    filled = [item.format(run=run_folder, tmp=tmp_path, old=tmp_path / "old") for item in arguments]
    status, out, err = ask(*filled)
    assert (status, out) == (2, [])
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_export_gathers_a_run_that_predicts_the_same(ask, run_folder, tmp_path):
    out = tmp_path / "exported"
    assert ask("export", run_folder, out)[0] == 0
    assert {file.name for file in out.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "calibration.json",
        "README.md",
    }
    given = b"a good film\n"
    assert ask("predict", out, given=given)[1] == ask("predict", run_folder, given=given)[1]
    card = (out / "README.md").read_text()
    assert "0.8765" in card
    assert "max_loss_1" in card


@pytest.mark.parametrize(
    ("command", "option"),
    [("predict", "--threshold"), ("calibrate", "--max-loss"), ("doctor", "--json"), ("export", "RUN_DIR")],
)
def test_help_has_examples_and_loads_no_torch(command, option):
    code = (
        "import sys\nfrom adaptive_inference.cli import main\n"
        f"try:\n    main([{command!r}, '--help'])\nfinally:\n"
        "    assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"  adaptive-inference {command} " in done.stdout.partition("example")[2] + " "
    assert option in done.stdout


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"adaptive-inference {version('adaptive-inference')}\n"


def test_the_summary_goes_to_standard_error_and_counts_what_was_done(ask, run_folder):
    status, out, err = ask("predict", run_folder, given=b"a good film\nthe worst meal\n")
    assert (status, len(out)) == (0, 2)
    assert err.startswith("2 rows, mean exit layer 1.00 of 4, 4.00 times fewer layers than the full model, ")
    throughput, latency = (
        r"[\d.e+]+ rows/s",
        r"each answered [\d.e-]+ s after it was read \(95 %: [\d.e-]+ s\)",
    )
    assert re.search(f", {throughput}, {latency}\n$", err)


def test_a_device_that_runs_out_of_memory_leaves_all_answers_that_it_gave(ask, run_folder, monkeypatch):
    from adaptive_inference.engine.torch_runner import TorchRun

    given = "".join(f"{'a good film ' * (1 + n % 5)}{n}\n" for n in range(50)).encode()
    how = ("--batch-size", "4", "--rule", "confidence", "--threshold", "0.501")
    whole, left, advance = ask("predict", run_folder, *how, given=given)[1], [8], TorchRun.advance

    def fails(*given):
        left[0] -= 1
        if left[0] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return advance(*given)

    monkeypatch.setattr(TorchRun, "advance", fails)
    status, out, err = ask("predict", run_folder, *how, given=given)
    assert status == 2
    assert 0 < len(out) < 50
    assert f"error: the model failed after {len(out)} rows (OutOfMemoryError: CUDA out of memory)" in err
    exits = {row["line"]: row["exit_layer"] for row in whole}
    assert all(row["exit_layer"] == exits[row["line"]] for row in out)


def test_a_cascade_is_charged_for_all_its_members(ask):
    folder = SAVED / "cascade"
    _, out, err = ask("predict", folder, "--rule", "fixed", given=b"a good film\n")
    assert out[0]["exit_layer"] == 3
    assert "mean exit layer 3.00 of 3, 0.75 times fewer layers" in err, "1 + 3 layers were run"


def test_a_text_that_is_too_long_is_answered_and_said_to_be_cut(ask, run_folder):
    given = f"short\n{'x ' * 30}\n{'x ' * 31}\n{'word ' * 200_000}\n".encode()
    status, out, err = ask("predict", run_folder, "--batch-size", "4", given=given)
    assert status == 0
    assert [row["cut"] for row in out] == [False, False, True, True]
    assert "note: 2 texts longer than 32 tokens: cut there" in err
    assert load_predictor(run_folder).predict(["x " * 30, "x " * 31]).cut.tolist() == [False, True]


def test_a_closed_pipe_ends_quietly(run_folder, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("a good film\n" * 3000)
    command = [sys.executable, "-m", "adaptive_inference.cli", "predict", str(run_folder), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["line"] == 1
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


def test_a_device_that_is_not_there_is_told(ask, run_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ask("predict", run_folder, "--device", "auto", given=b"x\n")[0] == 0
    status, out, err = ask("predict", run_folder, "--device", "cuda", given=b"x\n")
    assert (status, out) == (2, [])
    assert err == "error: device cuda: torch sees no CUDA device here; take cpu, or auto\n"


def test_a_missing_model_is_told_without_loading_torch(tmp_path):
    code = (
        "import sys\nfrom adaptive_inference.cli import main\n"
        f"main(['predict', {str(tmp_path)!r}])\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("error: ")
