"""A model folder that a stranger made, or that was damaged: one sentence, no traceback, nothing run or fetched."""

import json
import shutil

import pytest
import torch
from test_cli import CALIBRATION
from transformers import modeling_utils

from adaptive_inference import MultiModel, cli, load_model, load_predictor
from adaptive_inference.backbones.load import load_backbone, load_tokenizer
from adaptive_inference.errors import UserError
from adaptive_inference.exits import build_model
from adaptive_inference.files import read_json, write_json
from adaptive_inference.serving.export import export
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

SCHEMA = Schema("tiny", "classification", ("bad", "good"), "accuracy", 32)
KERNEL = "kernels-community/flash-attn2"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Three folders that load: a model, a cascade, and a stock checkpoint."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("sound")
    members = [
        build_model(Backbone(weights="random:bert", exits=exits), SCHEMA, 0) for exits in ([1, 4], [1], [4])
    ]
    for model, name in ((members[0], "model"), (MultiModel(members[1:]), "cascade")):
        model.calibration = CALIBRATION
        model.save_pretrained(home / name)
    load_backbone("random:bert").model.save_pretrained(home / "stock")
    load_tokenizer("random:bert").save_pretrained(home / "stock")
    return home


@pytest.fixture
def copy(sound, tmp_path):
    def copied(name):
        return shutil.copytree(sound / name, tmp_path / name)

    return copied


GONE = object()  #: the key is taken away


def edit(file, change):
    """Change the content of a JSON file: a dict of keys, where a key with ``/`` lies inside another."""
    body = read_json(file)
    for path, value in change.items():
        *outer, key = path.split("/")
        inner = body
        for name in outer:
            inner = inner[name]
        if value is GONE:
            del inner[key]
        else:
            inner[key] = value
    write_json(file, body)


def test_the_sound_folders_answer(sound):
    for name in ("model", "cascade"):
        assert load_predictor(sound / name).predict(["a good film"]).labels
    assert load_backbone(str(sound / "stock")).num_layers == 4


#: Text in place of a file, or None: the file is taken away.
FILES = [
    ("model/config.json", "", "config.json is not valid JSON"),
    ("model/config.json", "[1]", "config.json holds a list, not an object"),
    ("model/config.json", "null", "config.json holds null, not an object"),
    ("model/config.json", "[" * 100_000, "config.json is not valid JSON"),
    ("model/config.json", '{"model_type": "bert", "hidden_size": 32}', "config.json is of kind None"),
    ("model/model.safetensors", None, "model.safetensors is missing or damaged"),
    ("model/model.safetensors", "", "model.safetensors is missing or damaged"),
    ("model/model.safetensors", "version https://git-lfs.github.com/spec/v1", "missing or damaged"),
    ("model/schema.json", None, "schema.json"),
    ("model/schema.json", "[]", "schema.json holds a list, not an object"),
    ("model/schema.json", "{", "schema.json is not valid JSON"),
    ("model/schema.json", "{}", "schema.json: a schema: 'task' is missing"),
    ("model/tokenizer.json", None, "the tokenizer of"),
    ("model/tokenizer.json", "{", "the tokenizer of"),
    ("model/tokenizer.json", "[]", "the tokenizer of"),
    ("model/tokenizer.json", "{}", "the tokenizer of"),
    ("model/tokenizer.json", '{"version": "9", "model": {"type": "Unheard"}}', "the tokenizer of"),
    ("model/tokenizer_config.json", None, "tokenizer_config.json"),
    ("model/tokenizer_config.json", "{", "tokenizer_config.json"),
    ("model/tokenizer_config.json", "[]", "tokenizer_config.json"),
    ("model/tokenizer_config.json", "null", "tokenizer_config.json"),
    ("model/calibration.json", "{", "calibration.json is not valid JSON"),
    ("model/calibration.json", "[]", "calibration.json holds a list, not an object"),
    ("model/calibration.json", "{}", "calibration.json: 'temperatures' is missing"),
    ("cascade/config.json", '{"kind": "multi_model", "format": 1}', "config.json: 'exits' is missing"),
    ("cascade/4/config.json", None, "4 holds no saved model"),
    ("cascade/4/config.json", "[]", "4/config.json holds a list"),
    ("cascade/4/model.safetensors", None, "4/model.safetensors is missing"),
    ("cascade/4/schema.json", None, "schema.json"),
]


@pytest.mark.parametrize(("file", "text", "message"), FILES)
def test_a_file_that_is_missing_or_nonsense_is_told(file, text, message, copy):
    folder = copy(file.partition("/")[0])
    path = folder.parent / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_predictor(folder).predict(["a good film"])


