"""Inside a run: states are those of a teacher-forced forward, rows are conserved, and the host waits once per step."""

from math import inf

import pytest
import torch
from tiny_writers import (
    FAMILIES,
    NEW,
    SHALLOW,
    keep,
    middle,
    new_tokens,
    one,
    plain,
    prompts,
    verify,
    write,
    writer,
)
from torch.utils._python_dispatch import TorchDispatchMode

from adaptive_inference.decoding import AdaptiveThreshold, DecodingPolicy
from adaptive_inference.decoding.confidence import AgreementClassifier
from adaptive_inference.decoding.shallow_deep import ShallowDeep
from adaptive_inference.decoding.state import Texts

every_family = pytest.mark.parametrize("family", FAMILIES)
some = pytest.mark.parametrize("family", ["t5", "llama"])
DEEP = 4


def teacher_forced(model, inputs, ids, row):
    """Return logits of the last token, and K and V of every block, of the stock forward over one row's tokens."""
    source = one(inputs, row)
    if model.config.is_encoder_decoder:
        out = model(**source, decoder_input_ids=ids, use_cache=True)
        return out.logits[0, -1], out.past_key_values.self_attention_cache.layers
    out = model(input_ids=ids, use_cache=True)
    return out.logits[0, -1], out.past_key_values.layers


@every_family
@pytest.mark.parametrize("rows", [1, 3])
def test_after_a_catch_up_every_state_is_that_of_a_full_forward(family, rows, monkeypatch):
    """Properties 3 and 6: K and V of all blocks, and the last logits, whatever had waited and in whatever batch."""
    model, inputs = writer(family, end=None), prompts(rows, seed=21)
    padding = (inputs["attention_mask"] == 0).sum(1).tolist()
    seen, checked = [], []
    logits_of, go_deep = Texts.logits, ShallowDeep._go_deep

    def logits(self, hidden):
        seen.append(logits_of(self, hidden))
        return seen[-1]

    def checking(self, unsure):
        waited = [self.waiting[row] for row in unsure]
        go_deep(self, unsure)
        texts = self.texts
        for place, (row, count) in enumerate(zip(unsure, waited, strict=True)):
            end = texts.ends[row] - 1
            begin = 0 if model.config.is_encoder_decoder else padding[row]
            ids = texts._tokens_BC[row : row + 1, begin:end]
            last, layers = teacher_forced(model, inputs, ids, row)
            torch.testing.assert_close(seen[-1][place, count], last)
            for block in range(1, DEEP + 1):
                assert texts.cache.lengths(block)[texts.rows.index(row)] == end
                for held, stock in zip(
                    texts.cache.states(block), (layers[block - 1].keys, layers[block - 1].values), strict=True
                ):
                    own = held[texts.rows.index(row), :, begin:end]
                    torch.testing.assert_close(own, stock[0])
            checked.append(count)

    monkeypatch.setattr(Texts, "logits", logits)
    monkeypatch.setattr(ShallowDeep, "_go_deep", checking)
    for leave in (0.4, 0.8):
        threshold = middle(model, inputs, leave)
        write(model, inputs, keep(threshold), observe=True)
        write(model, inputs, verify(threshold))
    write(model, inputs, keep(0.0, max_pending=3), observe=True)
    assert {0, 3} <= set(checked)


@some
@pytest.mark.parametrize("defer", [True, False])
def test_the_deep_blocks_lag_by_what_waits(family, defer, monkeypatch):
    """Property 4, for every row of a batch after every step."""
    model, inputs = writer(family, deep=1.0), prompts(4, seed=22)
    step, lags = ShallowDeep._step, set()

    def checking(self):
        step(self)
        texts = self.texts
        for place, row in enumerate(texts.rows):
            shallow = [texts.cache.lengths(block)[place] for block in range(1, SHALLOW + 1)]
            deep = [texts.cache.lengths(block)[place] for block in range(SHALLOW + 1, DEEP + 1)]
            assert shallow == [texts.ends[row] - 1] * SHALLOW
            assert deep == [texts.ends[row] - 1 - self.waiting[row]] * (DEEP - SHALLOW)
            lags.add(self.waiting[row])

    monkeypatch.setattr(ShallowDeep, "_step", checking)
    taken_back = 0
    for policy in (keep(0.3, max_pending=3), verify(0.3, max_pending=3), verify(0.2, together=True)):
        taken_back += write(model, inputs, policy, defer=defer)[1].taken_back
    assert taken_back
    assert {0, 1, 2, 3} <= lags


