"""Heads are left out where no decision can fall, and nothing else changes."""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.engine import Engine
from adaptive_inference.engine.runner import Answer
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.schema import Schema

CLASSES = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)
SCORES = Schema("tiny", "regression", None, "pearson", 32)
RULES = {  # and thresholds
    "patience": range(8),
    "patience_confidence": (0.5, 0.9, 0.97, 1.01),
    "patience_confidence(patience=1)": (0.5, 0.9),
    "patience_confidence(patience=3)": (0.9, 0.97, 1.01),
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def build(exits=(1, 2, 3, 4), schema=CLASSES, read="first", seed=0, family="bert"):
    section = Backbone(weights=f"random:{family}", exits=list(exits), read=read)
    model = build_model(section, schema, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in model.heads:
            head.classifier.weight.normal_(0, 0.5, generator=generator)
    model.schema = schema
    return model


def rows(count=16, seed=3, padded=False):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 14, (count,), generator=generator).tolist()
    found = [{"input_ids": torch.randint(5, 60, (1, length), generator=generator)} for length in lengths]
    if padded:
        for row in found:
            mask = torch.ones_like(row["input_ids"])
            mask[:, -1] = 0
            row["attention_mask"] = mask
    return found


def count_heads(model):
    """Return the list to which every run of a head adds its exit."""
    ran = []
    for member in getattr(model, "members", [model]):
        for index, head in enumerate(member.heads):
            head.classifier.register_forward_hook(lambda *_, index=index: ran.append(index))
    return ran


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("read", "padded"), [("first", False), ("mean", False), ("mean", True)])
def test_exits_and_logits_are_those_of_the_engine_that_runs_every_head(rule, read, padded):
    """Properties 2 and 3 of the PABEE/LeeBERT note, bit for bit."""
    model = build(read=read)
    data, ran, taken = rows(padded=padded), count_heads(model), set()
    fewer = 0
    for threshold in RULES[rule]:
        lazy, plain = (Engine(model, rule, threshold, lazy=lazy) for lazy in (True, False))
        for row in data:
            ran.clear()
            expected = plain.run(row)
            every = list(ran)
            ran.clear()
            found = lazy.run(row)
            exit_ = expected.exit_indices.item()
            assert found.exit_indices.item() == exit_
            assert np.array_equal(found.logits, expected.logits)
            assert every == list(range(exit_ + 1))
            assert len(set(ran)) == len(ran), "no head runs twice"
            assert len(ran) <= len(every)
            fewer += len(ran) < len(every)
            taken.add(exit_)
            with torch.inference_mode():
                assert np.allclose(found.logits, model(**row).logits[:, exit_], atol=1e-6)
    assert (fewer > 0) == (rule != "patience_confidence(patience=1)"), "with 1, each exit decides by itself"
    assert len(taken) > 1


@pytest.mark.parametrize(
    ("rule", "thresholds"), [("patience", (1, 2)), ("patience_confidence", (0.6, 0.8, 0.9, 0.97))]
)
def test_fetching_a_whole_look_at_once_changes_nothing_either(rule, thresholds):
    """What the engine does where each fetch waits for the device."""
    model, calibration = build(), {"temperatures": [1.3, 0.8, 2.0, 0.5]}
    answers = []
    for together in (False, True):
        engines = [Engine(model, rule, threshold, calibration) for threshold in thresholds]
        for engine in engines:
            engine.runner.waits = together
        answers.append([engine.run(row) for engine in engines for row in rows()])
    assert len({answer.exit_indices.item() for answer in answers[0]}) > 1
    for one, all_at_once in zip(*answers, strict=True):
        assert one.exit_indices == all_at_once.exit_indices
        assert np.array_equal(one.logits, all_at_once.logits)


@pytest.mark.parametrize("threshold", [0, 4, 9, 3])
def test_full_depth_runs_the_last_head_only(threshold):
    model = build()
    ran = count_heads(model)
    assert Engine(model, "patience", threshold).run(rows(1)[0]).exit_indices == [3]
    assert ran == [3]


@pytest.mark.parametrize("family", ["albert", "deberta-v2"])
def test_other_backbones_and_a_cascade_agree_too(family):
    for model in (build(family=family), MultiModel([build([layer], family=family) for layer in (1, 2, 4)])):
        for threshold in (1, 2):
            for row in rows(6):
                lazy, plain = (
                    Engine(model, "patience", threshold, lazy=lazy).run(row) for lazy in (True, False)
                )
                assert (lazy.exit_indices, lazy.exit_layers) == (plain.exit_indices, plain.exit_layers)
                assert np.array_equal(lazy.logits, plain.logits)


