"""A folder of graphs: what it holds, what it answers without torch, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_deployments import build
from test_imports import NOT_DEPLOYED, run_blocked

from adaptive_inference import load_model, load_predictor
from adaptive_inference.backbones.load import families
from adaptive_inference.cli import main
from adaptive_inference.errors import UserError
from adaptive_inference.exits import MultiModel
from adaptive_inference.exits.deployment import WEIGHTS_KEY, digest_of
from adaptive_inference.exits.layout import open_model
from adaptive_inference.exits.outputs import collect_outputs
from adaptive_inference.serving.export import export
from adaptive_inference.serving.hub import published
from adaptive_inference.serving.onnx_model import OnnxModel
from adaptive_inference.tasks.encode import encode, encode_texts
from adaptive_inference.tasks.fast_tokenizer import FastTokenizer
from adaptive_inference.tasks.schema import Example, Split

SAVED = Path(__file__).parent / "saved_models/format1"
TEXTS = [
    "a truly lovely film",
    "not worth the time",
    "no",
    "the plot was awful , but the music is lovely " * 9,
    "",
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The kept model as each ONNX deployment."""
    root = tmp_path_factory.mktemp("exported")
    for name in ("onnx_fp32", "onnx_int8"):
        export(SAVED / "model", root / name, name)
    return root


@pytest.fixture
def folder(exported, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(exported / "onnx_int8", tmp_path / "copy"))


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def saved(model, folder, calibration=None):
    model.calibration = calibration or {"temperatures": [1.0] * len(model.exits)}
    model.save_pretrained(folder)
    return folder


# ---- the folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["onnx_fp32", "onnx_int8"])
def test_graphs_take_the_place_of_weights(exported, name):
    files = {file.name for file in (exported / name).iterdir()}
    assert files == {
        *(
            "README.md",
            "calibration.json",
            "config.json",
            "deployment.json",
            "flops.safetensors",
            "schema.json",
        ),
        *("segment_1.onnx", "segment_2.onnx", "segment_3.onnx", "tokenizer.json", "tokenizer_config.json"),
    }
    told = json.loads((exported / name / "deployment.json").read_text())
    assert (told["cuts"], told["exits"], told["rule"]) == ([1, 2, 3], [[1], [2], [3]], "confidence")
    assert told["weights"] == digest_of(SAVED / "model/model.safetensors")
    assert (told["quantisation"] is None) == (name == "onnx_fp32")
    assert f"Exported as `{name}`" in (exported / name / "README.md").read_text()
    assert "pip install '.[onnx]'" in (exported / name / "README.md").read_text()


def test_no_product_with_weights_but_a_classifiers_is_left_in_floating_point_in_int8(exported):
    for file in (exported / "onnx_int8").glob("*.onnx"):
        graph = onnx.load(file).graph
        sizes = {item.name: list(item.dims) for item in graph.initializer}
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("MatMulInteger") >= 6
        left = [n.input[1] for n in graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in sizes]
        assert [sorted(sizes[name]) for name in left] == [[2, 8]]  # classes, width


@pytest.mark.parametrize("name", ["onnx_fp32", "onnx_int8"])
def test_the_same_weights_give_the_same_bytes_in_another_process(exported, name, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "adaptive_inference.cli", "export"),
            *(SAVED / "model", tmp_path / "again", "--deployment", name),
        ],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for file in (exported / name).iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


# ---- what it answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3])
def test_it_predicts_what_the_model_predicts(exported, batch_size):
    theirs = load_predictor(SAVED / "model").predict(TEXTS, batch_size)
    ours = load_predictor(exported / "onnx_fp32", threads=1).predict(TEXTS, batch_size)
    assert ours.labels == theirs.labels
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-4)
    np.testing.assert_array_equal(ours.exit_layers, theirs.exit_layers)
    np.testing.assert_array_equal(ours.flops, theirs.flops)
    np.testing.assert_array_equal(ours.cut, theirs.cut)
    assert ours.cut.any()


@pytest.mark.parametrize("name", ["onnx_fp32", "onnx_int8"])
def test_it_predicts_where_torch_and_transformers_are_not_installed(exported, name):
    home = str(exported / name)
    code = (
        "from adaptive_inference import load_predictor\n"
        f"print(load_predictor({home!r}, threads=1).predict({TEXTS!r}).labels)"
    )
    done = run_blocked(code, "torch", "transformers", "onnx", *NOT_DEPLOYED)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{load_predictor(home, threads=1).predict(TEXTS).labels}\n"


def test_the_command_line_predicts_without_them_too(exported, tmp_path):
    (tmp_path / "texts.txt").write_text("a truly lovely film\nno\n")
    asked = ["predict", str(exported / "onnx_int8"), str(tmp_path / "texts.txt"), "--threads", "1"]
    code = f"from adaptive_inference.cli import main\nraise SystemExit(main({asked!r}))"
    done = run_blocked(code, "torch", "transformers", "onnx")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == [1, 2]


def test_without_onnx_runtime_it_says_what_to_install(exported):
    asked = ["predict", str(exported / "onnx_int8")]
    code = f"from adaptive_inference.cli import main\nraise SystemExit(main({asked!r}))"
    done = run_blocked(code, "onnxruntime")
    assert done.returncode == 2
    assert done.stderr == "error: predict needs onnxruntime; pip install 'adaptive-inference[onnx]'\n"


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60)), min_size=1, max_size=4),
    columns=st.integers(1, 2),
    limit=st.one_of(st.none(), st.integers(4, 30)),
    family=st.sampled_from(families()),
)
def test_texts_become_the_same_tokens_as_by_transformers(rows, columns, limit, family, tmp_path_factory):
    from adaptive_inference.backbones._tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer(family)
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.backend_tokenizer.save(str(file))
    alone = FastTokenizer(file, tokenizer.model_input_names, tokenizer.pad_token_id, "right")
    texts = [row[:columns] for row in rows]
    assert encode_texts(texts, alone, limit) == encode_texts(texts, tokenizer, limit)


