"""``verify`` and a threshold of 1 write what plain greedy ``generate`` writes, token for token, in every family."""

import pytest
import torch
from tiny_writers import FAMILIES, NEW, THRESHOLDS, keep, one, plain, prompts, verify, write, writer
from transformers import LogitsProcessor, StoppingCriteria

from adaptive_inference.decoding import DecodingPolicy

every_family = pytest.mark.parametrize("family", FAMILIES)


def same(found, expected):
    return found.shape == expected.shape and bool((found == expected).all())


@every_family
def test_verify_writes_what_plain_greedy_writes_alone_and_in_batches(family):
    """20 prompts; every policy decision happens: exits, catch-ups, and tokens taken back (property 8)."""
    model, inputs = writer(family), prompts(20)
    traces = []
    for row in range(20):
        alone = one(inputs, row)
        expected = plain(model, alone)
        for threshold in THRESHOLDS:
            ids, trace = write(model, alone, verify(threshold), defer=row % 2 == 0)
            assert same(ids, expected), (row, threshold)
            assert trace.left_waiting == 0
            traces.append(trace)
    for start in range(0, 20, 4):
        batch = {name: values[start : start + 4] for name, values in inputs.items()}
        expected = plain(model, batch)
        for threshold in THRESHOLDS:
            ids, trace = write(model, batch, verify(threshold, together=start % 8 == 0), defer=start < 12)
            assert same(ids, expected), (start, threshold)
            traces.append(trace)
    assert sum(trace.syncs for trace in traces) > 20
    assert sum(trace.taken_back for trace in traces) > 20
    early = sum(depth < 4 for trace in traces for row in trace.rows for depth in row.depth)
    assert 50 < early < sum(trace.tokens for trace in traces)


@every_family
@pytest.mark.parametrize("rows", [1, 4])
def test_a_threshold_of_1_never_leaves_early(family, rows):
    """Property 1, with left padding for rows of a batch (property 15)."""
    model, inputs = writer(family), prompts(rows, seed=3)
    expected = plain(model, inputs)
    for policy in (
        DecodingPolicy("full"),
        DecodingPolicy("static", exit_layer=4),
        DecodingPolicy("calm"),
        DecodingPolicy("calm", min_layer=2, confidence="saturation"),
        DecodingPolicy("calm", decay_tau=4.0),
        keep(1.0),
        keep(1.0, together=True),
        DecodingPolicy("roll_back", exit_layer=2, rollback=1e-9),
    ):
        ids, trace = write(model, inputs, policy)
        assert same(ids, expected), policy
        assert {depth for row in trace.rows for depth in row.depth} == {4}


@every_family
def test_rows_of_a_batch_are_those_rows_alone(family):
    """Rows that go when they must do not disturb each other: keep, calm and verify, at every threshold."""
    model, inputs = writer(family), prompts(4, seed=5)
    for threshold in (0.2, 0.5, 0.8):
        for policy in (
            keep(threshold, max_pending=3),
            verify(threshold),
            DecodingPolicy("calm", threshold=threshold),
            DecodingPolicy("roll_back", exit_layer=2, rollback=1.0, threshold=threshold),
        ):
            together, trace = write(model, inputs, policy)
            for row in range(4):
                ids, single = write(model, one(inputs, row), policy)
                new = len(single.rows[0].depth)
                start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
                assert together[row, start : start + new].tolist() == ids[0, -new:].tolist(), (policy, row)
                assert (together[row, start + new :] == 0).all()
                assert trace.rows[row].depth == single.rows[0].depth


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_rows_in_lock_step_that_agree_on_exits_are_rows_alone(family):
    """One prompt in all rows: every row is unsure where the others are (property 15)."""
    model, inputs = writer(family), prompts(1, seed=6)
    alone, single = write(model, inputs, keep(0.5, together=True))
    copies = {name: values.repeat(3, 1) for name, values in inputs.items()}
    ids, trace = write(model, copies, keep(0.5, together=True))
    assert same(ids, alone.repeat(3, 1))
    assert 2 in single.rows[0].depth
    assert 4 in single.rows[0].depth[1:]
    assert [row.depth for row in trace.rows] == [single.rows[0].depth] * 3


def test_rows_in_lock_step_go_deep_when_any_is_unsure():
    model, inputs = writer("t5", end=None), prompts(4, seed=7)
    _, trace = write(model, inputs, keep(0.5, together=True))
    assert len({tuple(row.depth) for row in trace.rows}) == 1
    assert {2, 4} == set(trace.rows[0].depth)
    unsure = [min(step) <= 0.5 for step in zip(*(row.confidence for row in trace.rows), strict=True)]
    assert [depth == 4 for depth in trace.rows[0].depth] == unsure


