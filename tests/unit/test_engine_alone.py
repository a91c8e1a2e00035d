"""One row by itself: plain numbers give what arrays give, and no exit is asked that decides nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx_deployments import build, deployed

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.engine import Engine
from adaptive_inference.engine.torch_runner import TorchRun, TorchRunner
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import OnlineRule, ScoreRule, load_rule

RULES = (
    "confidence", "entropy", "margin", "uncertainty", "patience", "patience_confidence(patience=2)", "voting",
    "learning_to_exit", "fixed",
)  # fmt: skip
EXITS = 5
LOGITS = arrays.arrays(np.float32, (EXITS, 3), elements=st.floats(-6, 6, width=32))
CERTAINTY = arrays.arrays(np.float64, EXITS, elements=st.floats(0, 1))
BATCH = {"input_ids": np.array([[7, 31, 12, 5, 9, 44]])}


def _first(leave):
    return next((k for k in range(EXITS - 1) if leave(k)), EXITS - 1)


@pytest.mark.parametrize("name", RULES)
@given(logits_EC=LOGITS, certainty_E=CERTAINTY, data=st.data())
def test_plain_numbers_leave_where_arrays_do(name, logits_EC, certainty_E, data):
    rule = load_rule(name)
    threshold = float(data.draw(st.sampled_from(list(rule.grid(3, 20, EXITS)))))
    rows = logits_EC.astype(np.float64)
    near = rule.near_threshold(rows[None], certainty_E[None], threshold, 1e-9)[0]
    batch, one = rule.online(threshold), rule.online(threshold)
    expected = _first(lambda k: batch.leave(k, rows[k : k + 1], certainty_E[k : k + 1])[0])
    found = _first(lambda k: one.leave_one(k, rows[k].tolist(), float(certainty_E[k])))
    assert near or found == expected


@settings(max_examples=30)
@given(logits_EC=arrays.arrays(np.float32, (EXITS, 1), elements=st.floats(-2, 2, width=32)))
def test_scores_hold_alike(logits_EC):
    rule, rows = load_rule("patience(tolerance=0.5)"), logits_EC.astype(np.float64)
    if rule.near_threshold(rows[None], None, 2.0, 1e-9)[0]:
        return
    batch, one = rule.online(2.0), rule.online(2.0)
    expected = _first(lambda k: batch.leave(k, rows[k : k + 1])[0])
    assert _first(lambda k: one.leave_one(k, rows[k].tolist())) == expected


def test_a_rule_that_says_nothing_of_one_row_is_asked_with_arrays():
    class Sums(type(load_rule("confidence"))):
        """Made of one that says something."""

        def score(self, logits, certainty=None):
            return logits.sum(-1)

    class Never(type(load_rule("patience").online(1.0))):
        def holds(self, older, newer):
            return np.zeros(len(newer), bool)

    rule = Sums().online(2.0)
    assert rule.leave_one(0, [1.0, 1.5])
    assert not rule.leave_one(0, [1.0, 0.5])
    never = Never(load_rule("patience"), 1.0)
    assert not any(never.leave_one(k, [1.0, 0.0]) for k in range(3))


def test_a_rule_that_compares_otherwise_is_refused():
    with pytest.raises(
        UserError, match=r"`fires` of exit rule Strict is .*greater.*; allowed: numpy.greater_equal"
    ):

        class Strict(ScoreRule):
            fires = np.greater


@pytest.mark.parametrize("name", ["patience", "voting"])
def test_what_is_no_number_wins_as_it_does_in_arrays(name):
    rows = np.array([[1, np.nan, 0], [1, 0, 0], [0, np.nan, 1], [np.nan, 2, np.nan], [0, 1, 0]])
    for threshold in (1.0, 2.0):
        batch, one = load_rule(name).online(threshold), load_rule(name).online(threshold)
        expected = _first(lambda k, rule=batch: rule.leave(k, rows[k : k + 1])[0])
        assert _first(lambda k, rule=one: rule.leave_one(k, rows[k].tolist())) == expected


def test_a_rule_that_remembers_without_saying_so_starts_anew_with_each_row(model):
    """One of a user's own, who never thought of batches."""

    class Second(OnlineRule):
        asked = 0

        def leave(self, k, logits, certainty=None):
            self.asked += 1
            return np.full(len(logits), self.asked == 2)

    class Rule(type(load_rule("voting"))):
        def online(self, threshold):
            return Second()

    engine = Engine(model, Rule(), 1.0, Calibrator.identity(4))
    assert [engine.run(BATCH).exit_indices.item() for _ in range(3)] == [1, 1, 1]


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return build(certainty=True)