@every_family
def test_at_a_threshold_of_0_every_token_leaves(family):
    """Property 2: keep is static is calm at one block; those above get a decoder-only model's prompt alone."""
    model, inputs = writer(family, deep=1.0, end=None), prompts(2, seed=23)
    ids, trace = write(model, inputs, keep(0.0, max_pending=None))
    calm, _ = write(model, inputs, DecodingPolicy("calm", min_layer=SHALLOW, threshold=0.0))
    assert calm.tolist() == ids.tolist()
    static = DecodingPolicy("static", exit_layer=SHALLOW)
    if model.config.is_encoder_decoder:
        assert trace.columns(SHALLOW + 1) == 0
        assert write(model, inputs, static)[0].tolist() == ids.tolist()
    else:
        width = inputs["input_ids"].shape[1]
        assert trace.columns(SHALLOW + 1) == 2 * width
        longer = {
            "input_ids": ids[:, : width + 1],
            "attention_mask": torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1),
        }
        assert write(model, longer, static, max_new_tokens=NEW - 1)[0].tolist() == ids.tolist()


@some
def test_rows_are_conserved(family):
    """Property 5: what went through the shallow blocks went through the others, waits still, or was in vain."""
    model = writer(family, deep=1.0)
    left = void = 0
    for row in range(3):
        inputs = one(prompts(3, seed=24), row)
        for policy in (
            keep(0.0, max_pending=3),
            verify(0.0, max_pending=3),
            DecodingPolicy("roll_back", SHALLOW, middle(model, inputs), rollback=1.0),
        ):
            for defer in (True, False):
                _, trace = write(model, inputs, policy, defer=defer)
                above = trace.columns(SHALLOW + 1)
                assert above + trace.left_waiting + trace.void_steps == trace.columns(SHALLOW)
                deep = [p for p in trace.passes if p.first == SHALLOW + 1]
                assert trace.syncs == sum(p.new > 1 for p in deep)
                assert defer or not trace.void_steps
                left, void = left + trace.left_waiting, void + trace.void_steps
    assert left
    assert void


@some
def test_rolling_back_by_cross_entropy(family):
    """Property 8: never at an infinite bound; at a bound of nearly 0 what was verified is greedy."""
    model = writer(family, deep=1.0)
    taken_back = 0
    for row in range(4):
        inputs = one(prompts(4, seed=25), row)
        bound = {"exit_layer": SHALLOW, "threshold": 0.3}
        kept, _ = write(model, inputs, keep(0.3))
        never, _ = write(model, inputs, DecodingPolicy("roll_back", rollback=inf, **bound))
        assert never.tolist() == kept.tolist()
        ids, trace = write(model, inputs, DecodingPolicy("roll_back", rollback=1e-9, **bound))
        greedy = new_tokens(model, inputs, plain(model, inputs))
        tokens = new_tokens(model, inputs, ids)
        verified = len(trace.rows[0].depth) - trace.left_waiting
        assert tokens[:verified] == greedy[:verified]
        taken_back += trace.taken_back
    assert taken_back


@some
def test_a_roll_back_stands_where_the_cross_entropy_exceeds_the_bound(family):
    """By the stock forward: of the tokens that left and were judged, none that stayed is above the bound."""
    model, bound = writer(family, deep=1.0, end=None), 2.5
    policy = DecodingPolicy("roll_back", SHALLOW, 0.0, rollback=bound, max_pending=2)
    stayed, taken_back = [], 0
    for row in range(4):
        inputs = one(prompts(4, seed=26), row)
        ids, trace = write(model, inputs, policy)
        start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        given = {"decoder_input_ids": ids} | inputs if model.config.is_encoder_decoder else {"input_ids": ids}
        doubt = -model(**given).logits[0].float().log_softmax(-1)
        depth = trace.rows[0].depth
        for t in range(len(depth) - trace.left_waiting):
            if depth[t] == SHALLOW:
                stayed.append(doubt[start + t - 1, ids[0, start + t]].item())
        taken_back += trace.taken_back
    assert max(stayed) <= bound
    assert taken_back