@every_family
def test_an_end_that_only_the_shallow_model_writes_is_not_the_end(family):
    """The pending tokens are verified before a text stops (property 8)."""
    model, inputs = writer(family, end=None, deep=1.0), prompts(1, seed=8)
    greedy = plain(model, inputs)[0].tolist()
    unverified = write(model, inputs, keep(0.0, max_pending=None))[0][0].tolist()
    wrong = next(token for token in unverified[1:] if token not in greedy)
    model.generation_config.eos_token_id = wrong
    early, _ = write(model, inputs, keep(0.0, max_pending=None))
    assert early[0].tolist() == unverified[: unverified.index(wrong) + 1]
    ids, _ = write(model, inputs, verify(0.0, max_pending=None))
    assert ids[0].tolist() == greedy


@every_family
@pytest.mark.parametrize("new", [1, 2, 5])
def test_a_text_stops_at_its_greatest_length(family, new):
    model, inputs = writer(family, end=None), prompts(2, seed=9)
    expected = plain(model, inputs, max_new_tokens=new)
    for policy in (verify(0.0, max_pending=None), verify(0.3), DecodingPolicy("full")):
        for defer in (True, False):
            assert same(write(model, inputs, policy, max_new_tokens=new, defer=defer)[0], expected)


class _Sevens(StoppingCriteria):
    """Stops a row at its fourth multiple of 7: depends on the whole text."""

    def __call__(self, input_ids, scores, **kwargs):
        return ((input_ids % 7 == 0) & (input_ids > 0)).sum(1) > 3


class _RowBias(LogitsProcessor):
    """Another bias for each row of the batch, by the number of tokens so far."""

    def __call__(self, input_ids, scores):
        for row in range(len(input_ids)):
            scores[row, (5 * row + input_ids.shape[1]) % scores.shape[1]] += 1.5
        return scores


@every_family
def test_processors_and_criteria_of_generate_hold_for_verified_tokens(family):
    model, inputs = writer(family), prompts(3, seed=10)
    options = {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 4,
        "logits_processor": [_RowBias()],
        "stopping_criteria": [_Sevens()],
    }
    expected = plain(model, inputs, **options)
    assert not same(expected, plain(model, inputs))
    back = 0
    for threshold in (0.0, 0.4):
        for defer in (True, False):
            ids, trace = write(model, inputs, verify(threshold), defer=defer, **options)
            assert same(ids, expected)
            back += trace.taken_back
    assert back
    assert same(write(model, inputs, DecodingPolicy("calm"), **options)[0], expected)


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_run_leaves_nothing_for_the_next(family):
    """The same text after itself and after another (property 4)."""
    model = writer(family)
    first, other = prompts(2, seed=11), prompts(3, seed=12)
    for policy in (keep(0.5), verify(0.5), DecodingPolicy("calm", threshold=0.5)):
        expected, trace = write(model, first, policy)
        write(model, other, policy)
        ids, again = write(model, first, policy)
        assert same(ids, expected)
        assert again == trace


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_sampling_from_all_blocks_is_that_of_generate(family):
    model, inputs = writer(family), prompts(3, seed=13)
    options = {"do_sample": True, "temperature": 0.9, "top_k": 20}
    torch.manual_seed(0)
    expected = plain(model, inputs, **options)
    torch.manual_seed(0)
    assert same(write(model, inputs, DecodingPolicy("full"), **options)[0], expected)


def test_float32_differs_from_plain_only_at_ties():
    """A first difference stands where the two best logits of the whole model differ by less than 1e-4."""
    for family in ("t5", "llama"):
        model = writer(family).float()
        for row in range(6):
            inputs = one(prompts(6, seed=14), row)
            expected, found = plain(model, inputs)[0], write(model, inputs, verify(0.3))[0][0]
            length = min(len(expected), len(found), NEW)
            differs = (expected[:length] != found[:length]).nonzero()
            if len(differs):
                given = {"decoder_input_ids": expected[None, : differs[0]]}
                if not model.config.is_encoder_decoder:
                    given = {"input_ids": expected[None, : differs[0]]}
                best = model(**(inputs | given)).logits[0, -1].topk(2).values
                assert best[0] - best[1] < 1e-4