def test_calibration_sees_the_answers_of_all_exits(exported):
    split = Split(Example(place, (text,), place % 2) for place, text in enumerate(TEXTS[:4]))
    layers = load_model(SAVED / "model")
    rows = encode(split, layers.tokenizer, layers.schema.max_length)
    theirs = collect_outputs(layers, rows, 2)
    graphs = OnnxModel(open_model(exported / "onnx_fp32"), threads=1)
    ours = graphs.collect(encode(split, graphs.tokenizer, graphs.schema.max_length))
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-4)
    for name in ("labels", "ids", "lengths", "exits", "layers_cost"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_thresholds_of_other_weights_are_refused(folder):
    change(folder / "calibration.json", **{WEIGHTS_KEY: "f" * 64})
    with pytest.raises(UserError, match=r"fitted on the weights ffffffffffff, .* another model's"):
        load_predictor(folder)


def test_a_graph_of_other_weights_is_refused(folder):
    graph = onnx.load(folder / "segment_2.onnx")
    onnx.helper.set_model_props(graph, {WEIGHTS_KEY: "f" * 64})
    onnx.save(graph, folder / "segment_2.onnx")
    with pytest.raises(UserError, match=r"segment_2.onnx was made of other weights"):
        load_predictor(folder)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda at: (at / "segment_2.onnx").unlink(), "segment_2.onnx is missing"),
        (lambda at: (at / "segment_2.onnx").write_bytes(b"no graph"), "segment_2.onnx is no graph"),
        (lambda at: (at / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be used"),
        (lambda at: (at / "flops.safetensors").unlink(), "flops.safetensors is missing or damaged"),
        (lambda at: change(at / "deployment.json", format=2), "is of format 2"),
        (lambda at: change(at / "deployment.json", cuts=[1, 3]), "do not end at the cuts"),
        (lambda at: change(at / "deployment.json", exits=[[1], [2], [4]], cuts=[1, 2, 4]), "config.json"),
        (lambda at: change(at / "deployment.json", spare=1), "unknown key 'spare'"),
    ],
)
def test_a_damaged_folder_is_told(folder, damage, told):
    damage(folder)
    with pytest.raises(UserError, match=told):
        load_predictor(folder)


def test_a_rule_that_can_decide_between_the_cuts_is_refused(tmp_path):
    point = json.loads((SAVED / "model/calibration.json").read_text())["recommended"]
    point["setting"] |= {"rule": "patience", "threshold": 2.0}
    calibration = {"temperatures": [1.0] * 4, "operating_points": [point], "recommended": point}
    export(saved(build(), tmp_path / "model", calibration), tmp_path / "out", "onnx_fp32")
    assert load_predictor(tmp_path / "out").predict(["no"]).exit_layers[0] >= 3
    for rule, threshold in (("patience", 1.0), ("confidence", 0.9)):
        with pytest.raises(UserError, match=r"stops at the exits \[3, 4\]"):
            load_predictor(tmp_path / "out", rule=rule, threshold=threshold)
    assert (
        load_predictor(tmp_path / "out", rule="patience", threshold=3.0).predict(["no"]).exit_layers[0] == 4
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"device": "cuda"}, "device cuda: a model exported for ONNX Runtime answers on the cpu"),
        ({"threads": 0}, "threads 0 must be a whole number from 1"),
    ],
)
def test_what_graphs_cannot_do_is_refused(exported, given, told):
    with pytest.raises(UserError, match=told):
        load_predictor(exported / "onnx_int8", **given)


def test_threads_of_a_torch_model_are_torchs_own():
    with pytest.raises(UserError, match="threads 2 goes with a model exported for ONNX Runtime"):
        load_predictor(SAVED / "model", threads=2)


def test_weights_are_asked_for_where_there_are_graphs(exported, tmp_path):
    with pytest.raises(UserError, match="holds graphs for ONNX Runtime and no weights"):
        load_model(exported / "onnx_int8")
    with pytest.raises(UserError, match="holds graphs, which are exported already"):
        export(exported / "onnx_int8", tmp_path / "out")


def test_what_does_not_become_graphs_is_refused_before_anything_is_written(tmp_path):
    cascade = saved(MultiModel([build(exits=(layer,)) for layer in (1, 2)]), tmp_path / "cascade")
    with pytest.raises(UserError, match="holds a cascade of models, which onnx_fp32 does not run"):
        export(cascade, tmp_path / "out", "onnx_fp32")
    with pytest.raises(UserError, match="no deployment 'onnx_int4'; allowed: torch, onnx_fp32, onnx_int8"):
        export(cascade, tmp_path / "out", "onnx_int4")
    assert not (tmp_path / "out").exists()


def test_the_command_line_refuses_what_is_no_deployment(capsys, tmp_path):
    assert main(["export", str(SAVED / "model"), str(tmp_path / "out"), "--deployment", "onnx"]) == 2
    assert "no deployment 'onnx'" in capsys.readouterr().err


def test_all_of_it_is_published(exported):
    names = set(published(open_model(exported / "onnx_int8")))
    assert {file.name for file in (exported / "onnx_int8").iterdir()} <= names