def test_scores_leave_when_they_agree_within_the_tolerance():
    model, taken = build(schema=SCORES), set()
    for tolerance in (0.05, 0.2, 0.5):
        rule = f"patience(tolerance={tolerance})"
        for threshold in (1, 2, 3):
            for row in rows():
                lazy, plain = (Engine(model, rule, threshold, lazy=lazy).run(row) for lazy in (True, False))
                assert lazy.exit_indices == plain.exit_indices
                assert np.array_equal(lazy.logits, plain.logits)
                with torch.inference_mode():
                    scores = model(**row).logits.double().numpy()
                offline = load_rule(rule).exit_indices(scores, None, None, np.array([threshold]))
                assert lazy.exit_indices == offline[0]
                taken.add(lazy.exit_indices.item())
    assert taken == {1, 2, 3}


def test_an_engine_that_counts_nothing_in_a_row_runs_every_head():
    model = build()
    ran = count_heads(model)
    for rule, threshold in (("voting", 3), ("confidence", 1.01)):
        ran.clear()
        index = Engine(model, rule, threshold).run(rows(1)[0]).exit_indices.item()
        assert ran == list(range(index + 1))


class Labels:
    """A runner whose rows answer label (B, E) at each exit, the surer the greater the label; counts what is asked."""

    looks_back, merges, survivors = True, False, None

    def __init__(self, labels, waits=False, cuts=None):
        self.labels, self.waits = np.asarray(labels), waits
        self.cuts = cuts or tuple(range(self.labels.shape[1]))
        self.heads, self.fetches = [], []

    def inference(self):
        return contextlib.nullcontext()

    def start(self, features, alone=True):
        self.there, self.at, self.held = self.labels, -1, set()
        return self

    def single(self, features, ascending):
        return One(self.start(features))

    def advance(self, index, answers=()):
        assert index in self.cuts
        assert index > self.at
        self.held |= set(range(self.at + 1, index + 1))
        self.at = index
        return self.answer(answers) if answers else {}

    def answer(self, indices):
        self.fetches.append(len(indices))
        self.heads.extend(indices)
        self.release(indices)
        return {k: Answer(np.eye(3)[self.there[:, k]] * (1 + self.there[:, [k]])) for k in indices}

    def release(self, indices):
        assert set(indices) <= self.held
        self.held -= set(indices)

    def select(self, rows):
        self.there = self.there[rows]


class One:
    """The only row of `Labels`, as a `Single`."""

    survivors = None

    def __init__(self, runner):
        self.runner, self.found = runner, {}

    def advance(self, index):
        if index > self.runner.at:
            self.runner.held |= set(range(self.runner.at + 1, index + 1))
            self.runner.at = index

    def answer(self, index):
        if index not in self.found:
            self.advance(index)
            self.found[index] = self.runner.answer([index])[index].logits[0].tolist()
        return self.found[index], None

    def forget(self, oldest):
        self.runner.release([k for k in self.runner.held if k < oldest])

    def close(self):
        pass


def engine_over(runner, rule, threshold, lazy=True, compaction=None):
    exits = tuple(range(1, runner.labels.shape[1] + 1))
    model = SimpleNamespace(
        exits=exits, layers_cost=exits, schema=None, calibration=None, has_certainty=False
    )
    return Engine(model, rule, threshold, lazy=lazy, runner=runner, compaction=compaction)


def walk(labels, rule, threshold, together):
    """Return exit, heads run and fetches for one row's sequence of labels."""
    runner = Labels([labels], together)
    index = engine_over(runner, rule, threshold).run({"input_ids": [0]}).exit_indices.item()
    return index, runner.heads, runner.fetches


@settings(max_examples=200, deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    t=st.integers(0, 12),
    together=st.booleans(),
    counts_sure=st.booleans(),
)
def test_any_sequence_of_answers_leaves_at_the_same_exit(labels, t, together, counts_sure):
    if counts_sure:
        rule, at = load_rule(f"patience_confidence(patience={max(t, 1)})"), 0.75  # label 0 is unsure
    else:
        rule, at = load_rule("patience"), float(t)
    logits = (np.eye(3)[labels] * (1 + np.array(labels))[:, None])[None]
    expected = rule.exit_indices(logits, None, None, np.array([at]))[0, 0]
    index, heads, fetches = walk(labels, rule, at, together)
    assert index == expected
    assert len(set(heads)) == len(heads)
    assert set(heads) <= set(range(index + 1))
    assert (index == len(labels) - 1) == (len(labels) - 1 in heads)
    assert len(fetches) <= len(heads)


