"""Our block-by-block decoders against the stock forward, in double precision on tiny random models of every family."""

import gc
import weakref
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from adaptive_inference.decoders._tiny import BLOCKS, VOCABULARY, tiny_decoder
from adaptive_inference.decoders.families import adapter_for, served

SHALLOW, LENGTH, SOURCE = 2, 9, 12
LONG = {"local_radius": 2}
#: Variations that change which code of the stock blocks runs.
VARIANTS = [
    *[(name, {}) for name in served() if name != "longt5"],
    ("llama", {"attn_implementation": "eager"}),
    ("llama", {"num_key_value_heads": 4, "attention_bias": True, "tie_word_embeddings": True}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "attn_implementation": "eager"}),
    ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    ("opt", {"_remove_final_layer_norm": True, "enable_bias": False}),
    ("t5", {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
    ("t5", {"attn_implementation": "eager"}),
    ("longt5", {"encoder_attention_type": "local"} | LONG),
    ("longt5", {"encoder_attention_type": "transient-global", "global_block_size": 3} | LONG),
]
every_family = pytest.mark.parametrize(("family", "changes"), VARIANTS)


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.no_grad():
        yield


def random_tokens(rows, length, seed=3):
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


class Case:
    """A model, its adapter, and a source for each row where the model reads one."""

    def __init__(self, family, changes=None, rows=1):
        self.model = tiny_decoder(family, **(changes or {})).double()
        self.decoder = adapter_for(self.model)
        self.tokens = random_tokens(rows, LENGTH)
        self.source = {}
        if self.decoder.encoder_decoder:
            mask = torch.ones(rows, SOURCE, dtype=torch.long)
            for row in range(rows):
                mask[row, SOURCE - 3 * row :] = 0
            self.source = {"input_ids": random_tokens(rows, SOURCE, 4), "attention_mask": mask}

    def stock(self, tokens=None, row=None):
        """Run the stock forward, of all rows or of one alone: logits, and K and V of every block."""
        tokens = self.tokens if tokens is None else tokens
        if not self.source:
            out = self.model(input_ids=tokens, use_cache=True)
            return out.logits, out.past_key_values.layers
        source = self.source if row is None else {k: v[row : row + 1] for k, v in self.source.items()}
        out = self.model(**source, decoder_input_ids=tokens, use_cache=True)
        return out.logits, out.past_key_values.self_attention_cache.layers

    def start(self, capacity=32, padding=None):
        encoded = {}
        if self.source:
            hidden = self.model.get_encoder()(**self.source).last_hidden_state
            encoded = {"encoder_hidden": hidden, "encoder_mask": self.source["attention_mask"]}
        rows = self.tokens.shape[0]
        return self.decoder.start(rows, capacity=capacity, padding_B=padding, **encoded)

    def feed(self, tokens, cache, last=BLOCKS):
        """Embed tokens at the next positions of block 1 and run blocks 1..last on them."""
        positions = cache.positions(1, tokens.shape[1])
        return self.decoder.run(self.decoder.embed(tokens, positions), 1, last, cache)


def close(ours, stock):
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-6 * stock.abs().max().item())


@every_family
def test_greedy_tokens_are_those_of_plain_generate(family, changes):
    case = Case(family, changes)
    new = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    inputs = dict(case.source) or {"input_ids": case.tokens}
    plain = case.model.generate(**inputs, **new, past_key_values=case.decoder.plain_cache())
    cache, token = case.start(), torch.zeros(1, 1, dtype=torch.long) if case.source else case.tokens
    written = [token]
    for _ in range(6):
        token = case.decoder.logits(case.feed(token, cache)[:, -1:]).argmax(-1)
        written.append(token)
    assert torch.cat(written, dim=1).tolist() == plain.tolist()


def assert_states(cache, layers):
    for block, layer in enumerate(layers, start=1):
        keys, values = cache.states(block)
        close(keys, layer.keys)
        close(values, layer.values)


