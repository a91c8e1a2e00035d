"""CALM's calibration: losses prompt by prompt, the walk down the grid, and the promise on losses of known risk."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from synthetic_records import PROJECT

from adaptive_inference.calibration.risk_control import fixed_sequence, hoeffding_bentkus
from adaptive_inference.errors import UserError
from adaptive_inference.generation.consistency import (
    certified_threshold,
    check_prompts,
    risk_losses,
    textual_losses,
)


def overlap(text: str, references) -> float:
    """Share of the words of the best reference that a text holds: a score to be worked out by hand."""
    words = text.split()
    return max(np.mean([word in words for word in reference.split()]) for reference in references)


def some_lost(*counts: int, n: int = 100) -> np.ndarray:
    return np.array([[1.0] * count + [0.0] * (n - count) for count in counts])


class TestLosses:
    FULL = ("a b c d", "a b", "x")
    EARLY = (("a b c d", "a b", "x"), ("a b", "a c", "y"))

    def test_textual_compares_with_the_full_output_and_needs_no_reference(self):
        losses = textual_losses(self.EARLY, self.FULL, overlap)
        assert losses.tolist() == [[0, 0, 0], [0.5, 0.5, 1.0]]

    def test_risk_is_what_is_lost_against_the_references_never_below_0(self):
        references = [["a b c d"], ["a c", "a b"], ["y"]]
        losses = risk_losses(self.EARLY, self.FULL, references, overlap)
        # prompt 2 has another reference that the early output meets as well; prompt 3 is won, which buys nothing back
        assert losses.tolist() == [[0, 0, 0], [0.5, 0, 0]]

    def test_clipping_the_mean_would_certify_what_clipping_each_prompt_does_not(self):
        # Half of the prompts are lost and half are won: the mean difference is 0, yet half of the outputs are worse.
        full = ["right"] * 40 + ["wrong"] * 40
        early = ["wrong"] * 40 + ["right"] * 40
        references = [["right"]] * 80
        losses = risk_losses([early], full, references, overlap)
        unclipped = np.mean([overlap(one, ["right"]) for one in full]) - np.mean(
            [overlap(one, ["right"]) for one in early]
        )
        assert max(0.0, unclipped) == 0.0
        assert losses.mean() == 0.5
        assert hoeffding_bentkus(0.0, 80, 0.1) <= 0.05  # what the mean clipped would have passed
        assert certified_threshold([0.5], losses, 0.1, 0.05).threshold == 1.0

    @given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
    def test_risk_losses_lie_between_0_and_1_and_average_to_at_least_the_mean_difference(self, pairs):
        table = {f"full{i}": full for i, (full, _) in enumerate(pairs)}
        table |= {f"early{i}": early for i, (_, early) in enumerate(pairs)}
        numbers = range(len(pairs))
        losses = risk_losses(
            [[f"early{i}" for i in numbers]],
            [f"full{i}" for i in numbers],
            [["reference"]] * len(pairs),
            lambda text, _: table[text],
        )
        assert ((losses >= 0) & (losses <= 1)).all()
        full, early = np.array(pairs).T
        assert losses.mean() >= full.mean() - early.mean() - 1e-12

    def test_outputs_of_other_prompts_and_scores_outside_0_1_are_refused(self):
        with pytest.raises(UserError, match="2 outputs and 3 references"):
            textual_losses([["a", "b"]], self.FULL, overlap)
        with pytest.raises(UserError, match=r"outside \[0, 1\].*divide BLEU by 100"):
            textual_losses(self.EARLY, self.FULL, lambda *_: 37.0)
        with pytest.raises(UserError, match="outside"):
            risk_losses(self.EARLY, self.FULL, [["a"]] * 3, lambda *_: float("nan"))


class TestWalk:
    GRID = (0.9, 0.6, 0.3)

    def test_it_returns_the_lowest_threshold_of_an_unbroken_walk(self):
        found = certified_threshold(self.GRID, some_lost(0, 2, 20), 0.1, 0.05)
        assert (found.threshold, found.passed, found.rows, found.stopped_at) == (0.6, 2, 100, 0.3)
        assert found.risk == 0.02
        assert found.p_value == pytest.approx(float(hoeffding_bentkus(0.02, 100, 0.1)))
        assert found.p_value <= 0.05

    def test_a_lower_threshold_that_would_pass_is_not_reached_over_one_that_fails(self):
        assert certified_threshold(self.GRID, some_lost(0, 20, 0), 0.1, 0.05).threshold == 0.9

    def test_the_full_model_is_returned_where_the_first_fails(self):
        found = certified_threshold(self.GRID, some_lost(20, 0, 0), 0.1, 0.05)
        assert (found.threshold, found.passed, found.risk, found.p_value) == (1.0, 0, 0.0, None)
        assert found.stopped_at == 0.9

    def test_all_may_pass(self):
        found = certified_threshold(self.GRID, some_lost(0, 0, 0), 0.1, 0.05)
        assert (found.threshold, found.stopped_at) == (0.3, None)

    @given(st.permutations(range(6)), st.lists(st.integers(0, 30), min_size=6, max_size=6))
    @settings(deadline=None)
    def test_the_order_in_which_the_grid_is_given_changes_nothing(self, order, counts):
        grid, losses = np.linspace(0.1, 0.95, 6), some_lost(*counts)
        assert certified_threshold(grid, losses, 0.1, 0.05) == certified_threshold(
            grid[list(order)], losses[list(order)], 0.1, 0.05
        )

    @given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
    @settings(deadline=None)
    def test_a_looser_promise_never_returns_a_higher_threshold(self, counts, one, other):
        strict, loose = sorted((one, other))
        grid, losses = np.linspace(0.95, 0.1, len(counts)), some_lost(*counts)
        at = [certified_threshold(grid, losses, delta, 0.05).threshold for delta in (strict, loose)]
        assert at[1] <= at[0]

    @pytest.mark.parametrize(
        ("grid", "losses", "delta", "match"),
        [
            ((), some_lost(0), 0.1, r"thresholds \[\]: .* \[0, 1\]"),
            ((1.2,), some_lost(0), 0.1, "1.2"),
            ((-0.1,), some_lost(0), 0.1, "-0.1"),
            ((float("nan"),), some_lost(0), 0.1, "nan"),
            ((0.5, 0.5), some_lost(0, 0), 0.1, "twice"),
            ((0.5, 0.6), some_lost(0), 0.1, "do not fit 2 thresholds"),
            ((0.5,), some_lost(0)[0], 0.1, "do not fit"),
            ((0.5,), 2 * some_lost(1), 0.1, r"every loss in \[0, 1\]"),
            ((0.5,), some_lost(0), 0.0, "generation.calibration.delta is 0; it lies between 0 and 1"),
            ((0.5,), some_lost(0, n=28), 0.1, "prompts: 28 prompts cannot certify delta 0.1 .* at least 29"),
        ],
    )
    def test_what_no_bound_covers_is_refused(self, grid, losses, delta, match):
        with pytest.raises(UserError, match=match):
            certified_threshold(grid, losses, delta, 0.05)

    def test_the_fewest_prompts_do_certify(self):
        check_prompts(59, 0.05, 0.05)
        with pytest.raises(UserError, match="at least 59"):
            check_prompts(58, 0.05, 0.05)


# ---- the promise: the same simulated checks as the classifiers' risk control ----------------------------------------


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("simulate", PROJECT / "docs/risk_control/simulate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("ladder", ["steps", "cliff"])
@pytest.mark.parametrize("shape", ["nested", "fractional"])
def test_a_threshold_of_higher_risk_is_returned_no_oftener_than_epsilon_allows(simulation, ladder, shape):
    generator, risks = np.random.default_rng(5), simulation.ladder(ladder, 0.1)
    grid, epsilon, repeats = np.linspace(0.95, 0.05, len(risks)), 0.1, 300
    true_risk = dict(zip(grid.tolist(), risks, strict=True)) | {1.0: 0.0}
    broken = exiting = 0
    for _ in range(repeats):
        losses = simulation.draw(risks, 150, shape, generator)
        threshold = certified_threshold(grid, losses, 0.1, epsilon).threshold
        broken += true_risk[threshold] > 0.1
        exiting += threshold < 1.0
    assert broken <= binom.ppf(0.99, repeats, epsilon)
    assert exiting > 0.9 * repeats  # it is not safe for want of ever exiting


@pytest.mark.parametrize("delta", [0.05, 0.1, 0.2])
def test_a_thousand_prompts_of_a_quarter_of_delta_certify(simulation, delta):
    generator = np.random.default_rng(6)
    drawn = [simulation.draw(np.array([delta / 4]), 1000, "nested", generator) for _ in range(200)]
    passed = [certified_threshold([0.5], losses, delta, 0.05).threshold == 0.5 for losses in drawn]
    assert np.mean(passed) >= 0.99


def test_the_p_value_grows_with_the_observed_risk():
    p = hoeffding_bentkus(np.linspace(0, 1, 101), 200, 0.1)
    assert (np.diff(p) >= 0).all()
    assert fixed_sequence(p, 0.05) == (p <= 0.05).sum()
