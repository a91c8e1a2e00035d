"""Checkable properties of the PABEE / LeeBERT note (pabee_leebert.md, section 8) that concern losses and weights."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.exits.forward import ExitAnswer
from adaptive_inference.objectives import load_objective
from adaptive_inference.objectives.distill import distillation_losses, random_weights, teacher_sets
from adaptive_inference.objectives.frozen import answer_divergence
from adaptive_inference.objectives.weight_learning import TermWeights, weight_gradient
from adaptive_inference.settings.training import Distillation, MethodTraining, WeightLearning
from adaptive_inference.training.order import other_half, split_halves

Z = [(0.5, 0.0), (1.0, 0.0), (2.0, 0.0)]
LABEL = torch.tensor([0])


def answers_of(logits=Z):
    return [
        ExitAnswer(layer, torch.tensor([row], requires_grad=True))
        for layer, row in enumerate(logits, start=1)
    ]


def attached(method, exits=(1, 2, 3), seed=0):
    objective = load_objective(method.objective, method)
    objective.attach(SimpleNamespace(exits=exits, device=torch.device("cpu")), seed)
    return objective


def lee(teachers="all", objective="distill", **keys):
    settings_ = Distillation(teachers=teachers, **keys)
    return attached(MethodTraining(objective=objective, distillation=settings_))


def total(objective, answers=None, labels=LABEL):
    return sum(objective.losses(answers or answers_of(), labels)).item()


# --------------------------------------------------------------------------- property 9: sums of cross-entropies


def test_9_depth_weights_are_pabees_and_the_plain_sum_is_leeberts_first_equation():
    assert total(attached(MethodTraining(weights="depth"))) == pytest.approx(0.246897, abs=1e-5)
    assert total(attached(MethodTraining())) == pytest.approx(0.914267, abs=1e-5)


def test_9_deeberts_second_stage_sums_the_inner_exits():
    frozen = load_objective("frozen", MethodTraining(objective="frozen"))
    assert total(frozen) == pytest.approx(0.787339, abs=1e-5)


# --------------------------------------------------------------------------- properties 10 and 11: distillation


@pytest.mark.parametrize(
    ("teachers", "distilled", "whole"),
    [("later", 1.687063, 2.601330), ("all", 2.704616, 3.618882), ("last", 1.668963, None)],
)
def test_10_distillation_part_and_total_by_teacher_set(teachers, distilled, whole):
    objective = lee(teachers)
    terms = objective.terms(answers_of(), LABEL)
    assert terms[:, 1:].sum().item() == pytest.approx(distilled, abs=1e-5)
    if whole is not None:
        assert total(objective) == pytest.approx(whole, abs=1e-5)


def test_10_an_exit_without_teachers_adds_its_cross_entropy_alone():
    terms = lee("later").terms(answers_of(), LABEL)
    assert terms[2, 1:].abs().sum() == 0
    assert terms.isfinite().all()


def test_11_toy_d_values_and_gradients():
    teacher, student = (torch.tensor(z, requires_grad=True) for z in ([[2.0, 0.0]], [[0.5, 0.0]]))
    for detach, expected in ((True, (0.0, 0.0)), (False, (-0.098306, 0.098306))):
        losses = distillation_losses(torch.stack([student, teacher]), 2.0, detach)
        assert losses[0, 1].item() == pytest.approx(2.572699, abs=1e-5)
        of_student, of_teacher = torch.autograd.grad(losses[0, 1], [student, teacher])
        assert of_student[0].tolist() == pytest.approx([-0.337764, 0.337764], abs=1e-5)
        assert of_student.sum().item() == pytest.approx(0.0, abs=1e-6)
        assert of_teacher[0].tolist() == pytest.approx(expected, abs=1e-5)
        if detach:
            assert (of_teacher == 0).all()


LOGITS = st.lists(st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3), min_size=2, max_size=5)


@given(LOGITS)
@settings(max_examples=30, deadline=None)
def test_11_an_exit_that_teaches_itself_loses_its_entropy(logits):
    logits_EBC = torch.tensor(logits)[:, None]
    own = distillation_losses(logits_EBC, 1.0, True).diagonal()
    probabilities = logits_EBC[:, 0].softmax(-1)
    entropy = -(probabilities * probabilities.log()).sum(-1)
    assert torch.allclose(own, entropy, atol=1e-5)


@given(LOGITS, st.floats(0.5, 4.0))
@settings(max_examples=30, deadline=None)
def test_the_batched_product_equals_pair_by_pair(logits, temperature):
    logits_EBC = torch.tensor(logits)[:, None].repeat(1, 2, 1)
    batched = distillation_losses(logits_EBC, temperature, True)
    for student in range(len(logits)):
        for teacher in range(len(logits)):
            soft = (logits_EBC[teacher] / temperature).softmax(-1)
            log = (logits_EBC[student] / temperature).log_softmax(-1)
            pair = -(temperature**2) * (soft * log).sum(-1).mean()
            assert batched[student, teacher].item() == pytest.approx(pair.item(), abs=1e-4)


@pytest.mark.parametrize(("teachers", "terms"), [("all", 144), ("later", 78), ("last", 23)])
def test_number_of_weights_of_a_twelve_layer_model(teachers, terms):
    sets = teacher_sets(12, teachers)
    assert 12 + sets.sum().item() == terms
    assert not sets.diagonal().any()


def test_fastberts_divergence_reads_no_label_and_vanishes_where_student_equals_teacher():
    frozen = load_objective("frozen", MethodTraining(objective="frozen", targets="teacher"))
    steps = answers_of()
    first, second = (frozen.losses(steps, torch.tensor([label])) for label in (0, 1))
    assert [item.item() for item in first] == [item.item() for item in second]
    teacher, student = torch.tensor([2.0, 0.0]).softmax(-1), torch.tensor([0.5, 0.0]).softmax(-1)
    assert first[0].item() == pytest.approx((teacher * (teacher / student).log()).sum().item(), abs=1e-6)
    assert answer_divergence(steps[2].logits, steps[2].logits).item() == pytest.approx(0.0, abs=1e-7)


# --------------------------------------------------------------------------- property 12: gradient of the weights


def test_12_the_gradient_of_a_weight_is_its_term():
    objective = lee("later", objective="weight_learning")
    objective.learned.settings = WeightLearning(parametrisation="raw")
    with torch.no_grad():
        objective.learned.raw_ET.fill_(1.0)
    terms = objective.terms(answers_of(), LABEL).detach()
    objective.weights_ET = objective.learned.values()  # as a function of what is learned, not a constant
    (gradient,) = torch.autograd.grad(sum(objective.losses(answers_of(), LABEL)), objective.learned.raw_ET)
    assert torch.equal(gradient, terms)
    assert (gradient >= 0).all()
    cross_entropies = [F.cross_entropy(torch.tensor([row]), LABEL).item() for row in Z]
    assert gradient[:, 0].tolist() == pytest.approx(cross_entropies, abs=1e-6)


@given(st.integers(2, 6), st.sampled_from(["last", "later", "all"]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_softmax_keeps_the_mean_of_each_exits_weights_at_one_and_them_positive(exits, teachers, seed):
    mask = torch.cat([torch.ones(exits, 1, dtype=torch.bool), teacher_sets(exits, teachers)], dim=1)
    weights = TermWeights(mask, WeightLearning(parametrisation="softmax", learning_rate=0.5))
    generator = torch.Generator().manual_seed(seed)
    assert torch.allclose(weights.values()[mask], torch.ones(int(mask.sum())))
    for _ in range(5):
        weights.descend(torch.rand(mask.shape, generator=generator) * mask)
    values = weights.values().detach()
    assert torch.allclose(values.sum(1), mask.sum(1).float(), atol=1e-4)
    assert (values[mask] > 0).all()
    assert (values[~mask] == 0).all()


@pytest.mark.parametrize("parametrisation", ["raw", "softplus", "softmax"])
def test_every_parametrisation_starts_at_one(parametrisation):
    mask = torch.ones(2, 3, dtype=torch.bool)
    values = TermWeights(mask, WeightLearning(parametrisation=parametrisation)).values()
    assert torch.allclose(values, torch.ones(2, 3), atol=1e-6)


def test_positive_losses_only_ever_lower_raw_and_softplus_weights():
    for parametrisation in ("raw", "softplus"):
        weights = TermWeights(
            torch.ones(1, 2, dtype=torch.bool), WeightLearning(parametrisation=parametrisation)
        )
        before = weights.values().detach()
        weights.descend(torch.tensor([[0.3, 2.0]]))
        assert (weights.values() < before).all()


# --------------------------------------------------------------------------- property 13: toy W


class ToyW:
    """L_D = w1 (theta - a)^2 + w2 (theta - b)^2 with D1: (1, 3) and D2: (2, 0)."""

    D1, D2 = (1.0, 3.0), (2.0, 0.0)

    def __init__(self, rate, weight_rate, theta=0.0, weights=(1.0, 0.5), **keys):
        self.rate, self.theta = rate, theta
        self.settings = WeightLearning(
            parametrisation="raw", optimizer="sgd", learning_rate=weight_rate, **keys
        )
        self.weights = TermWeights(torch.ones(1, 2, dtype=torch.bool), self.settings)
        with torch.no_grad():
            self.weights.raw_ET.copy_(torch.tensor([weights]))
        self.steps = 0

    def terms(self, *rows):
        """Terms at the present theta, as the mean over data sets."""
        values = [[(self.theta - a) ** 2, (self.theta - b) ** 2] for a, b in rows]
        return torch.tensor(values).mean(0, keepdim=True)

    def step(self):
        rows = (self.D1, self.D2) if self.settings.scheme == "slo" else (self.D1,)
        (w1, w2), seen = self.weights.values()[0].tolist(), self.terms(*rows)
        slopes = [2 * w1 * (self.theta - a) + 2 * w2 * (self.theta - b) for a, b in rows]
        self.theta -= self.rate * sum(slopes) / len(slopes)
        gradient = weight_gradient(
            self.settings,
            self.steps,
            self.rate,
            seen,
            lambda: self.terms(self.D1),
            lambda: self.terms(self.D2),
        )
        if gradient is not None:
            self.weights.descend(gradient)
        self.steps += 1
        return [self.theta, *self.weights.values()[0].tolist()]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"scheme": "blo"}, [0.5, 0.8875, 0.4875]),
        ({"scheme": "clo_v1"}, [0.5, 0.8625, -0.1375]),
        ({"scheme": "clo_v1", "mixing": "equal"}, [0.5, 0.875, 0.175]),
        ({"scheme": "clo_v2", "group": 1}, [0.5, 0.8625, -0.1375]),
        ({"scheme": "slo"}, [0.45, 0.875, 0.275]),
    ],
)
def test_13_one_step_of_toy_w(keys, expected):
    assert ToyW(0.1, 0.05, **keys).step() == pytest.approx(expected, abs=1e-5)


def test_13_raw_weights_turn_negative_at_step_seven():
    toy = ToyW(0.01, 0.02, scheme="clo_v1")
    signs = [min(toy.step()[1:]) < 0 for _ in range(8)]
    assert signs.index(True) + 1 == 7


TEXT = [
    (0.05, 1.0, 0.5),
    (0.0985, 0.919559, 0.415619),
    (0.139198, 0.919559, 0.415619),
    (0.178809, 0.846481, 0.335388),
]
ALGORITHM = [
    (0.05, 0.99, 0.41),
    (0.093, 0.909041, 0.325321),
    (0.128404, 0.900814, 0.240814),
    (0.157937, 0.825859, 0.159542),
]


@pytest.mark.parametrize(("between", "expected"), [("text", TEXT), ("algorithm", ALGORITHM)])
def test_13_both_readings_of_clo_v2(between, expected):
    toy = ToyW(0.01, 0.02, scheme="clo_v2", group=2, between=between)
    for row in expected:
        assert toy.step() == pytest.approx(row, abs=1e-5)


def test_13_clo_v2_in_groups_of_one_is_clo_v1_and_no_share_of_the_first_half_is_blo():
    first, second = ToyW(0.01, 0.02, scheme="clo_v1"), ToyW(0.01, 0.02, scheme="clo_v2", group=1)
    for _ in range(5):
        assert first.step() == second.step()
    settings_ = WeightLearning(scheme="clo_v1", learning_rate=0.02)
    found = weight_gradient(settings_, 0, 0.0, None, lambda: torch.ones(1), lambda: torch.full((1,), 3.0))
    assert found.item() == 3.0


# --------------------------------------------------------------------------- property 14: halves of the rows


@given(st.integers(2, 200), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_14_halves_are_disjoint_cover_all_rows_and_are_reproducible(rows, seed, epoch):
    first, second = split_halves(rows, seed, epoch)
    assert 0 <= len(first) - len(second) <= 1
    assert sorted(first + second) == list(range(rows))
    assert split_halves(rows, seed, epoch) == (first, second)
    if rows > 40:
        assert split_halves(rows, seed, epoch + 1) != (first, second)
        assert split_halves(rows, seed + 1, epoch) != (first, second)
    assert sorted(other_half([1] * rows, 4, seed, epoch, True)) == second


def test_14_weights_are_updated_once_per_group():
    settings_ = WeightLearning(scheme="clo_v2", group=4)
    one = lambda: torch.ones(1)  # noqa: E731
    updates = [weight_gradient(settings_, step, 0.1, None, one, one) is not None for step in range(11)]
    assert sum(updates) == 11 // 4
    assert [step for step, updated in enumerate(updates) if updated] == [3, 7]


# --------------------------------------------------------------------------- raw weights and 0


def falling(caplog, **keys):
    weights = TermWeights(
        torch.tensor([[True, True]]), WeightLearning(parametrisation="raw", learning_rate=0.4, **keys)
    )
    for _ in range(5):
        weights.descend(torch.tensor([[1.0, 2.0]]))
    return weights.values().tolist(), [r.message for r in caplog.records if "negative" in r.message]


def test_raw_weights_fall_below_0_with_one_warning_and_stop_at_their_minimum(caplog):
    [[first, second]], warnings = falling(caplog)
    assert first < 0
    assert second < 0
    assert len(warnings) == 1
    caplog.clear()
    assert falling(caplog, minimum=0.25) == ([[0.25, 0.25]], [])


def test_a_minimum_of_weights_that_cannot_fall_is_refused():
    for parametrisation in ("softmax", "softplus"):
        with pytest.raises(
            ValueError, match=f"`minimum` has no meaning for parametrisation: {parametrisation}"
        ):
            WeightLearning(parametrisation=parametrisation, minimum=0.1)


# --------------------------------------------------------------------------- property 15: random weights


@given(st.integers(2, 12), st.sampled_from(["last", "later", "all"]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_15_random_weights_are_ratios_of_integers_and_sum_to_one_per_exit(exits, teachers, seed):
    mask = torch.cat([torch.ones(exits, 1, dtype=torch.bool), teacher_sets(exits, teachers)], dim=1)
    weights = random_weights(mask, seed)
    assert torch.allclose(weights.sum(1), torch.ones(exits))
    assert (weights[~mask] == 0).all()
    assert (weights[mask] > 0).all()
    assert torch.equal(weights, random_weights(mask, seed))
    for row, present in zip(
        weights.double(), mask, strict=True
    ):  # one sum makes all of them integers of 1 to 50
        found = row[present]
        sums = torch.arange(1, 50 * len(found) + 1, dtype=torch.float64)[:, None]
        integers = (found * sums).round()
        whole = ((found * sums - integers).abs() < 2e-7 * sums).all(1)
        allowed = (integers >= 1).all(1) & (integers <= 50).all(1) & (integers.sum(1) == sums[:, 0])
        assert (whole & allowed).any()


def test_the_note_has_the_entropy_of_the_tempered_teacher():
    teacher = torch.tensor([2.0, 0.0])
    soft = (teacher / 2).softmax(-1)
    assert 4 * -(soft * soft.log()).sum().item() == pytest.approx(2.328812, abs=1e-5)
    own = distillation_losses(teacher[None, None], 2.0, True).item()
    assert own == pytest.approx(2.328812, abs=1e-5)
    assert math.isclose(2.572699 - own, 0.243887, abs_tol=1e-5)