@every_family
@pytest.mark.parametrize("pieces", [[9], [1] * 9, [4, 1, 1, 3]], ids=["at once", "one by one", "in pieces"])
def test_all_blocks_are_the_stock_forward(family, changes, pieces):
    case = Case(family, changes, rows=2)
    logits, layers = case.stock()
    cache = case.start(capacity=3)  # grows on the way
    ours = [case.decoder.logits(case.feed(part, cache)) for part in case.tokens.split(pieces, dim=1)]
    close(torch.cat(ours, dim=1), logits)
    assert_states(cache, layers)
    assert [cache.lengths(block) for block in range(1, BLOCKS + 1)] == [[LENGTH] * 2] * BLOCKS


@every_family
def test_deep_blocks_that_catch_up_are_the_teacher_forced_forward(family, changes):
    """Properties 3 and 6 of the note: m + 1 rows at once, at P = 0 and at P > 0, are m + 1 single steps."""
    case = Case(family, changes, rows=2)
    logits, layers = case.stock()
    together, singly = case.start(), case.start()
    pending, ours, single = [], [], []
    for at in range(LENGTH):
        token = case.tokens[:, at : at + 1]
        shallow = case.feed(token, together, SHALLOW)
        close(case.feed(token, singly, SHALLOW), shallow)
        single.append(case.decoder.run(shallow, SHALLOW + 1, BLOCKS, singly))
        pending.append(shallow)
        assert together.lengths(SHALLOW) == [
            length + len(pending) for length in together.lengths(SHALLOW + 1)
        ]
        if at in (3, 4, 8):
            ours.append(case.decoder.run(torch.cat(pending, dim=1), SHALLOW + 1, BLOCKS, together))
            pending = []
    close(torch.cat(ours, dim=1), torch.cat(single, dim=1))
    close(case.decoder.logits(torch.cat(ours, dim=1)), logits)
    assert_states(together, layers)
    assert_states(singly, layers)


@every_family
def test_a_later_pending_token_changes_no_earlier_one(family, changes):
    """Property 7 of the note."""
    case = Case(family, changes)
    outputs = []
    for shift in (0.0, 1.0):
        cache = case.start()
        case.feed(case.tokens[:, :2], cache)
        hidden = case.feed(case.tokens[:, 2:6], cache, SHALLOW).clone()
        hidden[:, -1] += shift * torch.arange(hidden.shape[-1])
        outputs.append(case.decoder.run(hidden, SHALLOW + 1, BLOCKS, cache))
    torch.testing.assert_close(outputs[0][:, :-1], outputs[1][:, :-1], rtol=0, atol=1e-12)
    assert not torch.allclose(outputs[0][:, -1], outputs[1][:, -1], atol=1e-2)


@contextmanager
def counted_modules(decoder):
    """Count the calls of the blocks and of all that lies within them."""
    calls = []
    names = {module: name for block in decoder.blocks for name, module in block.named_modules()}
    hooks = [module.register_forward_hook(lambda module, *_: calls.append(names[module])) for module in names]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@every_family
@pytest.mark.parametrize("new", [1, 3])
def test_skipped_blocks_get_the_projections_of_what_leaves(family, changes, new):
    """Property 13 of the note: K and V as the block would make them of h_k, and no attention or feed-forward."""
    case = Case(family, changes, rows=2)
    cache, oracle = case.start(), case.start()
    for each in (cache, oracle):
        case.feed(case.tokens[:, :4], each)
    left = case.feed(case.tokens[:, 4 : 4 + new], cache, SHALLOW)
    case.feed(case.tokens[:, 4 : 4 + new], oracle, SHALLOW)
    with counted_modules(case.decoder) as calls:
        case.decoder.propagate(left, SHALLOW + 1, BLOCKS, cache)
    assert not [
        name
        for name in calls
        if "norm" not in name.lower() and name[-1] not in "kv" and "_proj" not in name and "ln_1" not in name
    ], calls
    assert len(calls) <= 4 * (BLOCKS - SHALLOW)
    for block in range(SHALLOW + 1, BLOCKS + 1):
        case.decoder.run(left, block, block, oracle)  # the stock block, on what it would have been given
        assert cache.lengths(block) == [4 + new] * 2
        for ours, stock in zip(cache.states(block), oracle.states(block), strict=True):
            close(ours, stock)


