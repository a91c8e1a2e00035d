"""`adaptive-inference generate`, and `export` of a decoder: texts in, JSON lines out, a folder that says how to write."""

import io
import json
import subprocess
import sys

import pytest
import yaml
from saved_generators import BLOCKS, EXIT, SCHEMA, save_run, save_tiny

from adaptive_inference import cli, load_generator
from adaptive_inference.errors import UserError
from adaptive_inference.serving.generator_dir import DECODING_FILE, open_generator
from adaptive_inference.serving.generator_export import export_generator
from adaptive_inference.tasks.text_schema import TextSchema

TEXTS = ["w1 w2 w3", "w9 w10"]
FIELDS = ["line", "text", "tokens", "depth", "blocks", "flops_share", "cut", "ended"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run"), chosen=(0.55, True))


@pytest.fixture(scope="module")
def exported(run_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "writer"
    export_generator(run_folder, out)
    return out


@pytest.fixture
def ask(monkeypatch, capsys):
    """Run the command with some standard input; return status, output objects and the error text."""

    def run(*arguments, given=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        status = cli.main([str(item) for item in arguments])
        out, err = capsys.readouterr()
        return status, [json.loads(line) for line in out.splitlines() if line.startswith("{")], err

    return run


def test_lines_json_lines_and_tables_give_what_the_library_gives(ask, exported, tmp_path):
    status, lines, told = ask("generate", exported, given=b"w1 w2 w3\n\nw9 w10\r\n")
    assert status == 0
    assert [row["line"] for row in lines] == [1, 3]
    assert list(lines[0]) == FIELDS
    assert told.startswith("2 texts, ")
    assert f"of {BLOCKS} blocks per token" in told
    for row, answer in zip(lines, load_generator(exported).generate(TEXTS), strict=True):
        assert (row["text"], row["tokens"], row["depth"]) == (answer.text, answer.tokens, answer.depth)
        assert (row["cut"], row["ended"]) == (answer.cut, answer.ended)
        assert (row["blocks"], row["flops_share"]) == pytest.approx(
            (answer.blocks, answer.flops_share), abs=1e-4
        )
    objects = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in TEXTS)
    table = tmp_path / "rows.csv"
    table.write_text("source,id\nw1 w2 w3,1\n,2\nw9 w10,3\n")
    asked = ("generate", exported, table, "--column", "source", "--batch-size", "2")
    same = [(row["text"], row["depth"]) for row in lines]
    _, found, _ = ask("generate", exported, given=objects.encode())
    assert [(row["text"], row["depth"]) for row in found] == same
    _, found, told = ask(*asked)
    assert [(row["text"], row["depth"]) for row in found] == same
    assert "1 row without a text left out" in told


def test_options_take_the_place_of_the_folders_own(ask, run_folder):
    def depths(*options):
        status, out, _ = ask("generate", run_folder, *options, given=b"w1 w2 w3\n")
        assert status == 0
        return set(out[0]["depth"])

    assert depths("--policy", "full") == depths("--threshold", "1") == {BLOCKS}
    assert depths("--threshold", "0") == {EXIT}
    assert depths("--policy", "static", "--exit-layer", "1") == {1}
    assert len(ask("generate", run_folder, "--max-new-tokens", "2", given=b"w1\n")[1][0]["depth"]) == 2


def test_what_was_cut_is_said_once(ask, exported, caplog):
    long = " ".join(["w1"] * (SCHEMA.max_source + 3))
    _, out, told = ask("generate", exported, "--max-new-tokens", "1", given=f"{long}\n{long}\nw1\n".encode())
    assert [row["cut"] for row in out] == [True, True, False]
    assert f"2 texts longer than {SCHEMA.max_source} tokens: cut there" in told
    assert "stopped at the most new tokens" in told
    assert not caplog.records


def test_texts_of_two_columns_are_asked_by_their_names(ask, tmp_path):
    schema = TextSchema("qa", "squad_f1", 12, 8, None, "{question} w0 {context}")
    home = save_tiny(tmp_path, schema=schema)
    row = b'{"context": "w3", "question": "w1 w2"}\n'
    status, out, _ = ask("generate", home, given=row)
    assert status == 0
    assert out[0]["text"] == load_generator(home).generate([("w1 w2", "w3")])[0].text
    status, _, told = ask("generate", home, given=b"w1 w2\n")
    assert status == 2
    assert "line 1 is plain text, but task qa reads 2 texts" in told
    status, _, told = ask("generate", home, given=b'{"context": "w3"}\n')
    assert "line 1 has no key 'question'" in told


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        (["--policy", "keeep"], b"w1\n", "unknown policy 'keeep'"),
        (["--threshold", "1.5"], b"w1\n", "threshold 1.5: a threshold is a number from 0 to 1"),
        (["--threshold", "nan"], b"w1\n", "threshold nan"),
        (["--policy", "verify"], b"w1\n", "policy 'verify' needs a threshold"),
        (["--exit-layer", "4"], b"w1\n", "exit_layer 4: the decoder has 4 blocks"),
        (["--policy", "full", "--exit-layer", "2"], b"w1\n", "exit_layer has no meaning for policy 'full'"),
        (["--batch-size", "0"], b"w1\n", "--batch-size 0"),
        (["--max-new-tokens", "0"], b"w1\n", "max_new_tokens 0 must be a whole number from 1"),
        (["--revision", "main"], b"w1\n", "goes with a hub's id"),
        (["nowhere.csv"], b"", "nowhere.csv"),
        ([], b"\n \n", "standard input holds no text to answer"),
        ([], b"w1\n\xff\n", "line 2 is not UTF-8"),
        ([], b'{"text": "w1"}\n{"text": " "}\n', "line 2: the text is empty"),
    ],
)
def test_mistakes_are_told_in_one_line(ask, exported, options, given, message):
    status, _, told = ask("generate", exported, *options, given=given)
    assert status == 2
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert message in line


