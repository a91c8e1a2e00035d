"""When rows that left are taken out of a batch: where that is measured to be cheaper, and no answer depends on it."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_batches import Share, model_of
from test_engine_lazy import Labels, engine_over

from adaptive_inference.engine import Compaction
from adaptive_inference.engine.torch_runner import TorchRunner
from adaptive_inference.errors import UserError

#: A device that eight rows of ten tokens fill: below, a layer takes as long for fewer.
FILLED = Compaction((10, 80, 160), (1.0, 1.0, 2.0), (0.3, 0.3, 0.3))


@pytest.mark.parametrize(
    ("kept", "carried", "layers", "pays"),
    [
        (1, 8, 9, False),  # nothing is saved
        (8, 16, 1, True),
        (14, 16, 1, False),  # 2 rows of 16 are a quarter of a layer-second
        (14, 16, 2, True),
        (31, 32, 4, False),  # beyond what was measured, all is in proportion: an eighth a row and layer
        (31, 32, 5, True),
    ],
)
def test_it_pays_where_the_rows_that_left_cost_more_than_cutting_them_out(kept, carried, layers, pays):
    assert FILLED.pays(kept, carried, 10, layers) is pays


def test_costs_are_measured_where_a_runner_stops():
    model = model_of("bert")
    costs = Compaction.measure(TorchRunner(model, False), model.layers_cost, 6, 5, repeats=2)
    assert costs.tokens == (5, 10, 20, 30)
    assert min(costs.layer_seconds + costs.select_seconds) > 0
    assert list(costs.layer_seconds) == sorted(costs.layer_seconds)


class Timed(Labels):
    """Takes a second for each row of a segment, and half of one for each select, by a clock of its own."""

    clock = 0.0

    def start(self, features, alone=True):
        self.labels = np.zeros((len(features["input_ids"]), 5), int)
        return super().start(features)

    def advance(self, index, answers=()):
        self.clock += len(self.there)
        return super().advance(index, answers)

    def select(self, rows):
        self.clock += 0.5
        super().select(rows)


def test_what_is_measured_is_what_a_runner_takes(monkeypatch):
    runner = Timed([[0] * 5], cuts=(1, 3, 4))
    monkeypatch.setattr(time, "perf_counter", lambda: runner.clock)
    costs = Compaction.measure(runner, (1, 2, 3, 4, 5), 4, 10, repeats=2)
    assert costs == Compaction((10, 20, 40), (0.5, 1.0, 2.0), (0.5, 0.5, 0.5)), (
        "two layers lie between the cuts"
    )


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (5, 0)])
def test_nothing_to_run_is_refused(rows, columns):
    model = model_of("bert")
    with pytest.raises(UserError, match=f"{rows} x {columns} tokens"):
        Compaction.measure(TorchRunner(model, False), model.layers_cost, rows, columns)


def test_a_model_in_one_piece_is_refused():
    with pytest.raises(UserError, match="in one piece"):
        Compaction.measure(Labels([[0]]), (1,), 4, 10)


@settings(max_examples=200, deadline=None)
@given(
    labels=st.tuples(st.integers(1, 9), st.integers(1, 8), st.integers(0, 999)).map(
        lambda drawn: np.random.default_rng(drawn[2]).integers(0, 3, drawn[:2][::-1])
    ),
    rule=st.sampled_from(["patience", "voting", "fixed", "patience_confidence", "confidence"]),
    level=st.integers(1, 6),
    lazy=st.booleans(),
    together=st.booleans(),
    share=st.sampled_from([0.25, 1.0]),
)
def test_rows_that_left_never_change_their_answer(labels, rule, level, lazy, together, share):
    threshold = 0.75 if "confidence" in rule else float(level)
    batch = {"input_ids": np.zeros((len(labels), 4), int)}
    wanted = engine_over(Labels(labels, together), rule, threshold, lazy).run(batch)
    found = engine_over(Labels(labels, together), rule, threshold, lazy, Share(share)).run(batch)
    assert np.array_equal(found.exit_indices, wanted.exit_indices)
    assert np.array_equal(found.logits, wanted.logits)


def test_a_head_is_run_for_no_row_that_has_left():
    """A counted rule asks older exits for rows still there alone, whoever is carried beside them."""
    alone = Labels([[0, 1, 0, 1, 0, 1, 0, 1]])
    engine_over(alone, "patience", 2.0).run({"input_ids": [[0]]})
    carried = Labels([[0, 1, 0, 1, 0, 1, 0, 1], [0] * 8])
    engine_over(carried, "patience", 2.0, compaction=Share(1.0)).run({"input_ids": [[0], [0]]})
    assert set(carried.heads) - set(alone.heads) <= {0, 1, 2}, "of the look at which the second row left"
