"""Graphs answer as the layers do that they were made of: fp32 within 1e-4, in batches and alone, at the same exits."""

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_deployments import EXITS, INT8, build, deployed
from token_batches import padded, texts

from adaptive_inference.engine import Engine, Stream
from adaptive_inference.engine.underway import Decisions
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule

FAMILIES = ("bert", "roberta", "distilbert", "albert", "deberta", "deberta-v2", "mpnet")
KINDS = (*FAMILIES, "mean", "attention", "certainty")
RULES = ("confidence", "entropy", "margin", "voting", "patience", "patience_confidence", "fixed")
TOLERANCE = 1e-4


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory):
    global HOME
    HOME = tmp_path_factory.mktemp("graphs")


HOME = Path()


def pair(kind, quantised=False):
    """A model and the runner of its graphs, cut at every exit."""
    return made(kind, quantised)


@functools.cache
def made(kind, quantised):
    if kind in FAMILIES:
        model = build(kind)
    else:
        model = build(
            read="mean",
            inner="attention" if kind == "attention" else "as_backbone",
            certainty=kind == "certainty",
        )
    folder = HOME / f"{kind}{quantised}"
    folder.mkdir()
    return model, deployed(model, folder, INT8 if quantised else None)


def every_exit(model, rows):
    with torch.inference_mode():
        outs = [model(torch.from_numpy(row[None])) for row in rows]
    sure = None if outs[0].certainty is None else torch.cat([out.certainty for out in outs]).numpy()
    return torch.cat([out.logits for out in outs]).numpy(), sure


def agree(model, runner, rule, threshold, rows, extra=0, size=None):
    """Compare graphs in a batch, or in a stream of batches of a size, with layers one by one; return the exits."""
    logits, sure = every_exit(model, rows)
    engine = Engine(model, rule, threshold, runner=runner)
    found = engine.run(padded(rows, extra)) if size is None else streamed(engine, size, rows, extra)
    near = engine.rule.near_threshold(logits, sure, threshold, TOLERANCE)
    exits = engine.rule.exit_indices(logits, sure, None, np.array([threshold]))[0]
    np.testing.assert_array_equal(found.exit_indices[~near], exits[~near])
    answers = logits[np.arange(len(rows)), found.exit_indices]
    np.testing.assert_allclose(found.logits, answers, rtol=0, atol=TOLERANCE)
    return found.exit_indices


def streamed(engine, size, rows, extra=0):
    """Return decisions on rows of a stream, in their order."""
    stream = Stream(engine, size, lambda parts: collated([item["ids"] for item in parts], extra))
    parts = list(stream.run({"ids": row, "length": len(row)} for row in rows))
    order = np.concatenate([item.places for item in parts]).argsort()
    logits = np.concatenate([item.decisions.logits for item in parts])[order]
    indices = np.concatenate([item.decisions.exit_indices for item in parts])[order]
    return Decisions(logits, indices, np.array(EXITS)[indices])


def collated(rows, extra):
    """A batch without a mask where it needs none."""
    batch = padded(rows, extra)
    return batch if (batch["attention_mask"] == 0).any() else {"input_ids": batch["input_ids"]}


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_answer_as_layers_do_at_any_length(kind):
    model, runner = pair(kind)
    lengths = (1, 2, 3, 30, 31, 120, model.backbone.longest(model.backbone.config))
    rows = [np.random.default_rng(length).integers(5, 60, length) for length in lengths]
    logits, sure = every_exit(model, rows)
    never = Engine(model, "fixed", None, runner=runner)
    with torch.inference_mode():
        full = [model(torch.from_numpy(row[None])).logits[:, -1].numpy() for row in rows]
    for place, row in enumerate(rows):
        run = runner.start({"input_ids": row[None]})
        for index in range(len(EXITS)):
            answer = run.advance(index, [index])[index]
            np.testing.assert_allclose(answer.logits[0], logits[place, index], rtol=0, atol=TOLERANCE)
            if sure is not None:
                np.testing.assert_allclose(answer.certainty[0], sure[place, index], atol=TOLERANCE)
        np.testing.assert_allclose(
            never.run({"input_ids": row[None]}).logits, full[place], rtol=0, atol=TOLERANCE
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["confidence", "patience"])
def test_rows_leave_where_they_leave_in_pytorch(kind, rule):
    model, runner = pair(kind)
    rows, taken = texts(24, 7), set()
    logits = every_exit(model, rows)[0]
    score = load_rule("confidence").score(logits[:, :-1])
    thresholds = (
        [1, 2] if rule == "patience" else [float(np.quantile(score, part)) + 1e-9 for part in (0.3, 0.8)]
    )
    for threshold in thresholds:
        taken |= set(agree(model, runner, rule, threshold, rows).tolist())
    assert len(taken) > 1


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(("bert", "mean", "mpnet", "deberta-v2")),
    rule=st.sampled_from(RULES),
    place=st.floats(0, 1),
    count=st.integers(1, 9),
    seed=st.integers(0, 10_000),
    extra=st.integers(0, 5),
)
def test_rows_do_not_see_their_batch(kind, rule, place, count, seed, extra):
    model, runner = pair(kind)
    grid = load_rule(rule).grid(3, 30, len(EXITS))
    agree(model, runner, rule, float(grid[round(place * (len(grid) - 1))]), texts(count, seed), extra)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rule=st.sampled_from(RULES),
    place=st.floats(0, 1),
    count=st.integers(1, 25),
    size=st.integers(1, 6),
    seed=st.integers(0, 10_000),
    extra=st.integers(0, 5),
)
def test_rows_of_a_stream_do_not_see_whom_they_are_merged_with(kind, rule, place, count, size, seed, extra):
    model, runner = pair(kind)
    grid = load_rule(rule).grid(3, 30, len(EXITS))
    threshold = float(grid[round(place * (len(grid) - 1))])
    before = len(runner.free)
    agree(model, runner, rule, threshold, texts(count, seed), extra, size)
    assert len(runner.free) <= max(before, 1)  # rows that wait hold no memory of the graphs


