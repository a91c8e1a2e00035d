"""What decoders and their cache refuse, and what the cache keeps where blocks do not look."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from adaptive_inference.decoders._tiny import BLOCKS, HEADS, POSITIONS, WIDTH, tiny_decoder
from adaptive_inference.decoders.cache import RaggedCache
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


def filled(rows=3, blocks=2, tokens=4, **options):
    cache = RaggedCache(rows, blocks, 1, torch.device("cpu"), **options)
    for block in range(blocks):
        append(cache, block, tokens)
    return cache


def append(cache, block, tokens, value=None):
    step = cache.open(block + 1, block + 1, tokens)
    rows = len(step.before)
    shape = (rows, HEADS, tokens, 2)
    states = torch.rand(shape) if value is None else torch.full(shape, float(value))
    return cache.update(states, -states, block)


def test_rows_and_blocks_have_lengths_of_their_own():
    cache = filled()
    with cache.rows([2, 0]):
        append(cache, 1, 2)
        assert cache.lengths(2) == [6, 6]
    assert (cache.lengths(1), cache.lengths(2)) == ([4, 4, 4], [6, 4, 6])
    assert (cache.get_seq_length(0), cache.get_seq_length(1)) == (4, 6)


def test_a_pass_through_blocks_of_unequal_lengths_is_refused():
    cache = filled()
    append(cache, 0, 1)
    with pytest.raises(ValueError, match="up to date first"):
        cache.open(1, 2, 1)
    with cache.rows([1]), pytest.raises(ValueError, match=r"hold \[5\] and \[4\]"):
        cache.open(1, 2, 1)


def test_a_forward_of_the_stock_model_cannot_write_here():
    cache = RaggedCache(1, 1, 4, torch.device("cpu"))
    with pytest.raises(ValueError, match="no step is open"):
        cache.update(torch.rand(1, HEADS, 1, 2), torch.rand(1, HEADS, 1, 2), 0)


def test_crop_cuts_only_what_is_longer_and_what_follows_is_written_over_it():
    cache = filled(tokens=3)
    append(cache, 0, 4)
    cache.crop([0, 2], [5, 2])
    assert (cache.lengths(1), cache.lengths(2)) == ([5, 7, 2], [3, 3, 2])
    keys, values = append(cache, 0, 1, value=9)
    for row, column in enumerate([5, 7, 2]):
        assert (keys[row, :, column] == 9).all()
        assert (values[row, :, column] == -9).all()
    cache.crop(None, 1)
    assert (cache.lengths(1), cache.lengths(2)) == ([1, 1, 1], [1, 1, 1])


def test_finished_rows_take_their_states_padding_and_place_with_them():
    cache = filled(padding=[2, 0, 1])
    with cache.rows([1]):
        append(cache, 0, 1, value=7)
    before = cache.states(1)[0].clone()
    cache.keep([2, 1])
    assert (cache.count, cache.padding, cache.lengths(1)) == (2, [1, 0], [4, 5])
    torch.testing.assert_close(cache.states(1)[0], before[[2, 1]])
    cache.keep([1])
    assert (cache.padding_B, cache.lengths(1)) == (None, [5])
    with cache.rows([]), pytest.raises(ValueError, match="all of them are at hand"):
        cache.keep([0])


def test_positions_count_from_the_first_token_that_is_no_padding():
    cache = filled(padding=[2, 0, 1])
    assert cache.positions(1, 2).tolist() == [[2, 3], [4, 5], [3, 4]]
    empty = RaggedCache(2, 1, 4, torch.device("cpu"), [3, 0])
    assert empty.positions(1, 4).tolist() == [[0, 0, 0, 0], [0, 1, 2, 3]]
    plain = filled(padding=[0, 0, 0])
    assert plain.positions(1, 1).tolist() == [[4]]
    plain.crop([1], 2)
    assert plain.positions(1, 2).tolist() == [[4, 5], [2, 3], [4, 5]]
    with plain.rows([1]):
        assert plain.positions(1, 1).tolist() == [[2]]


def test_the_buffers_double_and_keep_what_they_hold():
    cache = RaggedCache(1, 1, 2, torch.device("cpu"))
    capacities = []
    for token in range(9):
        append(cache, 0, 1, value=token)
        capacities.append(cache.capacity)
    assert capacities == [2, 2, 4, 4, 8, 8, 8, 8, 16]
    assert cache.states(1)[0][0, 0, :, 0].tolist() == list(range(9))


def test_all_rows_in_order_are_no_gathering():
    cache = filled()
    with cache.rows([0, 1, 2]):
        assert cache.index_R is None
    with cache.rows([1, 0, 2]):
        assert cache.index_R.tolist() == [1, 0, 2]
    assert cache.at_hand is None