@settings(max_examples=300, deadline=None)
@given(
    labels=st.integers(1, 9).flatmap(
        lambda exits: st.lists(
            st.lists(st.integers(0, 2), min_size=exits, max_size=exits), min_size=1, max_size=6
        )
    ),
    rule=st.sampled_from(
        [
            "patience",
            "patience_confidence(patience=3)",
            "patience_confidence",
            "voting",
            "confidence",
            "fixed",
        ]
    ),
    level=st.integers(1, 9),
    lazy=st.booleans(),
    together=st.booleans(),
    data=st.data(),
)
def test_rows_of_any_batch_leave_where_the_sweep_says_whatever_the_cuts(
    labels, rule, level, lazy, together, data
):
    labels, rule = np.array(labels), load_rule(rule)
    threshold = 0.75 if rule.name.startswith(("patience_confidence", "confidence")) else float(level)
    last = labels.shape[1] - 1
    cuts = sorted({*data.draw(st.sets(st.integers(0, last))), last})  # a runner may stop at some exits alone
    runner = Labels(labels, together, tuple(cuts))
    found = engine_over(runner, rule, threshold, lazy).run({"input_ids": labels})
    logits = np.eye(3)[labels] * (1 + labels[..., None])
    expected = rule.exit_indices(logits, None, None, np.array([threshold]))[0]
    assert found.exit_indices.tolist() == expected.tolist()
    assert found.exit_layers.tolist() == (expected + 1).tolist()
    assert np.array_equal(found.logits, logits[np.arange(len(labels)), expected])
    assert len(set(runner.heads)) == len(runner.heads)


@pytest.mark.parametrize("together", [False, True])
def test_states_that_no_row_can_ask_for_are_released(together):
    """Of a patience of 2, at most the last broken exit and the two after it are held."""
    runner = Labels(np.random.default_rng(0).integers(0, 3, (5, 40)), together)
    most, advance = [], runner.advance

    def watched(*given):
        most.append(len(runner.held))
        return advance(*given)

    runner.advance = watched
    engine_over(runner, "patience", 2.0).run({"input_ids": runner.labels})
    assert max(most) <= 3
    runner = Labels(runner.labels)
    engine_over(runner, "patience", 40.0).run({"input_ids": runner.labels})
    assert (runner.held, runner.heads) == (set(), [39])


def test_looks_are_few_and_go_backwards():
    constant, patience = [1] * 12, load_rule("patience")
    assert walk(constant, patience, 4.0, False) == (4, [4, 3, 2, 1, 0], [1] * 5)
    assert walk(constant, patience, 4.0, True) == (4, [0, 1, 2, 3, 4], [5])
    # the break at 3|4 is found from exit 4 (index), so 0 to 2 are never asked; the next look is at index 8
    late = [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
    assert walk(late, patience, 4.0, False) == (8, [4, 3, 8, 7, 6, 5], [1] * 6)
    assert walk(late, patience, 4.0, True) == (8, [0, 1, 2, 3, 4, 5, 6, 7, 8], [5, 4])
    assert walk(constant, patience, 11.0, False) == (11, [11], [1])


def test_a_patience_that_can_never_fire_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING, "adaptive_inference"):
        Engine(build(), "patience", 3)
        assert caplog.text == ""
        engine = Engine(build(), "patience", 4)
    assert "exit rule patience at threshold 4 can never fire with 4 exits" in caplog.text
    assert engine.run(rows(1)[0]).exit_indices == [3]


@pytest.mark.parametrize(
    ("schema", "rule", "threshold", "message"),
    [
        (CLASSES, "patience", None, "needs a threshold"),
        (CLASSES, "patience", 1.5, "whole number"),
        (CLASSES, "voting", 0, "whole number from 1"),
        (SCORES, "voting", 2, "regression task"),
        (SCORES, "patience(tolerance=0)", 2, "never fires on a regression task"),
    ],
)
def test_a_counter_that_cannot_work_is_refused_before_any_row(schema, rule, threshold, message):
    with pytest.raises(UserError, match=message):
        Engine(build(schema=schema), rule, threshold)
