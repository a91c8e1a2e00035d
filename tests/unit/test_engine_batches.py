"""A row gets the label, the probabilities and the exit that it gets alone, whatever batch it is in."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_batches import padded, texts

from adaptive_inference.engine import Engine
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

CLASSES = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)
SCORES = Schema("tiny", "regression", None, "pearson", 32)
EXITS = (1, 2, 3, 4)
CALIBRATION = {
    "temperatures": [1.3, 0.8, 1.0, 0.5],
    "certainty_min": [0.3, 0.3, 0.2, 0.2],
    "certainty_max": [0.7, 0.7, 0.8, 0.8],
}
RULES = (
    "confidence",
    "entropy",
    "margin",
    "voting",
    "patience",
    "patience_confidence",
    "learning_to_exit",
    "fixed",
)
FAMILIES = ("bert", "roberta", "distilbert", "albert", "deberta", "deberta-v2", "mpnet")
KINDS = (*FAMILIES, "mean", "attention", "cascade")
CASES = [
    (kind, rule) for kind in KINDS for rule in RULES if (kind, rule) != ("attention", "learning_to_exit")
]
TOLERANCE = 1e-5  # of the largest logit


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def build(family="bert", exits=EXITS, read="first", inner="as_backbone", schema=CLASSES):
    section = Backbone(weights=f"random:{family}", exits=list(exits), read=read)
    model = build_model(section, schema, 0, certainty=inner != "attention", inner_head=inner).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # untrained heads are all but undecided: make scores differ from row to row
        for head in model.heads:
            head.classifier.weight.normal_(0, 0.5, generator=generator)
        for head in model.certainty_heads or []:
            head.weight.normal_(0, 0.2, generator=generator)
    model.schema = schema
    return model


@functools.cache
def model_of(kind):
    """A family, or one of the other kinds of model."""
    if kind == "cascade":
        return MultiModel([build(exits=(layer,)) for layer in EXITS])
    if kind in FAMILIES:
        return build(kind)
    return build(read="mean", inner="attention" if kind == "attention" else "as_backbone")


def one_by_one(model, calibrator, rows):
    """Return raw and calibrated logits, and calibrated certainties, of all exits, of rows alone."""
    with torch.inference_mode():
        outs = [model(torch.from_numpy(row[None])) for row in rows]
    raw = torch.cat([out.logits for out in outs]).numpy()
    sure = None if outs[0].certainty is None else torch.cat([out.certainty for out in outs]).numpy()
    return raw, calibrator.logits(raw), calibrator.certainty(sure)


def compare(engine, rows, singles, extra=0):
    """Compare a batch with its rows alone; return which are left out as near a threshold or tie, and the exits."""
    raw, logits, sure = singles
    rule, threshold, tolerance = engine.rule, engine.threshold, TOLERANCE * np.abs(raw).max()
    found = engine.run(padded(rows, extra))
    near = rule.near_threshold(logits, sure, threshold, 4 * tolerance)
    exits = rule.exit_indices(logits, sure, None, np.array([threshold]))[0]
    np.testing.assert_array_equal(found.exit_indices[~near], exits[~near])
    answers = raw[np.arange(len(rows)), found.exit_indices]
    np.testing.assert_allclose(found.logits, answers, rtol=0, atol=tolerance)
    assert found.exit_layers.tolist() == [engine.model.exits[index] for index in found.exit_indices]
    return near, found.exit_indices


@pytest.mark.parametrize(("kind", "rule"), CASES)
def test_a_batch_of_32_equals_32_single_rows(kind, rule):
    model, rows, taken, near = model_of(kind), texts(32, 7), set(), 0
    engines = [Engine(model, rule, float(t), CALIBRATION) for t in load_rule(rule).grid(3, 7, len(EXITS))]
    singles = one_by_one(model, engines[0].calibrator, rows)
    for engine in engines:
        left_out, exits = compare(engine, rows, singles)
        near += left_out.sum()
        taken |= set(exits.tolist())
    assert near <= 0.1 * len(rows) * len(engines)  # certainties that were clipped to a threshold lie at it
    assert len(taken) > 1


class Share:
    """Takes rows out where more than a share of those that are carried has left."""

    def __init__(self, share):
        self.share = share

    def pays(self, kept, carried, columns, layers):
        assert 0 < kept < carried
        assert min(columns, layers) > 0
        return carried - kept > self.share * carried


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(CASES),
    place=st.floats(0, 1),
    lazy=st.booleans(),
    waits=st.booleans(),
    count=st.integers(1, 9),
    seed=st.integers(0, 10_000),
    extra=st.integers(0, 5),
    compaction=st.sampled_from(["at once", "never", "where a third has left"]),
)
def test_rows_do_not_see_their_batch(case, place, lazy, waits, count, seed, extra, compaction):
    """Nor those that have left and are carried on."""
    kind, rule = case
    grid = load_rule(rule).grid(3, 30, len(EXITS))
    engine = Engine(model_of(kind), rule, float(grid[round(place * (len(grid) - 1))]), CALIBRATION, lazy)
    if compaction != "at once":
        engine.compaction = Share(1 / 3 if compaction.startswith("where") else 1.0)
    engine.runner.waits = waits
    rows = texts(count, seed)
    near, exits = compare(engine, rows, one_by_one(engine.model, engine.calibrator, rows), extra)
    for row, is_near, index in zip(rows, near, exits, strict=True):
        assert is_near or engine.run({"input_ids": row[None]}).exit_indices == [index]


def test_scores_too():
    model, rows, taken = build(schema=SCORES), texts(24, 3), set()
    for rule, threshold in (("patience(tolerance=1.0)", 1), ("patience(tolerance=1.0)", 2), ("fixed", 2)):
        engine = Engine(model, rule, threshold)
        near, exits = compare(engine, rows, one_by_one(model, engine.calibrator, rows))
        assert near.sum() <= 1
        taken |= set(exits.tolist())
    assert len(taken) > 2


@pytest.mark.parametrize("kind", ["bert", "cascade"])
def test_rows_that_have_left_are_computed_no_more(kind):
    model = build() if kind == "bert" else MultiModel([build(exits=(layer,)) for layer in EXITS])
    computed = []
    for module in model.modules():
        if type(module).__name__ == "BertIntermediate":  # called once a layer, with the state
            module.register_forward_hook(lambda _, inputs, __: computed.append(inputs[0].shape[:2]))
    rows = texts(24, 5)
    found = Engine(model, "confidence", 0.7, CALIBRATION).run(padded(rows))
    costs = np.array(model.layers_cost)[found.exit_indices]
    assert sum(count for count, _ in computed) == costs.sum()
    last = [len(row) for row, index in zip(rows, found.exit_indices, strict=True) if index == len(EXITS) - 1]
    assert computed[-1] == (len(last), max(last)), "nor is padding that only they needed"
    assert max(last) < max(map(len, rows)), "or the line above says nothing"


def test_an_unpadded_batch_makes_no_mask_and_a_mask_of_ones_is_none(monkeypatch):
    import adaptive_inference.backbones.base as base

    monkeypatch.setattr(base, "create_bidirectional_mask", lambda **_: pytest.fail("mask work"))
    ids = np.random.default_rng(0).integers(5, 60, (6, 9))
    engine = Engine(build(), "confidence", 0.7)
    bare, masked = (engine.run({"input_ids": ids} | more) for more in ({}, {"attention_mask": ids > 0}))
    assert len(set(bare.exit_indices.tolist())) > 1
    assert np.array_equal(bare.logits, masked.logits)


def test_a_batch_padded_on_the_left_keeps_all_its_tokens():
    model, rows = model_of("mean"), [np.arange(5, 5 + length) for length in (3, 7, 9, 5)]
    batch = {name: item[:, ::-1].copy() for name, item in padded([row[::-1] for row in rows]).items()}
    with torch.inference_mode():
        every = model(**{name: torch.from_numpy(item) for name, item in batch.items()}).logits.numpy()
    rule = load_rule("confidence")
    exits = rule.exit_indices(every, None, None, np.array([0.7]))[0]
    found = Engine(model, rule, 0.7).run(batch)
    assert len(set(exits.tolist())) > 1
    assert found.exit_indices.tolist() == exits.tolist()
    np.testing.assert_allclose(found.logits, every[np.arange(4), exits], atol=1e-5 * np.abs(every).max())


def test_batches_of_one_engine_may_be_under_way_at_once():
    """An engine keeps nothing of a batch: a server's threads may share one."""
    from concurrent.futures import ThreadPoolExecutor

    engine = Engine(model_of("bert"), "patience", 2, CALIBRATION)
    batches = [padded(texts(5, seed)) for seed in range(12)]
    expected = [engine.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(engine.run, batches))
    for one, two in zip(expected, found, strict=True):
        assert np.array_equal(one.exit_indices, two.exit_indices)
        assert np.array_equal(one.logits, two.logits)
