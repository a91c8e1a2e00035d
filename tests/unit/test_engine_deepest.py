"""No row runs deeper than it is allowed to, and up to there nothing changes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_batches import CALIBRATION, EXITS, RULES, build

from adaptive_inference.engine import Engine
from adaptive_inference.engine.torch_runner import TorchRun
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule

MODELS = {}


def a_model():
    torch.set_num_threads(1)
    if not MODELS:
        MODELS["bert"] = build("bert")
    return MODELS["bert"]


@settings(max_examples=60)
@given(
    st.sampled_from(RULES),
    st.integers(0, len(EXITS) - 1),
    st.integers(0, 100),
    st.integers(1, 5),
    st.booleans(),
)
def test_rows_leave_where_the_rule_says_or_at_the_deepest_exit_with_the_answer_of_that_exit(
    rule, deepest, seed, rows, lazy
):
    draw, model, loaded = np.random.default_rng(seed), a_model(), load_rule(rule)
    grid = loaded.grid(3, 9, len(EXITS))
    threshold = float(grid[seed % len(grid)])
    ids = torch.from_numpy(draw.integers(5, 60, (rows, 7)))
    free = Engine(model, rule, threshold, CALIBRATION, lazy).run({"input_ids": ids})
    held = Engine(model, rule, threshold, CALIBRATION, lazy, deepest=deepest).run({"input_ids": ids})
    assert held.exit_indices.tolist() == np.minimum(free.exit_indices, deepest).tolist()
    forced = Engine(model, "fixed", float(deepest), CALIBRATION).run({"input_ids": ids})
    early = free.exit_indices <= deepest
    expected = np.where(early[:, None], free.logits, forced.logits)
    np.testing.assert_allclose(held.logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_no_layer_below_the_deepest_exit_is_run(monkeypatch):
    ran, advance = [], TorchRun.advance
    monkeypatch.setattr(
        TorchRun, "advance", lambda run, k, answers=(): ran.append(k) or advance(run, k, answers)
    )
    found = Engine(a_model(), "confidence", 1.01, deepest=1).run({"input_ids": torch.ones(1, 5, dtype=int)})
    assert (ran, found.exit_layers.tolist()) == ([0, 1], [2])


@pytest.mark.parametrize("deepest", [-1, 4])
def test_an_exit_that_is_not_there_is_refused(deepest):
    with pytest.raises(UserError, match=f"no exit of index {deepest}: those of this model are 0 to 3"):
        Engine(a_model(), "confidence", 0.5, deepest=deepest)