#: LongT5's stock encoder itself gives no numbers for a padded source in float16.
HALVES = [(name, half) for name in served() for half in (torch.bfloat16, torch.float16)]
HALVES.remove(("longt5", torch.float16))


@pytest.mark.parametrize(("family", "dtype"), HALVES, ids=str)
def test_half_precision_runs_in_its_own(family, dtype):
    case = Case(family, rows=2)
    case.model.to(dtype)
    if case.source and dtype == torch.float16:
        for name, part in case.model.named_modules():
            if name.endswith("wo"):
                part.float()  # what transformers keeps so when it loads a T5 in half precision
    logits, _ = case.stock()
    cache, ours = case.start(), []
    for part in case.tokens.split([2, 1, 3, 1, 2], dim=1):
        shallow = case.feed(part, cache, SHALLOW)
        ours.append(case.decoder.logits(case.decoder.run(shallow, SHALLOW + 1, BLOCKS, cache)))
    assert ours[0].dtype == logits.dtype == dtype
    difference = (torch.cat(ours, dim=1) - logits).float().abs().max()
    assert difference < 0.05 * logits.float().abs().max()


@pytest.mark.parametrize("family", served())
def test_a_cache_is_freed_with_its_last_reference(family):
    """Its memory must not wait for the collector of circles: requests follow each other fast."""
    case = Case(family)
    gc.disable()
    try:
        cache = case.start()
        case.feed(case.tokens, cache)
        freed = weakref.ref(cache)
        del cache
        assert freed() is None
    finally:
        gc.enable()


class Ragged:
    """A batch whose rows have lengths of their own, at every block, and what each row would be alone."""

    def __init__(self, family, changes, prompts):
        self.case = case = Case(family, changes, rows=len(prompts))
        self.fed = [[] for _ in prompts]
        longest = max(prompts)
        self.padding = [longest - length for length in prompts]
        self.cache = case.start(capacity=2, padding=None if self.decoder_starts_empty else self.padding)
        self.rows = list(range(len(prompts)))
        self.pending = [[] for _ in prompts]
        self.deep = [[] for _ in prompts]
        if self.decoder_starts_empty:
            self.padding = [0] * len(prompts)
            return
        prompt = random_tokens(len(prompts), longest, 6)
        hidden = case.feed(prompt, self.cache)
        for row, pad in enumerate(self.padding):
            self.fed[row] = prompt[row, pad:].tolist()
            self.deep[row] = list(hidden[row, pad:])

    @property
    def decoder_starts_empty(self):
        return bool(self.case.source)

    def shallow(self, tokens):
        """One token of every row through the shallow blocks."""
        hidden = self.case.feed(torch.tensor(tokens)[:, None], self.cache, SHALLOW)
        for at, row in enumerate(self.rows):
            self.fed[row].append(tokens[at])
            self.pending[row].append(hidden[at, 0])

    def catch_up(self, chosen):
        """The pending tokens of some rows through the deep blocks, at once; the shorter lists are filled behind."""
        places = [at for at, row in enumerate(self.rows) if row in chosen and self.pending[row]]
        if not places:
            return
        lists = [torch.stack(self.pending[self.rows[at]]) for at in places]
        hidden = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True)
        with self.cache.rows(places):
            deep = self.case.decoder.run(hidden, SHALLOW + 1, BLOCKS, self.cache)
        self.cache.crop(places, [self.cache.lengths(1)[at] for at in places])
        for index, at in enumerate(places):
            row = self.rows[at]
            self.deep[row] += list(deep[index, : len(self.pending[row])])
            self.pending[row] = []

    def roll_back(self, place, tokens):
        """Take back the last tokens of a row, at all blocks."""
        row = self.rows[place]
        length = len(self.fed[row]) - tokens
        self.fed[row] = self.fed[row][:length]
        self.deep[row] = self.deep[row][:length]
        self.pending[row] = self.pending[row][: max(0, length - len(self.deep[row]))]
        self.cache.crop([place], length + self.padding[row])

    def drop(self, places):
        """Finish rows."""
        self.rows = [row for at, row in enumerate(self.rows) if at not in places]
        self.cache.keep([at for at in range(len(self.rows) + len(places)) if at not in places])

    def check(self):
        """Every row is what it would be alone, at every block."""
        for at, row in enumerate(self.rows):
            if not self.fed[row]:
                continue
            logits, layers = self.case.stock(torch.tensor([self.fed[row]]), row)
            if self.deep[row]:
                ours = self.case.decoder.logits(torch.stack(self.deep[row])[None])
                close(ours, logits[:, : len(self.deep[row])])
            for block, layer in enumerate(layers, start=1):
                held = self.cache.lengths(block)[at]
                tokens = len(self.fed[row]) - (len(self.pending[row]) if block > SHALLOW else 0)
                assert held == tokens + self.padding[row]
                if not tokens:
                    continue
                for states, stock in zip(self.cache.states(block), (layer.keys, layer.values), strict=True):
                    close(states[at : at + 1, :, self.padding[row] : held], stock[:, :, :tokens])


