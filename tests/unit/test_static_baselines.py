"""Static models of fewer layers or heads: losses, what is trained, what is kept, and resuming."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import (
    SCHEMA,
    Killed,
    kill_at,
    make_batch,
    make_model,
    objective_of,
    ready_trainer,
    recipe_of,
    run_fit,
    same_bits,
    weights_of,
)

from adaptive_inference.errors import UserError
from adaptive_inference.exits.build import start_from_full, start_from_layers
from adaptive_inference.exits.forward import ExitAnswer
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.objectives import load_objective
from adaptive_inference.objectives.module_replacing import replacing_rate
from adaptive_inference.objectives.patient_distillation import patience_loss
from adaptive_inference.serving.predictor import Predictor
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.settings.training import MethodTraining, PatientDistillation, Replacement
from adaptive_inference.training.needs import model_and_objective

PKD = MethodTraining(objective="patient_distillation", exits=[2])
THESEUS = MethodTraining(objective="module_replacing", exits=[2])
DROP = MethodTraining(objective="layer_drop", exits=[2], drop_rate=0.4)
METHODS = [PKD, THESEUS, DROP]


def full_model(family="bert", dropout=0.0):
    """A model of all four layers that is no longer the pre-trained one."""
    model, generator = make_model(family, exits=(4,), dropout=dropout), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for item in model.parameters():
            item += 0.05 * torch.randn(item.shape, generator=generator)
    return model.eval()


def attached(method, model, full, seed=0):
    objective = objective_of(method, full)
    objective.surgery.operate(model, seed, [])
    objective.attach(model, seed)
    return objective


def logits(forward):
    return forward.answers()[-1].logits


# ---------------------------------------------------------------------------------------- patient distillation


def test_the_distance_of_states_is_one_of_directions():
    ours = [torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [5.0, 0.0]])]
    theirs = [torch.tensor([[4.0, 3.0], [2.0, 0.0]]), torch.tensor([[0.0, -1.0], [0.0, 0.1]])]
    worked = [2 * 0.2**2, 0.0, 4.0, 2.0]  # (0.6, 0.8) to (0.8, 0.6); equal; opposite; at a right angle
    assert patience_loss(ours, theirs).item() == pytest.approx(sum(worked) / 4, abs=1e-6)
    assert patience_loss(ours, [7 * item for item in ours]).item() == pytest.approx(0.0, abs=1e-12)
    assert patience_loss([], []) == 0.0


@pytest.mark.parametrize(("alpha", "beta", "tau"), [(0.5, 1.0, 5.0), (0.0, 0.0, 1.0), (1.0, 3.0, 2.0)])
def test_the_loss_of_patient_distillation_by_hand(alpha, beta, tau):
    options = PatientDistillation(alpha=alpha, beta=beta, temperature=tau)
    objective = load_objective(PKD.objective, PKD.model_copy(update={"patient": options}))
    student, teacher = [0.5, -0.25], [2.0, 0.0]
    state = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])  # squared distance 2
    seen, last = objective.surgery, torch.zeros(1, 2)  # two layers, and four of the teacher
    seen.answer_BC, seen.group = torch.tensor([teacher]), 2
    seen.ours, seen.theirs = [state[0], last], [last, state[1], last, last]
    found = objective.exit_loss(ExitAnswer(2, torch.tensor([student])), torch.tensor([1]))

    def log_softmax(z, temperature=1.0):
        total = math.log(sum(math.exp(value / temperature) for value in z))
        return [value / temperature - total for value in z]

    hard = -log_softmax(student)[1]
    pairs = zip(log_softmax(teacher, tau), log_softmax(student, tau), strict=True)
    soft = -(tau**2) * sum(math.exp(t) * s for t, s in pairs)
    assert found.item() == pytest.approx((1 - alpha) * hard + alpha * soft + beta * 2.0, abs=1e-5)


@pytest.mark.parametrize("read", ["first", "mean"])
def test_a_student_layer_is_held_against_the_last_layer_of_its_group(read):
    full, model, batch = full_model(), make_model(exits=(2,)), make_batch(make_model())
    for item in (full, model):
        item.heads[0].read = read
    objective = attached(PKD, model, full)
    objective.start(model, batch).answers()
    seen = objective.surgery
    inner = MultiExitModel(full.backbone, (1, 2, 3, 4), [full.heads[0]] * 4)
    forward = inner.start(batch)
    states = [(forward.advance(k), forward.hidden_BNH)[1] for k in range(4)]
    tokens = batch["attention_mask"][..., None].float()
    assert (len(seen.theirs), len(seen.ours), seen.group) == (4, 2, 2)
    for found, state in zip(seen.theirs, states, strict=True):
        expected = state[:, 0] if read == "first" else (state * tokens).sum(1) / tokens.sum(1)
        assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(seen.answer_BC, full(**batch).logits[:, -1], atol=1e-6)


def test_a_student_that_equals_its_teacher_has_no_distance():
    full = full_model()
    model, batch = copy.deepcopy(full).eval(), make_batch(full)
    objective = attached(PKD, model, full)
    objective.start(model, batch).answers()
    assert len(objective.surgery.theirs) == 4
    assert patience_loss(objective.surgery.ours, objective.surgery.theirs).item() == 0.0


def test_the_student_alone_learns_and_the_teacher_stays_bit_by_bit(tmp_path):
    full, model = full_model(dropout=0.1), make_model(exits=(2,), dropout=0.1)
    before, start = weights_of(full), weights_of(model)
    batch = make_batch(model)
    objective = attached(PKD, model, full)
    (answer,) = objective.start(model, batch).answers()
    objective.exit_loss(answer, batch["labels"]).backward()
    assert all(item.grad is None for item in full.parameters())
    assert all(item.grad is not None and item.grad.any() for item in model.backbone.layers[0].parameters()
               if item.dim() > 1)  # fmt: skip
    run_fit(model, PKD, tmp_path, full=full)
    assert same_bits(weights_of(full), before)
    assert not full.training
    assert not same_bits(weights_of(model), start)


# ---------------------------------------------------------------------------------------- module replacing


@pytest.mark.parametrize("family", ["bert", "albert", "distilbert", "deberta-v2"])
def test_nothing_replaced_is_the_full_model_and_all_replaced_the_successor(family):
    full, model = full_model(family), make_model(family, exits=(2,))
    batch = make_batch(model)
    objective = attached(THESEUS, model, full)
    objective.surgery.replaced = [False, False]
    assert torch.equal(logits(objective.start(model, batch)), full(**batch).logits[:, -1])
    objective.surgery.replaced = [True, True]
    assert torch.equal(logits(objective.start(model, batch)), model(**batch).logits[:, -1])
    objective.surgery.replaced = [True, False]
    mixed = logits(objective.start(model, batch))
    assert not torch.allclose(mixed, model(**batch).logits[:, -1], atol=1e-3)
    assert not torch.allclose(mixed, full(**batch).logits[:, -1], atol=1e-3)


@pytest.mark.parametrize(("start", "all_"), [(0.0, False), (1.0, True)])
def test_probabilities_of_zero_and_one_leave_nothing_to_chance(start, all_):
    model = make_model(exits=(2,))
    method = THESEUS.model_copy(update={"replacement": Replacement(start=start, ramp=1.0)})
    objective = attached(method, model, full_model())
    objective.surgery.begin(0, 10)
    assert objective.surgery.replaced == [all_, all_]
    objective.surgery.begin(10, 10)
    assert objective.surgery.replaced == [True, True]


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 500), st.data())
@settings(max_examples=60, deadline=None)
def test_the_rate_climbs_in_a_line_to_one_and_stays(start, ramp, total, data):
    options = Replacement(start=start, ramp=ramp)
    rates = [replacing_rate(options, step, total) for step in range(total + 1)]
    assert all(start <= low <= high <= 1.0 for low, high in itertools.pairwise(rates))
    step = data.draw(st.integers(0, total))
    if step >= ramp * total:
        assert rates[step] == 1.0
    else:
        assert rates[step] == pytest.approx(start + (1 - start) * step / (ramp * total))


def test_successor_layers_alone_are_trained(tmp_path):
    full, model = full_model(dropout=0.1), make_model(exits=(2,), dropout=0.1)
    before = weights_of(full)
    run_fit(model, THESEUS, tmp_path, full=full)
    assert same_bits(weights_of(full), before)
    start = make_model(exits=(2,))
    start_from_layers(start, full, range(2))
    changed = {
        name for name, item in start.state_dict().items() if not torch.equal(item, model.state_dict()[name])
    }
    assert changed
    assert all(".layer." in name for name in changed)


def test_a_step_in_which_nothing_is_replaced_passes_and_trains_nothing(tmp_path):
    model = make_model(exits=(2,))
    method = THESEUS.model_copy(update={"replacement": Replacement(start=0.0, ramp=1.0)})
    trainer = ready_trainer(model, method, tmp_path, full=full_model())
    trainer.state.max_steps = 4
    loss = trainer.training_step(model, make_batch(model))
    assert loss.isfinite()
    assert all(item.grad is None for item in model.parameters())


# ---------------------------------------------------------------------------------------- LayerDrop


@pytest.mark.parametrize("family", ["bert", "albert", "roberta"])
def test_a_rate_of_zero_is_plain_fine_tuning_of_all_layers(family, tmp_path):
    full = make_model(family, exits=(4,))
    plain = run_fit(copy.deepcopy(full), MethodTraining(), tmp_path / "plain", epochs=2)
    method = DROP.model_copy(update={"drop_rate": 0.0})
    dropped = run_fit(make_model(family, exits=(2,)), method, tmp_path / "dropped", full=full, epochs=2)
    losses = [[row["loss"] for row in result.history] for result in (plain, dropped)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("family", ["bert", "albert", "deberta"])
def test_layers_that_run_are_those_that_were_drawn(family):
    full, model = full_model(family), make_model(family, exits=(2,))
    batch, reference = make_batch(model), copy.deepcopy(full)
    objective = attached(DROP, model, full)
    for runs in ([True] * 4, [True, False, False, True], [False] * 4):
        objective.surgery.runs = runs
        hidden, context = reference.backbone.embed(batch)
        for layer, run in enumerate(runs):
            hidden = reference.backbone.run_layer(layer, hidden, context) if run else hidden
        expected = reference.read(0, hidden, context.tokens_BN).logits
        model.eval()
        assert torch.allclose(logits(objective.start(model, batch)), expected, atol=1e-6)


def test_the_share_of_layers_left_out_is_the_rate():
    objective = attached(DROP, make_model(exits=(2,)), full_model())
    dropped = 0
    for step in range(500):
        objective.surgery.begin(step, 500)
        dropped += 4 - sum(objective.surgery.runs)
    assert dropped / 2000 == pytest.approx(0.4, abs=0.04)  # nearly four standard deviations


def test_every_second_layer_is_kept_and_the_rest_is_gone_from_model_and_disk(tmp_path):
    full = make_model(exits=(4,))
    model = make_model(exits=(2,))
    objective = attached(DROP, model, copy.deepcopy(full))
    assert [len(list(model.backbone.layers)), len(model.backbone.lent)] == [4, 2]
    for place, layer in ((0, 0), (1, 2), (2, 1), (3, 3)):
        assert same_bits(weights_of(model.backbone.layers[place]), weights_of(full.backbone.layers[layer]))
    assert all(item.requires_grad for item in model.parameters())
    assert model.backbone.lent.training
    heads = {id(item) for item in model.head_parameters()}
    assert not heads & {id(item) for item in model.backbone.lent.parameters()}
    objective.surgery.finish(model)
    model = make_model(exits=(2,))
    result = run_fit(model, DROP, tmp_path / "fit", full=full)
    trained = weights_of(model)
    assert not any("lent" in name for name in trained)
    assert len(model.backbone.layers) == 2
    assert trained.keys() == make_model(exits=(2,)).state_dict().keys()
    assert set(result.development_quality) == {2}
    model.save_pretrained(tmp_path / "saved")
    again = MultiExitModel.from_pretrained(tmp_path / "saved")
    assert same_bits(weights_of(again), trained)


# ---------------------------------------------------------------------------------------- what all share


@pytest.mark.parametrize("method", [THESEUS, DROP], ids=lambda method: method.objective)
def test_draws_depend_on_seed_and_step_alone(method):
    pairs = [(seed, attached(method, make_model(exits=(2,)), full_model(), seed)) for seed in (0, 0, 1)]
    orders = ([0, 1, 2, 3, 4, 5, 6, 7], [7, 3, 0, 1, 2, 6, 5, 4], list(range(8)))
    seen = []
    for (_, objective), order in zip(pairs, orders, strict=True):
        found = {}
        for step in order:
            torch.rand(step)  # the global generator must not matter
            objective.surgery.begin(step, 100)
            found[step] = list(objective.surgery.runs if method is DROP else objective.surgery.replaced)
        seen.append(found)
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.objective)
@pytest.mark.parametrize("batch_number", [4, 7])
def test_a_killed_run_resumes_to_the_same_weights_and_history(method, batch_number, tmp_path, monkeypatch):
    """With dropout; 4 batches are an epoch."""

    def run(folder):
        model = make_model(exits=(2,), dropout=0.1)
        result = run_fit(
            model,
            method,
            tmp_path / folder,
            full=full_model(dropout=0.1),
            epochs=2,
            save_every=2,
            warmup_ratio=0.2,
        )
        return weights_of(model), result

    weights, result = run("unbroken")
    with monkeypatch.context() as patch:
        kill_at(patch, batch_number)
        with pytest.raises(Killed):
            run("killed")
    assert list((tmp_path / "killed").glob("checkpoint-*"))
    resumed_weights, resumed = run("killed")
    assert same_bits(weights, resumed_weights)
    assert resumed.history == result.history


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.objective)
def test_the_saved_model_has_k_layers_loads_and_answers(method, tmp_path):
    model = make_model(exits=(2,))
    run_fit(model, method, tmp_path / "fit", full=full_model())
    model.save_pretrained(tmp_path / "saved")
    again = MultiExitModel.from_pretrained(tmp_path / "saved")
    batch = make_batch(model)
    assert torch.equal(again(**batch).logits, model.eval()(**batch).logits)
    assert again.backbone.num_layers == len(again.backbone.layers) == 2
    answer = Predictor(again).predict(["a good film", "bad"])
    assert set(answer.labels) <= set(SCHEMA.labels)
    assert answer.exit_layers.tolist() == [2, 2]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.objective)
def test_refusals(method):
    with pytest.raises(UserError, match=r"`exits` is \[3\], allowed: \[1\], \[2\], \[4\]"):
        attached(method, make_model(exits=(3,)), full_model())
    with pytest.raises(UserError, match=r"`exits` is \[1, 2\]"):
        attached(method, make_model(exits=(1, 2)), full_model())
    with pytest.raises(RuntimeError, match="needs a model of all layers"):
        attached(method, make_model(exits=(2,)), None)


def test_patient_distillation_refuses_scores_and_the_others_take_them():
    with pytest.raises(UserError, match="regression"):
        load_objective(PKD.objective, PKD).check_kind("regression")
    for method in (THESEUS, DROP):
        load_objective(method.objective, method).check_kind("regression")


def test_the_plain_objectives_run_batches_as_before():
    model, batch = make_model(), make_batch(make_model())
    objective = load_objective("joint", MethodTraining(gradient="blockwise"))
    for ours, plain in zip(
        objective.start(model, batch).answers(), model.start(batch, "blockwise").answers(), strict=True
    ):
        assert torch.equal(ours.logits, plain.logits)
    start = make_model(exits=(2, 4))
    full = full_model()
    start_from_full(start, full)
    assert same_bits(weights_of(start.backbone), weights_of(full.backbone))
    assert same_bits(weights_of(start.heads[-1]), weights_of(full.heads[-1]))


@pytest.mark.parametrize("method", [PKD, THESEUS])
def test_an_objective_that_needs_the_full_model_is_not_built_without_it(method):
    with pytest.raises(UserError, match=rf"{method.objective}' needs the full fine-tuned model"):
        model_and_objective(recipe_of(method), Backbone(weights="random:bert", exits=[2]))