def test_help_and_mistakes_in_options_load_no_torch(exported):
    code = (
        "import sys\nfor name in ('torch', 'transformers'):\n    sys.modules[name] = None\n"
        "from adaptive_inference.cli import main\n"
        "for bad in (['--policy', 'keeep'], ['--threshold', '7'], ['--max-new-tokens', '0']):\n"
        f"    assert main(['generate', {str(exported)!r}, *bad]) == 2, bad\n"
        "main(['generate', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "adaptive-inference generate exported/" in done.stdout
    assert done.stderr.count("error: ") == 3


# ---- export --------------------------------------------------------------------------------------------------------


def test_an_exported_folder_writes_as_its_run_and_names_no_path(run_folder, exported):
    run, folder = open_generator(run_folder), open_generator(exported)
    assert folder.decoding == run.decoding
    assert (folder.schema, folder.trained_for) == (run.schema, run.trained_for)
    assert [choice.goal for choice in folder.decoding.choices] == ["certified", "min_quality"]
    assert folder.decoding.default.measured.quality == 0.9375
    texts = ["w1 w2 w3", "w4", "w5 w6"]
    assert load_generator(exported).generate(texts) == load_generator(run_folder).generate(texts)
    place = str(run_folder.parent).encode()
    assert not [file for file in exported.iterdir() if place in file.read_bytes()]


def test_the_card_says_task_policy_threshold_figures_and_use(exported):
    text = (exported / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["library_name"] == "adaptive-inference"
    assert header["pipeline_tag"] == "text-generation"
    (result,) = header["model-index"][0]["results"]
    assert [item["value"] for item in result["metrics"]] == [0.9375, 1.375]
    for piece in (
        "# copying: a decoder with early exit",
        "A `t5` of 4 decoder blocks, trained with `shallowdeep_kd_dyna, exit after block 2`",
        "Policy `keep`: a token leaves after block 2",
        "Threshold 0.55 (`min_quality`: at least 95% of the full model's quality",
        "| `min_quality` | 0.55 | 0.9375 | 0.9688 | 98.4% | 2.75 | 1.38 times fewer | 20 |",
        "load_generator",
        "adaptive-inference generate .",
        "trained from random ones",
    ):
        assert piece in text


def test_a_card_of_a_hubs_model_and_of_two_columns_names_them(tmp_path):
    source = {
        "source": "hub", "hub_id": "squad", "revision": "0" * 40, "train": "train", "metric": "squad_f1",
        "source_text": "{question} {context}", "target_text": "{answer}",
    }  # fmt: skip
    schema = TextSchema("qa", "squad_f1", 12, 8, None, "{question} {context}")
    calm = {"training": "shallow_deep", "policy": "calm", "min_layer": 2}
    run = save_run(tmp_path, schema=schema, source=source, method=calm, chosen=(1.0, False))
    record = tmp_path / "trainings/shallow_deep/train/metrics.json"
    body = json.loads(record.read_text())
    body["params"] = {"generation.models.tiny": {"weights": "owner/name", "revision": "1" * 40}}
    record.write_text(json.dumps(body))
    export_generator(run, tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert (header["base_model"], header["datasets"]) == ("owner/name", ["squad"])
    for piece in (
        "reads `question` and `context`, as `{question} {context}`",
        "from block 2 on",
        "Threshold 1, at which no token leaves early",
        "(commit 1111",
        '{"question": "a text", "context": "a text"}',
    ):
        assert piece in text


def test_export_takes_either_kind_and_refuses_what_it_cannot_gather(ask, run_folder, exported, tmp_path):
    status, _, _ = ask("export", run_folder, tmp_path / "out")
    assert status == 0
    assert (tmp_path / "out" / DECODING_FILE).read_bytes() == (exported / DECODING_FILE).read_bytes()
    assert "exists and is not an empty folder" in ask("export", run_folder, tmp_path / "out")[2]
    assert "says of no method how to write" in ask("export", exported, tmp_path / "again")[2]
    (tmp_path / "empty").mkdir()
    assert "holds no saved model" in ask("export", tmp_path / "empty", tmp_path / "again")[2]


def test_a_run_without_weights_or_records_is_not_exported(tmp_path):
    run = save_run(tmp_path)
    home = open_generator(run).home
    record, weights = tmp_path / "data/metrics.json", home / "model.safetensors"
    kept = record.read_text()
    record.write_text(kept.replace("generation.tasks.copying", "other"))
    with pytest.raises(UserError, match=r"does not name one generation\.tasks\.NAME"):
        export_generator(run, tmp_path / "out")
    record.write_text(kept)
    weights.unlink()
    with pytest.raises(UserError, match="holds no weights; train the model again"):
        export_generator(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
