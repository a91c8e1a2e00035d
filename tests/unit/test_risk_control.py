"""The p-value, the walk, the rows it takes, and the promise itself on losses of known true risk."""

from __future__ import annotations

import importlib.util
import math
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from synthetic_records import PROJECT

from adaptive_inference.calibration.curves import Curve
from adaptive_inference.calibration.operating_point import Goal, Seen, Setting
from adaptive_inference.calibration.operating_points import recommend, risk_point
from adaptive_inference.calibration.risk_control import (
    LOSSES,
    accuracy_loss,
    certify,
    check_kind,
    check_rows,
    consistency_loss,
    fixed_sequence,
    halves,
    hoeffding_bentkus,
    least_rows,
)
from adaptive_inference.errors import UserError
from adaptive_inference.settings.protocol import Risk
from adaptive_pipeline.params import parse_params
from adaptive_pipeline.params.yaml_file import read_yaml

fraction = st.floats(0.005, 0.9)


def p_value_by_hand(total: Fraction, n: int, delta: Fraction) -> float:
    """Both bounds from their definitions, the binomial tail as an exact sum."""
    mean, tail = total / n, Fraction(0)
    for k in range(min(n, math.ceil(total)) + 1):
        tail += math.comb(n, k) * delta**k * (1 - delta) ** (n - k)
    low, d = float(min(mean, delta)), float(delta)
    divergence = (low * math.log(low / d) if low else 0.0) + (1 - low) * math.log((1 - low) / (1 - d))
    return min(1.0, math.exp(-n * divergence), math.e * float(tail))