@every_family
def test_calm_gives_skipped_blocks_keys_and_no_work(family):
    """Property 13: blocks run for the tokens that reach them alone, and all hold equally many columns."""
    model, inputs = writer(family), prompts(3, seed=27)
    policy = DecodingPolicy("calm", threshold=middle(model, inputs, 0.6, DecodingPolicy("calm")))
    lengths, climb_end = [], Texts.put

    def put(self, *args):
        lengths.append([self.cache.lengths(block) for block in range(1, DEEP + 1)])
        return climb_end(self, *args)

    calls = [0] * DEEP
    blocks = writer_blocks(model)
    hooks = [
        block.register_forward_hook(
            lambda _m, args, _o, i=i: calls.__setitem__(i, calls[i] + args[0][..., 0].numel())
        )
        for i, block in enumerate(blocks)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Texts, "put", put)
        _, trace = write(model, inputs, policy)
    for hook in hooks:
        hook.remove()
    assert all(held == of_blocks[0] for of_blocks in lengths for held in of_blocks)
    prompt = 0 if model.config.is_encoder_decoder else inputs["input_ids"].numel()
    first = 0 if model.config.is_encoder_decoder else 1
    depths = [depth for row in trace.rows for depth in row.depth[first:]]
    assert calls == [prompt + sum(depth > i for depth in depths) for i in range(DEEP)]
    assert len(set(depths)) > 1
    # one test after each block up to the exit, none after the last (property 15)
    assert trace.tests == sum(min(depth, DEEP - 1) for depth in depths)


def writer_blocks(model):
    from adaptive_inference.decoders.families import adapter_for

    return adapter_for(model).blocks


