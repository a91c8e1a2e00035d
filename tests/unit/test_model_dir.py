"""Trained decoders on disk, and low-rank adapters."""

import json
import sys

import pytest
import torch
from tiny_decoders import BLOCKS, WIDTH, collate, tiny_decoder, tiny_features
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from adaptive_inference.decoders.families import adapter_for
from adaptive_inference.errors import UserError
from adaptive_inference.generation.classifier import AgreementClassifier, load_classifier, save_classifier
from adaptive_inference.generation.lora import add_adapters, merge
from adaptive_inference.generation.losses import LayerLoss
from adaptive_inference.generation.model_dir import (
    PROJECTION_FILE,
    TRAINED_FOR_FILE,
    TrainedFor,
    load_decoder,
    read_trained_for,
    save_decoder,
)
from adaptive_inference.generation.trainer import LayerTraining
from adaptive_inference.settings.generation import Lora, LossTraining

TEXTS = {"task": "words", "source_text": "{de}"}


def tiny_tokenizer():
    words = {word: place for place, word in enumerate(["<pad>", "</s>", "<s>", "a", "b", "<unk>"])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def save(folder, family="t5", seed=0, projection=None):
    model = tiny_decoder(family, seed).eval()
    trained_for = TrainedFor(family, BLOCKS, "shallowdeep_kd_dyna", 2, TEXTS)
    save_decoder(folder, model, tiny_tokenizer(), trained_for, projection)
    return model


def answers(model, family):
    batch = collate(tiny_features(family))
    with torch.no_grad():
        return model(**{key: value for key, value in batch.items() if key != "ids"}).logits


@pytest.mark.parametrize("family", ["t5", "longt5", "llama", "gpt2", "opt"])
def test_a_saved_decoder_answers_the_same_here_and_in_transformers(family, tmp_path):
    model = save(tmp_path, family)
    model.generation_config.max_new_tokens = 5
    save_decoder(tmp_path, model, tiny_tokenizer(), TrainedFor(family, BLOCKS, "ce", None, TEXTS))
    saved = load_decoder(tmp_path)
    assert saved.trained_for == TrainedFor(family, BLOCKS, "ce", None, TEXTS)
    assert saved.tokenizer.eos_token_id == 1
    assert not saved.model.training
    assert torch.equal(answers(saved.model, family), answers(model, family))
    assert saved.model.generation_config.max_new_tokens == 5
    stock = AutoModelForSeq2SeqLM if "t5" in family else AutoModelForCausalLM
    assert torch.equal(answers(stock.from_pretrained(tmp_path), family), answers(model, family))


def test_equal_decoders_give_equal_bytes_without_path_or_version(tmp_path):
    for name in ("one", "two"):
        save(tmp_path / name)
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [file.name for file in one] == [file.name for file in two]
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes()
        assert str(tmp_path).encode() not in first.read_bytes()
    assert "transformers_version" not in json.loads((tmp_path / "one/config.json").read_text())


def test_another_decoder_in_its_place_leaves_nothing_of_the_first(tmp_path):
    loss = LayerLoss(LossTraining(loss="shallowdeep_kd_last", exit_layer=2, projection=True), BLOCKS, WIDTH)
    save(tmp_path, projection=loss.projection)
    save_classifier(AgreementClassifier(WIDTH), tmp_path)
    assert (tmp_path / PROJECTION_FILE).is_file()
    assert load_classifier(tmp_path) is not None
    second = save(tmp_path, "llama", seed=1)
    assert load_classifier(tmp_path) is None
    assert not (tmp_path / PROJECTION_FILE).exists()
    assert torch.equal(answers(load_decoder(tmp_path).model, "llama"), answers(second, "llama"))


def test_pickles_are_not_read(tmp_path):
    save(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds pytorch_model\.bin, a pickle, which may run code"):
        load_decoder(tmp_path)


def test_folders_that_do_not_hold_together_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=rf"{TRAINED_FOR_FILE} is missing; give the folder of a trained decoder"
    ):
        load_decoder(tmp_path)
    save(tmp_path)
    file = tmp_path / TRAINED_FOR_FILE
    body = json.loads(file.read_text())
    for change, message in (
        ({"format": 2}, "has format 2, and this version reads 1"),
        ({"family": "opt"}, "is of family 'opt', and config.json beside it describes 't5'"),
        ({"blocks": 9}, f"is of a decoder of 9 blocks, and config.json beside it describes {BLOCKS}"),
        ({"blocks": "4"}, "'blocks'"),
        ({"more": 1}, "more"),
    ):
        file.write_text(json.dumps(body | change))
        with pytest.raises(UserError, match=message):
            load_decoder(tmp_path)
    file.write_text(json.dumps(body))
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"model\.safetensors is missing or damaged"):
        load_decoder(tmp_path)
    assert read_trained_for(tmp_path).exit_layer == 2  # reads no weights


# ------------------------------------------------------------------ adapters


def test_without_peft_adapters_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        UserError, match=r"needs peft, which is not installed; pip install 'adaptive-inference\[lora\]'"
    ):
        add_adapters(tiny_decoder("t5"), Lora())


@pytest.mark.parametrize(("family", "targets"), [("t5", ["q", "v", "wi"]), ("llama", ["q_proj", "up_proj"])])
def test_merged_adapters_answer_as_the_trained_ones_did(family, targets):
    pytest.importorskip("peft")
    model = tiny_decoder(family).eval()
    before = answers(model, family)
    adapted = add_adapters(model, Lora(rank=2, scale=4.0, dropout=0.0, targets=targets))
    assert torch.equal(answers(model, family), before)
    trained = LayerTraining(model, LossTraining(loss="weighted_ce"))
    learned = [item for item in trained.parameters() if item.requires_grad]
    assert 0 < sum(item.numel() for item in learned) < sum(item.numel() for item in model.parameters()) / 4
    optimizer = torch.optim.SGD(learned, lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        trained(collate(tiny_features(family))).sum().backward()
        optimizer.step()
    after = answers(model, family)
    assert not torch.allclose(after, before, atol=1e-3)
    merged = merge(adapted)
    torch.testing.assert_close(answers(merged, family), after, rtol=1e-4, atol=1e-4)
    assert merged.state_dict().keys() == tiny_decoder(family).state_dict().keys()
    assert all(item.requires_grad for item in merged.parameters())
    assert adapter_for(merged).num_blocks == BLOCKS  # which refuses adapters that are not merged


def test_targets_that_the_model_has_not_are_refused():
    pytest.importorskip("peft")
    with pytest.raises(UserError, match=r"\['q', 'wi'\] name no linear layer of the model; it has .*q_proj"):
        add_adapters(tiny_decoder("llama"), Lora(targets=["q", "wi"]))
