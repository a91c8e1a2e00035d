"""Which language models are driven, and why others are refused."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from adaptive_inference.decoders._tiny import BLOCKS, POSITIONS, WIDTH, tiny_decoder
from adaptive_inference.decoders.families import adapter_for, served
from adaptive_inference.errors import UserError
from adaptive_inference.settings.generation import ARCHITECTURES

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20}


def other(kind, model_type, **keys):
    return kind.from_config(AutoConfig.for_model(model_type, **keys))


REFUSED = {
    "state space": (lambda: other(AutoModelForCausalLM, "mamba", **SMALL), "state space or linear attention"),
    "encoder": (lambda: other(AutoModelForMaskedLM, "bert", **SMALL), "no LM head that generates"),
    "bart": (
        lambda: other(
            AutoModelForSeq2SeqLM, "bart", d_model=16, vocab_size=20, encoder_layers=1, decoder_layers=1
        ),
        "no adapter drives model type 'bart'.*gpt2.*t5",
    ),
    "window": (lambda: tiny_decoder("mistral", sliding_window=8), "sliding_window 8.*sliding_window: null"),
    "some windows": (
        lambda: tiny_decoder("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=2),
        "attends within a window",
    ),
    "attention": (
        lambda: tiny_decoder("llama", attn_implementation="flex_attention"),
        "'flex_attention'.*eager or sdpa",
    ),
    "rotation": (
        lambda: tiny_decoder(
            "llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 100.0}
        ),
        "rope_type 'dynamic'",
    ),
    "cross-attention": (lambda: tiny_decoder("gpt2", add_cross_attention=True), "cross-attention"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_driven_is_refused_with_its_reason(case):
    make, reason = REFUSED[case]
    with pytest.raises(UserError, match=f"(?s){reason}"):
        adapter_for(make())


def test_adapters_that_are_not_merged_are_refused():
    model = tiny_decoder("llama")
    model.peft_config = {"default": object()}
    with pytest.raises(UserError, match="merge_and_unload"):
        adapter_for(model)


def test_the_params_allow_the_families_that_are_driven():
    assert sorted(ARCHITECTURES) == served()


@pytest.mark.parametrize("family", served())
def test_a_decoder_tells_its_sizes(family):
    model = tiny_decoder(family)
    decoder = adapter_for(model)
    assert (decoder.num_blocks, decoder.width) == (BLOCKS, WIDTH)
    assert decoder.vocabulary == model.config.vocab_size
    assert decoder.encoder_decoder == model.config.is_encoder_decoder
    assert decoder.longest == (POSITIONS if family in ("gpt2", "opt") else None)


def test_start_refuses_what_would_go_wrong_later():
    with pytest.raises(UserError, match=r"call model\.eval\(\)"):
        adapter_for(tiny_decoder("llama").train()).start(1, capacity=4)
    with pytest.raises(UserError, match="encoder_hidden"):
        adapter_for(tiny_decoder("t5")).start(1, capacity=4)
    gpt2 = adapter_for(tiny_decoder("gpt2"))
    with pytest.raises(UserError, match=f"{POSITIONS + 1} positions are needed and gpt2 has {POSITIONS}"):
        gpt2.start(2, capacity=POSITIONS + 3, padding_B=torch.tensor([2, 5]))
    gpt2.start(2, capacity=POSITIONS + 2, padding_B=[2, 5])