CONFIGS = [
    *[
        ({key: GONE}, f"config.json: '{key}' is missing")
        for key in ("exits", "backbone", "num_layers", "outputs", "pooler", "read", "inner_head", "certainty")
    ],
    ({"format": 7}, "of format 7, and this adaptive-inference reads format 1"),
    ({"format": None}, "of format None"),
    ({"format": [1]}, "of format"),
    ({"kind": {}}, "of kind {}"),
    ({"unheard": 1}, "config.json: unknown key 'unheard'"),
    ({"exits": []}, "config.json: 'exits'"),
    ({"exits": 3}, r"config.json: 'exits'.*given: 3"),
    ({"exits": ["1", "4"]}, r"config.json: 'exits.0'.*given: '1'"),
    ({"exits": [4, 1]}, r"config.json: 'exits'.*ascending"),
    ({"exits": [1, 9]}, r"config.json: .*exits.*9.*num_layers"),
    ({"exits": None}, "config.json: 'exits'"),
    ({"num_layers": 9, "exits": [1, 9]}, r"config.json: num_layers is 9, and the backbone has 4"),
    ({"outputs": 3}, r"schema.json.*2.*3"),
    ({"pooler": "unheard"}, r"config.json: 'pooler'.*given: 'unheard'"),
    ({"read": 5}, "config.json: 'read'"),
    ({"certainty": "yes"}, "config.json: 'certainty'"),
    ({"certainty": True}, r"model.safetensors does not fit config.json.*certainty_heads"),
    ({"attention_heads": [1]}, "config.json"),
    ({"attention_heads": [9, 9, 9, 9]}, "config.json"),
    ({"backbone": []}, "config.json: 'backbone'"),
    ({"backbone/model_type": GONE}, "config.json: 'backbone.model_type' is missing"),
    ({"backbone/model_type": "llama"}, "no adapter for model type 'llama'"),
    ({"backbone/model_type": "betr"}, "no adapter for model type 'betr'.*did you mean 'bert'"),
    ({"backbone/model_type": ["bert"]}, "config.json: 'backbone.model_type'"),
    ({"backbone/hidden_size": "x"}, r"config.json.*hidden_size"),
    ({"backbone/hidden_size": 33}, r"config.json"),
    ({"backbone/hidden_size": 64}, r"does not fit config.json"),
    ({"backbone/hidden_size": -4}, "config.json"),
    ({"backbone/num_attention_heads": 0}, "config.json"),
    ({"backbone/hidden_act": "unheard"}, r"config.json.*unheard"),
    ({"backbone/vocab_size": None}, "config.json"),
    ({"backbone/dtype": "unheard"}, "config.json.*unheard"),
]


@pytest.mark.parametrize(("change", "message"), CONFIGS, ids=[json.dumps([*c]) + m[-20:] for c, m in CONFIGS])
def test_a_configuration_that_describes_no_model_is_told(change, message, copy):
    folder = copy("model")
    edit(folder / "config.json", change)
    with pytest.raises(UserError, match=message):
        load_predictor(folder).predict(["a good film"])


CASCADES = [
    ({"exits": [1]}, "calibration is of 2 exits, the model has 1"),
    ({"exits": [1, 2]}, "2 holds no saved model"),
    ({"exits": ["../model"]}, "config.json: 'exits.0'"),
    ({"exits": [4, 1]}, "config.json: 'exits'.*ascending"),
]


@pytest.mark.parametrize(("change", "message"), CASCADES)
def test_a_cascade_without_its_members_is_told(change, message, copy):
    folder = copy("cascade")
    edit(folder / "config.json", change)
    with pytest.raises(UserError, match=message):
        load_predictor(folder).predict(["a good film"])


def test_members_that_do_not_go_together_are_told(copy):
    folder = copy("cascade")
    shutil.rmtree(folder / "4")
    shutil.copytree(folder / "1", folder / "4")
    with pytest.raises(UserError, match=r"cascade/4.* exits \[1\].* not \[4\]"):
        load_model(folder)
    shutil.rmtree(folder / "4")
    three = Schema("tiny", "classification", ("bad", "so so", "good"), "accuracy", 32)
    build_model(Backbone(weights="random:bert", exits=[4]), three, 0).save_pretrained(folder / "4")
    with pytest.raises(UserError, match=r"members .* 2 and 3 outputs"):
        load_model(folder)


SCHEMAS = [
    ({"labels": "bad"}, "schema.json: a schema: 'labels'"),
    ({"labels": ["bad", 3]}, "schema.json: a schema: 'labels.1'"),
    ({"labels": ["a", "b", "c"]}, "schema.json.*3.*2"),
    ({"labels": None}, "schema.json"),
    ({"kind": "unheard"}, "schema.json: a schema: 'kind'"),
    ({"kind": None}, "schema.json: a schema: 'kind'"),
    ({"max_length": "long"}, "schema.json: a schema: 'max_length'"),
    ({"max_length": "32"}, "schema.json: a schema: 'max_length'"),
    ({"max_length": 0}, "schema.json: a schema: 'max_length'"),
    ({"max_length": 100_000}, "schema.json.*100000.*514"),
    ({"text": []}, "schema.json: a schema: 'text'"),
    ({"text": "text"}, "schema.json: a schema: 'text'"),
    ({"text": ["a", "b", "c"]}, "schema.json: a schema: 'text'"),
    ({"task": 3}, "schema.json: a schema: 'task'"),
    ({"unheard": 3}, "schema.json: a schema has no 'unheard'"),
]