@some
def test_calm_leaves_at_the_first_sure_block(family):
    """Confidences by each measure decide as they are read; the threshold of a position is the decayed one."""
    model, inputs = writer(family), prompts(2, seed=28)
    for options in ({}, {"together": True}, {"min_layer": 2, "confidence": "saturation"}):
        _, untested = write(model, inputs, DecodingPolicy("calm", **options))
        sure = sorted(value for row in untested.rows for value in row.confidence if value is not None)
        policy = DecodingPolicy("calm", threshold=max(0.0, sure[len(sure) // 2]), **options)
        _, trace = write(model, inputs, policy)
        assert len({depth for row in trace.rows for depth in row.depth[1:]}) > 1, policy
        for row in trace.rows:
            for depth, confidence in zip(row.depth[1:], row.confidence[1:], strict=True):
                assert policy.together or (confidence > policy.threshold) == (depth < DEEP)
    low, high = (
        write(model, inputs, DecodingPolicy("calm", threshold=0.5, decay_tau=tau))[1] for tau in (50.0, 0.0)
    )
    assert sum(sum(row.depth) for row in low.rows) <= sum(sum(row.depth) for row in high.rows)
    for row in high.rows:
        for depth, confidence in zip(row.depth[1:], row.confidence[1:], strict=True):
            assert (confidence > 0.55) == (depth < DEEP)


@some
def test_calm_leaves_where_a_classifier_is_sure(family):
    """The classifier is sure where one number of a state is positive; which number varies, so that both happen."""
    model, inputs = writer(family), prompts(2, seed=28)
    classifier = AgreementClassifier(32)
    depths = set()
    for number in range(6):
        with torch.no_grad():
            for values in classifier.parameters():
                values.zero_()
            classifier.output.weight[0, number] = 1.0
        policy = DecodingPolicy("calm", threshold=0.5, confidence="classifier")
        _, trace = write(model, inputs, policy, classifier=classifier)
        for row in trace.rows:
            depths |= set(row.depth[1:])
            for depth, confidence in zip(row.depth[1:], row.confidence[1:], strict=True):
                assert (confidence > 0.5) == (depth < DEEP)
    assert len(depths) > 1


class _Reads(TorchDispatchMode):
    """Counts what would make the host wait for the device: values that are read, sizes that depend on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += any(name in func.name() for name in self.WAITS)
        return func(*args, **(kwargs or {}))


@every_family
def test_the_host_waits_once_per_step(family, monkeypatch):
    """Property 15: one read per shallow step at batch 1, and nothing is read but through `Texts.read`."""
    model = writer(family, end=None)
    inputs = one(prompts(1, seed=29), 0)
    lists = []
    tolist = torch.Tensor.tolist
    writing = ShallowDeep.write

    def counted(tensor):
        lists.append(tensor.shape)
        return tolist(tensor)

    def watched(self):
        monkeypatch.setattr(torch.Tensor, "tolist", counted)
        for name in ("cpu", "numpy", "item", "__bool__", "__int__", "__float__", "__index__"):
            monkeypatch.setattr(torch.Tensor, name, _refuse(name))
        with _Reads() as reads:
            writing(self)
        monkeypatch.undo()
        assert reads.count == 0
        assert len(lists) == self.texts.trace.host_reads

    for policy in (keep(0.4), keep(1.0), keep(0.0), verify(0.4), verify(0.0)):
        lists.clear()
        monkeypatch.setattr(ShallowDeep, "write", watched)
        _, trace = write(model, inputs, policy, defer=True)
        monkeypatch.undo()
        steps = sum(p.first == 1 and p.last == SHALLOW for p in trace.passes)
        # at the greatest length there is no next step to read with, and `keep` has nothing left to hear
        last = NEW + (1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]) - 1
        ends = sum(p.first == SHALLOW + 1 and p.past[0] + p.new == last for p in trace.passes)
        assert trace.host_reads == steps + (ends if policy.kind == "verify" else 0)
        assert policy.kind == "verify" or trace.host_reads <= trace.tokens
        deep = sum(p.first == SHALLOW + 1 for p in trace.passes)
        prompt = 0 if model.config.is_encoder_decoder else 1
        assert trace.head_calls == steps + deep + prompt
        assert trace.head_rows == trace.head_calls or policy.kind == "verify"


def _refuse(name):
    def refuse(*args, **kwargs):
        raise AssertionError(f"Tensor.{name} reads from the device")

    return refuse


@some
def test_the_estimate_hears_every_pair_of_a_catch_up(family):
    model = writer(family, deep=1.0)
    adaptive = AdaptiveThreshold(middle(model, prompts(2, seed=0)), minimum=2)
    initial = adaptive.threshold
    pairs = 0
    for seed in range(4):
        inputs = prompts(2, seed=seed)
        _, trace = write(model, inputs, keep(0.9, max_pending=3), adaptive=adaptive)
        assert trace.threshold == adaptive.trajectory[-1]
        for row in trace.rows:
            assert all(
                confidence > trace.threshold
                for depth, confidence in zip(row.depth, row.confidence, strict=True)
                if depth == SHALLOW
            )
        for row in trace.rows:
            waited = [
                agreed is not None and depth == SHALLOW
                for depth, agreed in zip(row.depth, row.agreed, strict=True)
            ]
            after = [t for t in range(1, len(waited)) if waited[t - 1] and row.depth[t] == DEEP]
            pairs += sum(waited) + len(after)
    assert pairs == len(adaptive.confidences) == len(adaptive.agreed)
    assert len(adaptive.trajectory) == 4
    assert adaptive.trajectory[0] == initial
    assert len(set(adaptive.trajectory)) > 1


@some
def test_the_trace_knows_what_agreed(family):
    """Against the stock forward over the text that was written."""
    model, policy = writer(family, deep=1.0, end=None), keep(0.0, max_pending=3)
    heard = []
    for row in range(3):
        inputs = one(prompts(3, seed=31), row)
        ids, trace = write(model, inputs, policy, observe=True)
        assert write(model, inputs, policy)[0].tolist() == ids.tolist()
        start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        given = {"decoder_input_ids": ids} | inputs if model.config.is_encoder_decoder else {"input_ids": ids}
        greedy = model(**given).logits[0].argmax(-1)
        shallow = [t for t, depth in enumerate(trace.rows[0].depth) if depth == SHALLOW]
        for t, depth in enumerate(trace.rows[0].depth):
            right = (greedy[start + t - 1] == ids[0, start + t]).item()
            agreed = trace.rows[0].agreed[t]
            assert agreed in (None, right) if depth == SHALLOW else right
        heard += [trace.rows[0].agreed[t] for t in shallow]
        assert sum(trace.rows[0].agreed[t] is None for t in shallow) == trace.left_waiting
    assert {True, False} <= set(heard)


def test_texts_may_be_drawn_and_leave_early():
    model, inputs = writer("llama"), prompts(3, seed=32)
    for policy in (keep(0.3), DecodingPolicy("calm", threshold=0.3), DecodingPolicy("static", exit_layer=2)):
        torch.manual_seed(0)
        ids, trace = write(model, inputs, policy, do_sample=True)
        torch.manual_seed(0)
        again, _ = write(model, inputs, policy, do_sample=True)
        assert ids.tolist() == again.tolist()
        assert {depth < DEEP for row in trace.rows for depth in row.depth[1:]} >= {True}