RAGGED = [*[(name, {}) for name in served() if name != "longt5"], VARIANTS[-1], VARIANTS[-3]]


@pytest.mark.parametrize(("family", "changes"), RAGGED)
def test_rows_that_catch_up_apart_are_each_as_if_alone(family, changes):
    """Left padding, gathered deep passes of lists of unequal length, a roll-back, and a row that leaves."""
    ragged = Ragged(family, changes, prompts=[5, 2, 3])
    for step, chosen in enumerate([[1], [], [0, 1], [2, 0], [], [0, 1, 2]]):
        ragged.shallow(random_tokens(1, 3, 20 + step)[0].tolist())
        ragged.catch_up(chosen)
        ragged.check()
    ragged.shallow([4, 5, 6])
    ragged.roll_back(1, 3)
    ragged.check()
    ragged.shallow([7, 8, 9])
    ragged.drop([0])
    ragged.check()
    ragged.shallow([10, 11])
    ragged.catch_up([2, 1])
    ragged.check()


@pytest.mark.parametrize("family", ["llama", "t5"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_order_of_shallow_deep_and_cut_steps_is_as_if_alone(family, data):
    ragged = Ragged(family, {}, prompts=[3, 1, 2])
    for _ in range(6):
        ragged.shallow(data.draw(st.lists(st.integers(2, VOCABULARY - 1), min_size=3, max_size=3)))
        ragged.catch_up(data.draw(st.sets(st.integers(0, 2))))
        if data.draw(st.booleans()):
            place = data.draw(st.integers(0, 2))
            ragged.roll_back(place, data.draw(st.integers(1, min(3, len(ragged.fed[place])))))
    ragged.check()


class Operations(TorchDispatchMode):
    """The names of the operations that reach the device."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("family", [name for name in served() if name != "longt5"])
def test_a_step_of_equal_rows_gathers_nothing_and_reads_nothing_back(family, rows):
    """What batch 1 and lock step pay: no mask, no copy of the cache, no read by the host."""
    case = Case(family, rows=rows)
    cache = case.start(capacity=LENGTH)
    case.feed(case.tokens[:, :5], cache)
    held = [cache.states(block)[0].data_ptr() for block in range(1, BLOCKS + 1)]
    masks = []
    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
        )
        for block in case.decoder.blocks
    ]
    with Operations() as operations:
        case.decoder.run(case.decoder.embed(case.tokens[:, 5:6], cache.positions(1, 1)), 1, BLOCKS, cache)
    for hook in hooks:
        hook.remove()
    assert masks == [None] * BLOCKS
    assert not set(operations.names) & {
        "_local_scalar_dense",
        "index",
        "index_put_",
        "index_select",
        "masked_fill_",
    }
    assert [cache.states(block)[0].data_ptr() for block in range(1, BLOCKS + 1)] == held