@pytest.mark.parametrize(("change", "message"), SCHEMAS)
def test_a_schema_that_describes_no_task_is_told(change, message, copy):
    folder = copy("model")
    edit(folder / "schema.json", change)
    with pytest.raises(UserError, match=message):
        load_predictor(folder).predict(["a good film"])


CALIBRATIONS = [
    ({"temperatures": 1.0}, "calibration.json: 'temperatures'"),
    ({"temperatures": [1.0]}, "calibration is of 1 exits, the model has 2"),
    ({"temperatures": [1.0, 1.0, 1.0]}, "calibration is of 3 exits, the model has 2"),
    ({"temperatures": [1.0, None]}, "calibration.json: 'temperatures.1'"),
    ({"temperatures": [1.0, 0.0]}, "calibration.json: 'temperatures.1'"),
    ({"temperatures": [1.0, "x"]}, "calibration.json: 'temperatures.1'"),
    ({"certainty_min": [0.1], "certainty_max": [0.2]}, "calibration.json"),
    ({"certainty_min": "x"}, "calibration.json: 'certainty_min'"),
    ({"operating_points": 5}, "calibration.json: 'operating_points'"),
    ({"recommended": 5}, "calibration.json: 'recommended'"),
    ({"recommended": {}}, "an operating point"),
    ({"recommended/goal": None}, "an operating point"),
    ({"recommended/setting": ["confidence"]}, "an operating point"),
    ({"recommended/setting/rule": "unheard"}, "no exit rule 'unheard'"),
    ({"recommended/setting/rule": ["confidence"]}, "an operating point"),
    ({"recommended/setting/threshold": "high"}, "an operating point"),
    ({"recommended/setting/threshold": "0.5"}, "an operating point"),
    ({"recommended/seen": []}, "an operating point"),
    ({"recommended/evidence": "x"}, "an operating point"),
    ({"recommended/setting/rule": "oracle"}, "oracle"),
    ({"recommended/setting/rule": "learning_to_exit"}, "learning_to_exit"),
    ({"recommended/setting/rule": "patience", "recommended/setting/threshold": -1.0}, "patience"),
]


@pytest.mark.parametrize(("change", "message"), CALIBRATIONS)
def test_a_calibration_of_nonsense_or_of_another_model_is_told(change, message, copy):
    folder = copy("model")
    edit(folder / "calibration.json", change)
    with pytest.raises(UserError, match=message):
        load_predictor(folder).predict(["a good film"])


KERNELS = [
    {key: value}
    for key in ("attn_implementation", "_attn_implementation")
    for value in (KERNEL, "flash_attention_2")
]
KERNELS += [
    {"attn_implementation": {"": KERNEL}},
    {"attribute_map": {"harmless": "_attn_implementation_internal"}, "harmless": KERNEL},
]


@pytest.mark.parametrize("change", KERNELS, ids=json.dumps)
def test_no_configuration_makes_a_kernel_be_fetched(change, copy, monkeypatch):
    def fetch(*given, **options):
        pytest.fail("asked for a kernel")  # no `Exception`: not taken for a damaged file

    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", fetch)
    monkeypatch.setattr(modeling_utils.PreTrainedModel, "_flash_attn_can_dispatch", fetch)
    model, stock = copy("model"), copy("stock")
    edit(model / "config.json", {f"backbone/{key}": value for key, value in change.items()})
    edit(stock / "config.json", change)
    for load, folder in ((load_model, model), (lambda path: load_backbone(str(path)), stock)):
        with pytest.raises(UserError, match=r"config.json asks for the attention .*allowed: eager, sdpa"):
            load(folder)


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_that_is_part_of_transformers_may_be_asked_for(name, copy):
    model, stock = copy("model"), copy("stock")
    edit(model / "config.json", {"backbone/attn_implementation": name})
    edit(stock / "config.json", {"attn_implementation": name})
    for loaded in (load_model(model).backbone, load_backbone(str(stock))):
        assert loaded.config._attn_implementation == name