class TestPValue:
    def test_without_a_loss_it_is_the_chance_of_no_loss(self):
        assert hoeffding_bentkus(0.0, 100, 0.05) == pytest.approx(0.95**100)
        assert hoeffding_bentkus(0.0, 3, 0.5) == pytest.approx(1 / 8)

    def test_worked_numbers_of_either_bound(self):
        # 10 of 500 at delta 0.05: n KL = 500 (0.02 ln 0.4 + 0.98 ln(0.98 / 0.95)) = 6.0742
        hoeffding = math.exp(-500 * (0.02 * math.log(0.4) + 0.98 * math.log(0.98 / 0.95)))
        assert hoeffding == pytest.approx(0.0023, abs=5e-5)
        bentkus = math.e * binom.cdf(10, 500, 0.05)
        assert hoeffding_bentkus(0.02, 500, 0.05) == pytest.approx(min(hoeffding, bentkus))
        assert bentkus < hoeffding  # each of the two is the smaller one somewhere
        assert hoeffding_bentkus(0.0, 100, 0.05) < math.e * binom.cdf(0, 100, 0.05)

    def test_the_worked_example_of_the_page(self):
        text = (PROJECT / "docs/risk_control.md").read_text()
        rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if " | 0.0" in line]
        assert len(rows) == 5
        for _, _, lost, mean, _, _, p, *_ in rows:
            assert float(mean) == int(lost) / 500
            assert float(p) == pytest.approx(p_value_by_hand(Fraction(lost), 500, Fraction(1, 20)), rel=0.004)
        losses = TestCertify.losses(*(int(row[2]) for row in rows), n=500)
        assert "returned" in rows[certify(losses, 0.05, 0.05)][7]

    @pytest.mark.parametrize("n", [1, 7, 60, 333])
    @pytest.mark.parametrize("delta", [Fraction(1, 50), Fraction(1, 10), Fraction(1, 2)])
    def test_it_equals_the_definition_in_exact_arithmetic(self, n, delta):
        for total in {Fraction(0), Fraction(1, 2), *map(Fraction, (1, n // 20, n // 3, n))}:
            if total <= n:
                got = hoeffding_bentkus(float(total / n), n, float(delta))
                assert got == pytest.approx(p_value_by_hand(total, n, delta), rel=1e-9)

    def test_a_count_stays_a_count_whatever_its_mean_rounds_to(self):
        for n in range(1, 400):
            counts = np.arange(n + 1)
            bound = np.minimum(1, np.e * binom.cdf(counts, n, 0.3))
            assert (hoeffding_bentkus(counts / n, n, 0.3) <= bound * (1 + 1e-9)).all()

    @given(fraction, st.integers(1, 3000), st.lists(st.floats(0, 1), min_size=2, max_size=20))
    @settings(deadline=None)
    def test_it_grows_with_the_loss_lies_in_0_1_and_is_1_from_delta_on(self, delta, n, means):
        p = hoeffding_bentkus(np.sort(means), n, delta)
        assert (np.diff(p) >= -1e-12).all()
        assert ((p >= 0) & (p <= 1)).all()
        assert (p[np.sort(means) >= delta] >= 1 - 1e-9).all()

    @given(st.floats(0, 0.3), fraction, fraction, st.integers(1, 500))
    @settings(deadline=None)
    def test_a_looser_risk_is_easier_to_certify(self, mean, one, other, n):
        low, high = sorted((one, other))
        assert hoeffding_bentkus(mean, n, high) <= hoeffding_bentkus(mean, n, low) + 1e-12

    @pytest.mark.parametrize("n", [1, 20, 59, 100, 500, 1000])
    @pytest.mark.parametrize("delta", [0.01, 0.05, 0.2, 0.5])
    def test_at_a_true_risk_of_delta_it_is_below_epsilon_with_probability_epsilon_at_most(self, n, delta):
        k = np.arange(n + 1)
        p, chance = hoeffding_bentkus(k / n, n, delta), binom.pmf(k, n, delta)
        for epsilon in (0.001, 0.01, 0.05, 0.1, 0.3, 0.9, *p):  # its own values: where a step would show
            assert chance[p <= epsilon].sum() <= epsilon + 1e-9


class TestCertify:
    @staticmethod
    def losses(*counts, n=100):
        return np.array([[1.0] * count + [0.0] * (n - count) for count in counts])

    def test_it_takes_the_last_before_the_first_failure(self):
        # p at delta 0.1, n 100: 0 -> 3e-5, 2 -> 0.005, 4 -> 0.062 (Bentkus), 9 -> 1
        assert certify(self.losses(0, 0, 2, 9, 20), 0.1, 0.05) == 2
        assert certify(self.losses(0, 2, 4), 0.1, 0.05) == 1
        assert certify(self.losses(0, 2, 4), 0.1, 0.07) == 2

    def test_what_lies_beyond_a_failure_is_never_reached(self):
        assert certify(self.losses(0, 9, 0), 0.1, 0.05) == 0
        assert certify(self.losses(9, 0, 0), 0.1, 0.05) is None

    def test_all_may_qualify_and_none_may(self):
        assert certify(self.losses(0, 0, 0), 0.1, 0.05) == 2
        assert certify(self.losses(50, 60), 0.1, 0.05) is None
        assert certify(self.losses(0, n=28), 0.1, 0.05) is None  # too few rows, see least_rows
        assert certify(self.losses(0, n=29), 0.1, 0.05) == 0

    def test_the_walk_counts_along_the_last_axis(self):
        p = [[0.01, 0.02, 0.9, 0.0], [0.9, 0.0, 0.0, 0.0], [0.0, 0.0, 0.05, 0.05]]
        assert fixed_sequence(p, 0.05).tolist() == [2, 0, 4]
        assert fixed_sequence([0.0, np.nan, 0.0], 0.05) == 1

    @pytest.mark.parametrize(("delta", "epsilon"), [(0, 0.05), (1, 0.05), (-0.1, 0.05), (0.05, 0), (0.05, 1)])
    def test_a_promise_of_nothing_or_everything_is_refused(self, delta, epsilon):
        with pytest.raises(UserError, match=r"goal.risk.(delta|epsilon) is .* between 0 and 1"):
            certify(self.losses(0), delta, epsilon)
        with pytest.raises(UserError):
            least_rows(delta, epsilon)

    @pytest.mark.parametrize("losses", [[[1.5]], [[-0.1]], [[np.nan]], [[]], [0.1]])
    def test_losses_that_no_bound_covers_are_refused(self, losses):
        with pytest.raises(UserError, match=r"\[0, 1\]"):
            certify(np.array(losses), 0.1, 0.05)


class TestRows:
    @pytest.mark.parametrize(
        ("delta", "epsilon", "rows"), [(0.05, 0.05, 59), (0.1, 0.05, 29), (0.01, 0.05, 299)]
    )
    def test_worked_numbers(self, delta, epsilon, rows):
        assert least_rows(delta, epsilon) == rows <= math.ceil(math.log(1 / epsilon) / delta)

    @given(fraction, fraction)
    def test_as_many_rows_without_a_loss_certify_and_one_fewer_do_not(self, delta, epsilon):
        rows = least_rows(delta, epsilon)
        assert (1 - delta) ** rows <= epsilon * (1 + 1e-6)
        assert rows == 1 or (1 - delta) ** (rows - 1) > epsilon * (1 - 1e-6)

    @given(st.integers(1, 300), st.integers(0, 5))
    def test_halves_share_no_row_and_leave_none_out(self, n, seed):
        fit, rest = halves(n, seed)
        assert sorted([*fit, *rest]) == list(range(n))
        assert len(rest) - len(fit) in (0, 1)
        np.testing.assert_array_equal(fit, halves(n, seed)[0])

    def test_too_few_are_told_with_what_would_do(self):
        check_rows(117, 0.05, 0.05)
        with pytest.raises(
            UserError, match=r"needs 59 rows .*116 calibration rows give 58 .* at\s+least 117"
        ):
            check_rows(116, 0.05, 0.05)
        with pytest.raises(UserError, match=r"58 rows reach delta 0\.051"):
            check_rows(116, 0.05, 0.05)
        check_rows(116, 0.051, 0.05)
        with pytest.raises(UserError, match="0 calibration rows give 0"):
            check_rows(0, 0.05, 0.05)


class TestLosses:
    LABELS = np.array([0, 0, 1, 1, 2])
    FULL = np.array([0, 1, 1, 0, 0])  # right, wrong, right, wrong, wrong
    ANSWERS = np.array([[1, 0, 1, 0, 1], [0, 1, 1, 0, 0]])

    def test_only_what_the_full_model_alone_gets_right_is_lost_and_nothing_is_bought_back(self):
        loss = accuracy_loss(self.ANSWERS, self.FULL, self.LABELS)
        assert loss.tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]  # row 1 is won; it does not offset row 0
        right, right_full = self.ANSWERS == self.LABELS, self.FULL == self.LABELS
        np.testing.assert_array_equal(loss, np.maximum(0, right_full.astype(int) - right))

    def test_another_answer_is_a_loss_whatever_the_label(self):
        assert consistency_loss(self.ANSWERS, self.FULL).tolist() == [[1, 1, 0, 0, 1], [0, 0, 0, 0, 0]]

    def test_every_loss_that_params_allow_is_there(self):
        assert set(get_args(Risk.model_fields["loss"].annotation)) == set(LOSSES)

    def test_a_regression_has_none(self):
        check_kind("classification")
        with pytest.raises(UserError, match="regression"):
            check_kind("regression")


class TestOperatingPoint:
    ROWS = np.zeros((4, 1), int)
    GRID = np.array([0.5, 0.7, 0.9, 1.01])  # from the fastest to the slowest
    CURVE = Curve(GRID, ROWS, ROWS, np.array([0.80, 0.89, 0.91, 0.90]), np.array([3.0, 2.0, 1.4, 1.0]), None)
    GOAL = Goal("risk", 0.1)

    def point(self, *counts):
        return risk_point(self.GOAL, "confidence", self.CURVE, TestCertify.losses(*counts), 0.05)

    def test_it_is_the_fastest_certified_threshold_with_its_evidence(self):
        found = self.point(30, 2, 1, 0)
        assert (found.goal.name, found.qualifies) == ("risk_0.1", True)
        assert (found.setting, found.seen) == (Setting("confidence", 0.7), Seen(0.89, 2.0))
        evidence = dict(found.evidence)
        assert evidence.pop("p_value") == pytest.approx(float(hoeffding_bentkus(0.02, 100, 0.1)))
        assert evidence == {"epsilon": 0.05, "risk": 0.02, "rows": 100}

    def test_order_is_the_grids_and_not_that_of_the_observed_losses(self):
        assert self.point(0, 30, 2, 1).setting.threshold == 0.9  # the fastest looks best, by luck

    def test_none_qualifying_is_said_with_the_reason(self):
        found = self.point(0, 0, 0, 9)
        assert (found.qualifies, found.setting.threshold, found.seen) == (False, None, None)
        assert (found.evidence["risk"], found.evidence["rows"]) == (0.09, 100)
        assert found.evidence["p_value"] > 0.05

    def test_it_is_never_recommended_since_a_choice_among_rules_would_void_it(self):
        found = self.point(0, 0, 0, 0)
        assert found.qualifies
        assert recommend([found]) is None


@pytest.mark.parametrize(
    ("risk", "match"),
    [
        ({"delta": 0}, "goal.risk.delta"),
        ({"delta": 1.0}, "goal.risk.delta"),
        ({"delta": float("nan")}, "goal.risk.delta"),
        ({"delta": 0.05, "epsilon": 0}, "goal.risk.epsilon"),
        ({"delta": 0.05, "epsilon": 1}, "goal.risk.epsilon"),
        ({"delta": 0.05, "loss": "f1"}, "goal.risk.loss"),
        ({}, "goal.risk.delta"),
        ({"delta": 0.05, "alpha": 0.1}, "alpha.*allowed here: loss, delta, epsilon"),
    ],
)
def test_bad_params_are_refused(risk, match):
    body = read_yaml(PROJECT / "presets/smoke.yaml")
    body["goal"]["risk"] = risk
    with pytest.raises(UserError, match=match):
        parse_params(body)


# ---- the promise, on losses of known true risk -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("simulate", PROJECT / "docs/risk_control/simulate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("ladder", ["steps", "cliff"])
@pytest.mark.parametrize("shape", ["nested", "independent", "fractional"])
def test_the_drawn_losses_have_the_stated_risk(simulation, ladder, shape):
    risks = simulation.ladder(ladder, 0.1)
    losses = simulation.draw(risks, 40_000, shape, np.random.default_rng(0))
    assert ((losses >= 0) & (losses <= 1)).all()
    np.testing.assert_allclose(losses.mean(1), risks, atol=5 * math.sqrt(0.25 * 0.2 / 1e4))
    assert (risks <= 0.1).any()
    assert (risks > 0.1).any()


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
@pytest.mark.parametrize("shape", ["nested", "fractional"])
def test_violations_stay_within_the_binomial_quantile_and_would_not_without_the_test(
    simulation, epsilon, shape
):
    found = simulation.violations(150, 0.1, epsilon, "cliff", shape, repeats=500, seed=7)
    assert found["certified"] == 500
    assert found["violations"] <= binom.ppf(0.99, 500, epsilon) == found["allowed"]
    assert found["violations_without_test"] > found["allowed"]


@pytest.mark.parametrize("delta", [0.05, 0.1, 0.2])
def test_a_thousand_rows_of_a_quarter_of_delta_certify(simulation, delta):
    assert simulation.power(1000, delta, 0.05, 0.25, repeats=500, seed=3)["certified"] >= 0.99


def test_the_kept_simulation_is_what_the_script_counts_and_holds_both_promises(simulation):
    from adaptive_inference.files import read_json

    kept = read_json(PROJECT / "docs/risk_control/simulation.json")
    assert kept["repeats"] == 500
    assert kept["violations_within_quantile"]
    assert kept["certifies"]
    assert all(case["violations"] <= binom.ppf(0.99, 500, case["epsilon"]) for case in kept["violations"])
    first = kept["violations"][0]
    again = (first[key] for key in ("rows", "delta", "epsilon", "ladder", "losses", "repeats"))
    assert simulation.violations(*again, seed=kept["seed"]) == first