@pytest.fixture(scope="module")
def runners(model, tmp_path_factory):
    return {
        "torch": TorchRunner(model, True),
        "onnx": deployed(model, tmp_path_factory.mktemp("graphs"), rule="confidence", threshold=0.5),
    }


@pytest.mark.parametrize("backend", ["torch", "onnx"])
@pytest.mark.parametrize("name", RULES)
def test_a_row_gets_what_it_gets_beside_another(model, runners, backend, name):
    """Two rows are a batch, which goes another way through the engine."""
    rule, generator = load_rule(name), np.random.default_rng(0)
    calibrator = Calibrator((0.7, 1.3, 0.9, 1.0), (0.1,) * 4, (0.9,) * 4)
    for threshold in rule.grid(3, 6, 4):
        engine = Engine(model, rule, float(threshold), calibrator, runner=runners[backend])
        for _ in range(3):
            ids = generator.integers(1, model.vocabulary if hasattr(model, "vocabulary") else 50, (1, 6))
            alone, beside = engine.run({"input_ids": ids}), engine.run({"input_ids": ids.repeat(2, 0)})
            assert alone.exit_indices.tolist() == beside.exit_indices[:1].tolist()
            assert alone.exit_layers.tolist() == beside.exit_layers[:1].tolist()
            assert np.allclose(alone.logits, beside.logits[:1], atol=1e-5)
            assert alone.logits.dtype == beside.logits.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "threshold", "asked"),
    [
        ("fixed", 2.0, [2]),
        ("fixed", None, [3]),
        ("fixed", np.inf, [3]),
        ("fixed", -1.0, [0]),
        ("confidence", 1.01, [0, 1, 2, 3]),
        ("patience", 3.0, [3]),
    ],
)
def test_no_head_runs_that_decides_nothing(model, monkeypatch, name, threshold, asked):
    """A patience of 3 cannot end before the last of four exits, the first of which has none to compare with."""
    seen, answer = [], TorchRun.answer_one

    def counted(run, index):
        seen.append(index)
        return answer(run, index)

    monkeypatch.setattr(TorchRun, "answer_one", counted)
    Engine(model, name, threshold, Calibrator.identity(4)).run(BATCH)
    assert seen == asked


@pytest.mark.parametrize(
    ("name", "threshold", "most"), [("fixed", None, 1), ("confidence", 1.01, 1), ("patience", 1.0, 2)]
)
def test_states_that_nobody_will_ask_for_are_let_go(model, monkeypatch, name, threshold, most):
    held, advance = [], TorchRun.advance

    def watched(run, index, answers=()):
        found = advance(run, index, answers)
        held.append(len(run._forward._own))
        return found

    monkeypatch.setattr(TorchRun, "advance", watched)
    Engine(model, name, threshold, Calibrator.identity(4)).run(BATCH)
    assert max(held) <= most + 1


def test_memory_goes_back_also_after_an_error(model, runners, monkeypatch):
    runner = runners["onnx"]
    engine = Engine(model, "confidence", 1.01, Calibrator.identity(4), runner=runner)
    engine.run(BATCH)
    free = len(runner.free)

    def fails(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        broken = type("Session", (), {"run_with_iobinding": fails})()
        patch.setattr(runner, "sessions", [runner.sessions[0], broken, *runner.sessions[2:]])
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.run(BATCH)
    assert len(runner.free) == free
    assert engine.run(BATCH).exit_indices.tolist() == [3]


def test_answers_are_nobody_elses(model, runners):
    engine = Engine(model, "confidence", 0.5, Calibrator.identity(4), runner=runners["onnx"])
    first = engine.run(BATCH)
    kept = first.logits.copy()
    engine.run({"input_ids": BATCH["input_ids"] + 1})
    assert np.array_equal(first.logits, kept)
    with pytest.raises(ValueError, match="read-only"):
        first.exit_indices[0] = 3
