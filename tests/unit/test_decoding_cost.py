"""FLOPs of decoding: worked numbers, and equal to what the stock modules do when they really run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from adaptive_inference.decoders._tiny import tiny_decoder
from adaptive_inference.decoders.families import adapter_for
from adaptive_inference.decoding.generate import EarlyExitDecoding
from adaptive_inference.decoding.policy import DecodingPolicy
from adaptive_inference.decoding.trace import Pass, RowTrace, Trace
from adaptive_inference.generation.answers import Answering
from adaptive_inference.generation.cost import (
    BlockCost,
    DecoderCost,
    block_calls,
    blocks_run,
    published_blocks,
)

SMALL_T5 = {
    "vocab_size": 50, "d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 3,
}  # fmt: skip
SMALL_LLAMA = {
    "vocab_size": 50, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24,
    "num_hidden_layers": 3,
}  # fmt: skip

#: Families and what their blocks or encoders differ in; eager attention, whose products the counter sees.
CASES = {
    "t5": ("t5", {}),
    "mt5": ("mt5", {}),
    "longt5 local": ("longt5", {"local_radius": 3}),
    "longt5 global": (
        "longt5", {"local_radius": 3, "encoder_attention_type": "transient-global", "global_block_size": 2}
    ),
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {}),
    "gpt2": ("gpt2", {}),
    "opt": ("opt", {}),
    "opt projected": ("opt", {"word_embed_proj_dim": 16}),
}  # fmt: skip
REQUEST = {"input_ids": torch.tensor([[5, 6, 7, 8, 9]])}
TOKENS = 12


def make(name: str):
    family, changes = CASES[name]
    return tiny_decoder(family, attn_implementation="eager", **changes)


@pytest.fixture(scope="module", params=CASES)
def counted(request):
    model = make(request.param)
    return model, DecoderCost(model)


def really(run) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def run_of(
    *passes: Pass, rows: int = 1, heads: int = 0, tests: int = 0, taken_back: int = 0, depths=()
) -> Trace:
    row = RowTrace(list(depths), [None] * len(depths), [None] * len(depths))
    others = [RowTrace() for _ in range(rows - 1)]
    return Trace([row, *others], 0.5, list(passes), 0, heads, tests=tests, taken_back=taken_back)


# ---- worked numbers --------------------------------------------------------------------------------------------------


def test_a_block_of_t5_by_hand():
    # Two per multiply-add. Own q, k, v, o: 4 x 16 x 16; cross q, o: 2 x 16 x 16; feed-forward: 2 x 16 x 24.
    column = 2 * (4 * 256 + 2 * 256 + 2 * 384)
    # A key is multiplied by the query, its value by the weight: 2 heads x 8 each.
    assert (
        DecoderCost(tiny_decoder("t5", **SMALL_T5)).blocks
        == [BlockCost(column, 64, 64, 2 * 2 * 256, 2 * 2 * 256)] * 3
    )


def test_a_block_of_llama_with_grouped_queries_by_hand():
    # q, o: 16 x 16; k, v: 16 x 8 (2 of 4 heads); gated feed-forward: 3 x 16 x 24. All 4 heads look at each key.
    column = 2 * (2 * 256 + 2 * 128 + 3 * 384)
    assert (
        DecoderCost(tiny_decoder("llama", **SMALL_LLAMA)).blocks
        == [BlockCost(column, 64, 0, 0, 2 * 2 * 128)] * 3
    )


def test_head_and_classifier_by_hand():
    classifier = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 2))
    cost = DecoderCost(tiny_decoder("t5", **SMALL_T5))
    assert (cost.head, cost.embedding) == (2 * 16 * 50, 0)
    trace = run_of(heads=3, tests=5)
    assert cost.decoder(trace, source=7) == 3 * cost.head
    assert cost.decoder(trace, source=7, classifier=classifier) == 3 * cost.head + 5 * 2 * 16 * 18


def test_a_text_of_free_by_hand():
    """Two tokens leave at block 1 of 3, the third is unsure: one catch-up of three columns; the fourth waits."""
    cost = DecoderCost(tiny_decoder("t5", **SMALL_T5))
    block, source = cost.blocks[0], 5
    passes = [
        Pass(1, 1, (0,), 1),
        Pass(1, 1, (1,), 1),
        Pass(1, 1, (2,), 1),
        Pass(2, 3, (0,), 3),
        Pass(1, 1, (3,), 1),
    ]
    trace = run_of(*passes, heads=5, depths=(1, 1, 3, 1))
    shallow = 4 * (block.column + source * block.source) + (1 + 2 + 3 + 4) * block.key
    deep = 2 * 3 * (block.column + 3 * block.key + source * block.source)
    assert cost.decoder(trace, source) == shallow + deep + 3 * source * block.made + 5 * cost.head
    assert blocks_run(trace, 3, prompt=1) == 4 * 1 + 3 * 2
    assert block_calls(trace) == 4 * 1 + 2  # three columns go through the upper blocks at once
    assert published_blocks(trace) == 1 + 1 + 3 + 1  # as if the catch-up had cost nothing


def test_tokens_taken_back_are_paid_for_in_both_counts():
    passes = [Pass(1, 2, (i,), 1) for i in range(3)] + [Pass(3, 4, (0,), 3), Pass(1, 2, (1,), 1)]
    trace = run_of(
        *passes, taken_back=2, depths=(4, 2)
    )  # the deep part rejects the first: 2 of 3 columns are lost
    assert blocks_run(trace, 4, prompt=1) == 4 * 2 + 3 * 2
    assert block_calls(trace) == 4 * 2 + 2
    assert published_blocks(trace, exit_layer=2) == 4 + 2 + 2 * 2


def test_a_prompt_costs_flops_but_is_no_block_of_a_token():
    cost = DecoderCost(tiny_decoder("llama", **SMALL_LLAMA))
    passes = [Pass(1, 3, (0,), 6), Pass(1, 1, (6,), 1), Pass(1, 1, (7,), 1)]
    assert blocks_run(run_of(*passes, depths=(3, 1, 1)), 3, prompt=6) == 3 + 1 + 1
    static = [Pass(1, 2, (0,), 6), Pass(1, 2, (6,), 1)]
    assert blocks_run(run_of(*static, depths=(2, 2)), 3, prompt=6) == 2 + 2
    assert cost.decoder(run_of(*passes)) > cost.decoder(run_of(*passes[1:])) + 3 * 6 * cost.blocks[0].column


@pytest.mark.parametrize(("prompt", "tokens"), [(1, 1), (1, 9), (5, 4)])
def test_the_full_model_runs_all_blocks_once_per_token(counted, prompt, tokens):
    _, cost = counted
    trace, blocks = cost.plain(prompt, tokens), cost.num_blocks
    assert (
        blocks_run(trace, blocks, prompt) == block_calls(trace) == published_blocks(trace) == blocks * tokens
    )


# ---- equal to what really runs ---------------------------------------------------------------------------------------


@given(data=st.data())
@settings(deadline=None, max_examples=4)
def test_any_passes_of_any_sizes_cost_what_the_stock_blocks_do(counted, data):
    model, cost = counted
    decoder = adapter_for(model)
    rows, source = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 7)) if cost.encoder_decoder else 0
    states = {"encoder_hidden": torch.zeros(rows, source, decoder.width)} if source else {}
    cache, lengths, passes, ran = decoder.start(rows, capacity=4, **states), [0] * cost.num_blocks, [], 0
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.integers(1, cost.num_blocks))
        last = data.draw(st.integers(first, cost.num_blocks))
        new, propagated = data.draw(st.integers(1, 3)), data.draw(st.booleans())
        if len({lengths[block - 1] for block in range(first, last + 1)}) > 1:
            continue
        passes.append(Pass(first, last, (lengths[first - 1],) * rows, new, propagated))
        hidden_RTD = torch.zeros(rows, new, decoder.width)
        call = decoder.propagate if propagated else decoder.run
        ran += really(lambda call=call, at=(hidden_RTD, first, last): call(*at, cache))
        if first == 1 and not propagated:
            ids_RT = torch.zeros(rows, new, dtype=torch.long)
            ran += really(lambda ids_RT=ids_RT: decoder.embed(ids_RT, ids_RT))
        lengths[first - 1 : last] = [lengths[first - 1] + new] * (last - first + 1)
    heads = data.draw(st.integers(1, 4))
    ran += really(lambda: decoder.logits(torch.zeros(1, heads, decoder.width)))
    assert cost.decoder(run_of(*passes, rows=rows, heads=heads), source) == ran


@pytest.mark.parametrize("length", [1, 2, 6, 13])
def test_the_encoder_costs_what_it_does(counted, length):
    model, cost = counted
    if not cost.encoder_decoder:
        assert cost.encoder([length]).tolist() == [0]
        return
    ids = torch.ones(1, length, dtype=torch.long)
    ran = really(lambda: model.get_encoder()(input_ids=ids))
    assert cost.encoder([length, 3, length]).tolist() == [ran, *cost.encoder([3]), ran]


def test_many_source_lengths_cost_the_same_as_each_alone(counted):
    _, cost = counted
    lengths = [*range(1, 15)]
    assert cost.encoder(lengths).tolist() == [int(cost.encoder([length])[0]) for length in lengths]


def some_leave(model, kind: str) -> EarlyExitDecoding:
    """Return decoding of `REQUEST` at the highest threshold at which some tokens leave, and blocks above still see some."""
    options = {"min_layer": 1} if kind == "calm" else {"exit_layer": 1}
    none = EarlyExitDecoding(DecodingPolicy(kind, threshold=1.0, **options))
    Answering("none leaves", model, none)(REQUEST, TOKENS, fixed=True)
    for threshold in sorted(filter(None, none.trace.rows[0].confidence), reverse=True):
        some = EarlyExitDecoding(DecodingPolicy(kind, threshold=threshold, **options))
        Answering("some leave", model, some)(REQUEST, TOKENS, fixed=True)
        if len({(step.first, step.last, step.propagated) for step in some.trace.passes}) > 1:
            return some
    raise AssertionError("at every threshold, all tokens go through the same blocks")


@pytest.mark.parametrize("kind", ["plain", "static", "calm", "keep", "verify"])
def test_a_run_costs_what_it_does(counted, kind):
    model, cost = counted
    if kind == "plain":
        decoding = None
    elif kind == "static":
        decoding = EarlyExitDecoding(DecodingPolicy("static", exit_layer=2))
    else:
        decoding = some_leave(model, kind)
    answer, written = Answering(kind, model, decoding), []
    ran = really(lambda: written.extend(answer(REQUEST, TOKENS, fixed=True)))
    prompt, source = (1, 5) if cost.encoder_decoder else (5, 0)
    trace = cost.plain(prompt, TOKENS) if decoding is None else decoding.trace
    assert len(written) == trace.tokens == TOKENS
    # the stock OPT projects what leaves the blocks for the whole prompt, and the head reads one column of it
    unread = (
        4 * 2 * 32 * 16 if decoding is None and model.config.to_dict().get("word_embed_proj_dim") == 16 else 0
    )
    assert cost.decoder(trace, source) + int(cost.encoder([5])[0]) + unread == ran


def test_the_model_is_as_it_was(counted):
    model, _ = counted
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert model.get_input_embeddings().weight.requires_grad