@pytest.mark.parametrize(
    "key", ["quantization_config", "fusion_config", "transformers_weights", "chunk_size_feed_forward"]
)
def test_keys_that_do_more_than_describe_an_encoder_are_refused(key, copy):
    odd = {"transformers_weights": "other.safetensors", "chunk_size_feed_forward": 3}
    value = odd.get(key, {"quant_method": "fp8"})
    model, stock = copy("model"), copy("stock")
    edit(model / "config.json", {f"backbone/{key}": value})
    edit(stock / "config.json", {key: value})
    for load, folder in ((load_model, model), (lambda path: load_backbone(str(path)), stock)):
        with pytest.raises(UserError, match=rf"config.json: '{key}' cannot be followed"):
            load(folder)


def test_a_model_computes_in_float32_whatever_its_configuration_says(sound, copy):
    folder = copy("model")
    edit(folder / "config.json", {"backbone/dtype": "float16"})
    expected = load_predictor(sound / "model").predict(["a good film"]).probabilities
    assert (load_predictor(folder).predict(["a good film"]).probabilities == expected).all()


def test_keys_that_only_another_transformers_knows_change_nothing(sound, copy):
    folder = copy("model")
    change = {
        "unheard": {"a": 1},
        "use_cache": GONE,
        "dtype": GONE,
        "torch_dtype": "float32",
        "transformers_version": "9.0",
    }
    edit(folder / "config.json", {f"backbone/{key}": value for key, value in change.items()})
    expected = load_predictor(sound / "model").predict(["a good film"]).probabilities
    assert (load_predictor(folder).predict(["a good film"]).probabilities == expected).all()


@pytest.mark.parametrize(
    "change", [{"model/vocab/good": 99_999}, {"post_processor": None}], ids=["id", "none"]
)
@pytest.mark.parametrize("name", ["model", "cascade"])
def test_a_tokenizer_of_another_model_is_told(name, change, copy):
    folder = copy(name)
    edit(folder / ("4/tokenizer.json" if name == "cascade" else "tokenizer.json"), change)
    with pytest.raises(UserError, match=r"tokenizer gives no token, or one that the model does not know"):
        load_predictor(folder).predict(["a good film", ""])


def test_a_backbone_of_endless_layers_is_refused_before_it_is_built(copy):
    folder = copy("model")
    edit(folder / "config.json", {"backbone/num_hidden_layers": 10**8})
    with pytest.raises(UserError, match="num_layers is 4, and the backbone has 100000000"):
        load_model(folder)


STOCK = [
    ("config.json", "[]", "config.json holds a list"),
    ("config.json", "{", "config.json is not valid JSON"),
    ("config.json", None, "config.json is missing"),
    ("config.json", "{}", "config.json: .*model type 'None'"),
    ("config.json", '{"model_type": "llama"}', "config.json: .*'llama'"),
    ("config.json", '{"model_type": "bert", "hidden_size": "x"}', "config.json cannot be used .*hidden_size"),
    ("config.json", '{"model_type": "bert", "hidden_size": 24}', "does not fit config.json .*embeddings"),
    ("model.safetensors", None, "holds no model.safetensors"),
    ("model.safetensors", "x" * 50, "the checkpoint in .*stock cannot be used"),
]


@pytest.mark.parametrize(("file", "text", "message"), STOCK)
def test_a_damaged_checkpoint_is_told(file, text, message, copy):
    path = copy("stock") / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_backbone(str(path.parent))


@pytest.mark.parametrize(
    ("name", "command"), [("tokenizer", "predict"), ("calibration", "predict"), ("calibration", "export")]
)
def test_the_command_line_says_what_is_wrong_in_one_line(name, command, copy, capsys, tmp_path):
    folder = copy("model")
    (folder / f"{name}.json").write_text("null")
    assert cli.main([command, str(folder), *([str(tmp_path / "out")] if command == "export" else [])]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: ")
    assert name in told


def test_an_error_of_the_system_without_a_number_is_told_by_its_text(copy, capsys, monkeypatch):
    def fails(*given, **options):
        raise OSError("the disk has gone")

    monkeypatch.setattr("adaptive_inference.serving.predictor.load_predictor", fails)
    assert cli.main(["predict", str(copy("model"))]) == 2
    assert capsys.readouterr().err == "error: the disk has gone\n"


@pytest.mark.parametrize(
    "text", ["[]", "null", '{"version": 2, "rows": 5}', '{"version": 2, "rows": [{"point": 5}]}']
)
def test_an_evaluation_of_nonsense_is_told_before_anything_is_exported(text, copy, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(copy("model"), run / "train/model")
    (run / "calibration").mkdir()
    shutil.move(run / "train/model/calibration.json", run / "calibration/calibration.json")
    (run / "evaluation").mkdir()
    (run / "evaluation/metrics.json").write_text(text)
    with pytest.raises(UserError, match=r"metrics.json"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_a_folder_is_told(copy):
    with pytest.raises(UserError, match="holds no saved model"):
        load_model(copy("model") / "config.json")