def test_in_int8_rows_of_a_stream_are_answered_in_batches():
    model, runner = pair("bert", quantised=True)
    engine, rows = Engine(model, "confidence", 0.6, runner=runner), texts(16, 4)
    assert not runner.merges
    alone = [engine.run({"input_ids": row[None]}) for row in rows]
    found = streamed(engine, 5, rows)
    np.testing.assert_array_equal(found.logits, np.concatenate([item.logits for item in alone]))


def test_a_rule_that_reads_certainty_finds_it():
    model, runner = pair("certainty")
    _, sure = every_exit(model, texts(24, 7))
    threshold = float(np.median(sure[:, :-1])) + 1e-9
    exits = agree(model, runner, "learning_to_exit", threshold, texts(24, 7))
    assert len(set(exits.tolist())) > 1


@pytest.mark.parametrize(
    ("rule", "threshold", "cuts"), [("patience", 2, (2, 3)), ("fixed", 1, (1, 3)), ("fixed", None, (3,))]
)
def test_graphs_are_cut_where_the_rule_can_decide_and_nowhere_else(rule, threshold, cuts, tmp_path):
    model = build()
    runner = deployed(model, tmp_path, rule=rule, threshold=threshold)
    assert runner.cuts == cuts
    assert len(list(tmp_path.glob("*.onnx"))) == len(cuts)
    if threshold is not None:
        agree(model, runner, rule, threshold, texts(24, 7))


def test_in_int8_a_row_of_a_batch_gets_bit_by_bit_what_it_gets_alone():
    model, runner = pair("bert", quantised=True)
    rows = texts(16, 4)
    logits, _ = every_exit(model, rows)
    threshold = float(np.median(load_rule("confidence").score(logits[:, :-1])))
    engine = Engine(model, "confidence", threshold, runner=runner)
    found, alone = engine.run(padded(rows)), [engine.run({"input_ids": row[None]}) for row in rows]
    assert len(set(found.exit_indices.tolist())) > 1
    np.testing.assert_array_equal(found.logits, np.concatenate([one.logits for one in alone]))
    np.testing.assert_array_equal(found.exit_indices, np.concatenate([one.exit_indices for one in alone]))
    answers = logits[np.arange(len(rows)), found.exit_indices]
    assert (
        np.abs(found.logits - answers).max() < 0.1 * np.abs(logits).max()
    )  # int8 was not skipped, nor did it break
    assert np.abs(found.logits - answers).max() > TOLERANCE


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_a_batch_without_rows_or_tokens_is_refused(shape):
    model, runner = pair("bert")
    for engine in (Engine(model, "confidence", 0.6), Engine(model, "confidence", 0.6, runner=runner)):
        with pytest.raises(UserError, match=f"a batch of {shape[0]} rows with {shape[1]} tokens"):
            engine.run({"input_ids": np.zeros(shape, np.int64)})


@pytest.mark.parametrize("quantised", [False, True])
def test_batches_of_one_runner_may_be_under_way_at_once(quantised):
    model, runner = pair("bert", quantised)
    engine = Engine(model, "confidence", 0.6, runner=runner)
    batches = [padded(texts(5, seed)) for seed in range(12)]
    expected = [engine.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(engine.run, batches))
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.exit_indices, two.exit_indices)
        np.testing.assert_array_equal(one.logits, two.logits)


def test_token_types_are_read():
    model, runner = pair("bert")
    ids, types = np.arange(5, 13)[None], np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
    engines = [Engine(model, "fixed", None), Engine(model, "fixed", None, runner=runner)]
    torch_, onnx = (engine.run({"input_ids": ids, "token_type_ids": types}).logits for engine in engines)
    np.testing.assert_allclose(onnx, torch_, atol=TOLERANCE)
    assert np.abs(onnx - engines[1].run({"input_ids": ids}).logits).max() > TOLERANCE
