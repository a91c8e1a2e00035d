"""Objectives of the early-exit literature, trained on tiny models (pabee_leebert.md 1.1 to 1.6, section 8)."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_training import (
    EE,
    SCHEMA,
    SCORES,
    Killed,
    kill_at,
    make_batch,
    make_features,
    make_model,
    ready_trainer,
    run_fit,
    same_bits,
    weights_of,
)

from adaptive_inference.backbones.base import HeadRecipe
from adaptive_inference.errors import UserError
from adaptive_inference.exits.build import build_model, start_from_full
from adaptive_inference.exits.head import AttentionHead, ExitHead
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.objectives import load_objective
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.settings.training import Distillation, MethodTraining, WeightLearning
from adaptive_inference.tasks.encode import collate
from adaptive_inference.training.order import EpochOrder, other_half, split_halves
from adaptive_inference.training.trainer import ExitTrainer

DEEBERT = MethodTraining(objective="frozen")
FASTBERT = MethodTraining(objective="frozen", targets="teacher")


def leebert(**keys):
    teachers = keys.pop("teachers", "all")
    group = {"group": 2} if keys.get("scheme", "clo_v2") == "clo_v2" else {}
    settings = WeightLearning(**({"learning_rate": 0.05} | group | keys))
    return MethodTraining(
        objective="weight_learning", distillation=Distillation(teachers=teachers), weight_learning=settings
    )


def losses_of(model, method, batch, step=0):
    objective = load_objective(method.objective, method)
    objective.attach(model, 0)
    objective.enter_training(model)
    objective.begin(step, 10)
    return objective.losses(objective.start(model, batch).answers(), batch["labels"])


def gradients(loss, parameters):
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(item) if part is None else part for part, item in zip(found, parameters, strict=True)
    ]


# --------------------------------------------------------------------------- joint: equilibrium, alternation


def test_equilibrium_gives_each_block_the_mean_of_the_gradients_of_the_exits_above():
    """Unrolled, the recursion of the note gives every one of the n exits above a state the share 1 / n."""
    model = make_model()
    batch, exits = make_batch(model), len(model.exits)
    shared = losses_of(model, EE, batch)
    balanced = sum(losses_of(model, MethodTraining(gradient="equilibrium"), batch))
    for block, (start, stop) in enumerate(zip((0, *model.exits), model.exits, strict=False)):
        parameters = model.backbone.layer_parameters(start, stop)
        single = [gradients(loss, parameters) for loss in shared[block:]]
        found = gradients(balanced, parameters)
        for item, parts in zip(found, zip(*single, strict=True), strict=True):
            assert torch.allclose(item, sum(parts) / (exits - block), atol=1e-6)
        own = list(model.heads[block].parameters())
        for item, part in zip(gradients(balanced, own), gradients(shared[block], own), strict=True):
            assert torch.allclose(item, part, atol=1e-7)


def test_alternation_trains_the_last_exit_alone_and_all_exits_in_turn():
    model, method = make_model(), MethodTraining(alternate=True)
    batch = make_batch(model)
    inner = [item for head in model.heads[:-1] for item in head.parameters()]
    even, odd, plain = (sum(losses_of(model, m, batch, s)) for m, s in ((method, 0), (method, 1), (EE, 0)))
    untouched = torch.autograd.grad(even, inner, retain_graph=True, allow_unused=True)
    assert all(
        item is None for item in untouched
    )  # a gradient of 0 would let AdamW's momentum move the heads
    assert all(item.any() for item in gradients(odd, inner))
    assert odd.item() == plain.item()
    assert even.item() == losses_of(model, EE, batch)[-1].item()


def test_depth_weights_sum_to_one_and_grow_with_the_layer():
    model = make_model(exits=(1, 2, 4))
    batch = make_batch(model)
    weighted, plain = losses_of(model, MethodTraining(weights="depth"), batch), losses_of(model, EE, batch)
    shares = [(a / b).item() for a, b in zip(weighted, plain, strict=True)]
    assert shares == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=1e-6)


# --------------------------------------------------------------------------- frozen: DeeBERT, FastBERT


@pytest.mark.parametrize("method", [DEEBERT, FASTBERT], ids=["deebert", "fastbert"])
def test_15_the_second_stage_changes_nothing_but_the_inner_heads(method, tmp_path):
    model = make_model(dropout=0.1)
    before = weights_of(model)
    run_fit(model, method, tmp_path, epochs=2, full=make_model(exits=(4,)))
    after = weights_of(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    inner = {f"heads.{k}.{name}" for k in (0, 1) for name, _ in model.heads[k].named_parameters()}
    assert changed == inner


def test_15_fastbert_reads_no_labels_in_its_second_stage(tmp_path, monkeypatch):
    def train(flip):
        model = make_model()
        whole = ExitTrainer.training_step

        def step(self, net, inputs, *rest):
            return whole(self, net, inputs | {"labels": 1 - inputs["labels"]} if flip else inputs, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(ExitTrainer, "training_step", step)
            run_fit(model, FASTBERT, tmp_path / str(flip), full=make_model(exits=(4,)))
        return weights_of(model)

    assert same_bits(train(False), train(True))


def test_the_second_stage_sees_an_encoder_without_dropout():
    model = make_model(dropout=0.5)
    batch = make_batch(model)
    states = []
    objective = load_objective("frozen", DEEBERT)
    objective.attach(model, 0)
    for _ in range(2):
        objective.enter_training(model)
        forward = model.start(batch)
        states.append([(forward.advance(k), forward.hidden_BNH)[1] for k in range(len(model.exits))])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    assert model.heads[0].training
    assert not model.heads[-1].training
    assert not model.backbone.training


def test_starting_from_the_full_model_gives_its_answers_at_the_last_exit():
    full = make_model(exits=(4,))
    with torch.no_grad():
        for item in full.parameters():
            item.add_(0.01)
    model = make_model()
    start_from_full(model, full)
    batch = make_batch(model)
    logits = model.eval()(**batch).logits[:, -1]
    assert torch.equal(logits, full.eval()(**batch).logits[:, 0])
    with pytest.raises(UserError, match=r"exit after its last layer, 4; the exits are \[1, 2\]"):
        start_from_full(make_model(exits=(1, 2)), full)


def test_a_single_exit_has_nothing_to_train_on_a_frozen_encoder(tmp_path):
    with pytest.raises(UserError, match="give `exits` an inner layer"):
        run_fit(make_model(exits=(4,)), DEEBERT, tmp_path, full=make_model(exits=(4,)))


# --------------------------------------------------------------------------- heads


def test_head_parameters_are_those_of_the_papers():
    plain = [ExitHead(768, 2, "none", "first", HeadRecipe()) for _ in range(12)]
    assert sum(item.numel() for head in plain for item in head.parameters()) == 18_456
    student = AttentionHead(768, 2, "first", HeadRecipe())
    assert sum(item.numel() for item in student.parameters()) == 181_250  # the note says about 180k


@pytest.mark.parametrize("read", ["first", "mean"])
def test_the_attention_head_sees_no_padding(read):
    torch.manual_seed(0)
    head = AttentionHead(16, 3, read, HeadRecipe()).eval()
    hidden = torch.randn(2, 5, 16)
    tokens = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    both = head.features(hidden, tokens)
    alone = head.features(hidden[:1, :3], None)
    assert torch.allclose(both[:1], alone, atol=1e-6)
    assert torch.allclose(both[1:], head.features(hidden[1:], None), atol=1e-6)


def test_a_model_with_attention_heads_is_saved_and_loaded(tmp_path):
    params = Backbone(weights="random:bert", exits=[1, 2, 4])
    model = build_model(params, SCHEMA, 0, inner_head="attention").eval()
    assert [type(head).__name__ for head in model.heads] == ["AttentionHead", "AttentionHead", "ExitHead"]
    assert same_bits(weights_of(model), weights_of(build_model(params, SCHEMA, 0, inner_head="attention")))
    model.save_pretrained(tmp_path)
    batch = make_batch(model)
    again = MultiExitModel.from_pretrained(tmp_path)
    assert torch.equal(again(**batch).logits, model(**batch).logits)


# --------------------------------------------------------------------------- LeeBERT


@pytest.mark.parametrize("scheme", ["slo", "blo", "clo_v1"])
def test_the_weights_move_as_a_float64_computation_by_autograd_says(scheme, tmp_path):
    """One step of plain gradients: the loss itself is differentiated with respect to its weights."""
    rate, weight_rate, rows = 1e-3, 0.05, 16
    method = leebert(scheme=scheme, parametrisation="raw", optimizer="sgd", learning_rate=weight_rate)
    model = make_model()
    twin = copy.deepcopy(model).double().train()
    size = rows if scheme == "slo" else rows // 2
    result = run_fit(
        model, method, tmp_path, rows=rows, batch_size=size, schedule="constant", max_grad_norm=0.0
    )
    assert result.steps == 1

    features = make_features(twin, rows)
    first, second = (range(rows), ()) if scheme == "slo" else split_halves(rows, 0, 0)
    pad = twin.tokenizer.pad_token_id
    exits, tau = len(twin.exits), 2.0

    def loss(chosen, truth, teachers):
        batch = collate([features[row] for row in chosen], pad)
        logits = [answer.logits for answer in twin.start(batch).answers()]
        total = sum(truth[m] * F.cross_entropy(logits[m], batch["labels"]) for m in range(exits))
        for m in range(exits):
            for t in range(exits):
                if t != m:
                    soft = (logits[t].detach() / tau).softmax(-1)
                    log = (logits[m] / tau).log_softmax(-1)
                    term = -(tau**2) * (soft * log).sum(-1).mean()
                    total = total + teachers[m, t] * term / (exits * (exits - 1))
        return total

    truth = torch.ones(exits, dtype=torch.float64, requires_grad=True)
    teachers = (1.0 - torch.eye(exits, dtype=torch.float64)).requires_grad_()
    before = torch.autograd.grad(loss(first, truth, teachers), [truth, teachers])
    optimizer = torch.optim.AdamW(twin.parameters(), lr=rate, weight_decay=0.0)
    loss(first, truth.detach(), teachers.detach()).backward()
    optimizer.step()
    if scheme == "slo":
        steps = [weight_rate * item for item in before]
    else:
        steps = [
            weight_rate * item
            for item in torch.autograd.grad(loss(second, truth, teachers), [truth, teachers])
        ]
    if scheme == "clo_v1":
        again = torch.autograd.grad(loss(first, truth, teachers), [truth, teachers])
        steps = [step + rate * item for step, item in zip(steps, again, strict=True)]
    found = result.trajectory[-1]
    expected = [(truth - steps[0]).tolist(), ((teachers - steps[1]) * (1 - torch.eye(exits))).tolist()]
    assert found["truth"] == pytest.approx(expected[0], abs=1e-5)
    for row, wanted in zip(found["teachers"], expected[1], strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("batch_number", [2, 3, 4, 6], ids=lambda n: f"batch{n}")
def test_a_killed_run_resumes_to_the_same_weights_of_network_and_losses(batch_number, tmp_path, monkeypatch):
    """42 rows: 3 batches of the half are an epoch; with dropout, in the forwards of the weights too."""
    monkeypatch.setattr("adaptive_inference.training.pace.HISTORY_ROWS", 6)
    settings = {"rows": 42, "epochs": 2, "save_every": 2, "group_by_length": True}

    def run(folder):
        model = make_model(dropout=0.1)
        return model, run_fit(
            model, leebert(scheme="clo_v2", between="algorithm"), tmp_path / folder, **settings
        )

    unbroken, result = run("unbroken")
    with monkeypatch.context() as patch:
        kill_at(patch, batch_number)
        with pytest.raises(Killed):
            run("killed")
    resumed, again = run("killed")
    assert same_bits(weights_of(unbroken), weights_of(resumed))
    assert again.history == result.history
    assert again.trajectory == result.trajectory
    assert result.steps == 6
    assert result.trajectory[-1]["truth"] != [1.0, 1.0, 1.0]


def test_14_no_step_of_the_network_uses_a_row_of_the_other_half(tmp_path, monkeypatch):
    trained, others = {}, {}
    whole, rest = ExitTrainer.training_step, ExitTrainer._others

    def step(self, model, inputs, *more):
        trained.setdefault(int(self.state.epoch or 0), set()).update(inputs["ids"].tolist())
        return whole(self, model, inputs, *more)

    def other(self, step_):
        batches = rest(self, step_)
        others.setdefault(step_ // 3, set()).update(row for batch in batches for row in batch["ids"].tolist())
        return batches

    monkeypatch.setattr(ExitTrainer, "training_step", step)
    monkeypatch.setattr(ExitTrainer, "_others", other)
    model = make_model()
    run_fit(model, leebert(scheme="blo"), tmp_path, rows=42, epochs=3)
    ids = [feature["id"] for feature in make_features(model, 42)]
    for epoch in range(3):
        first, second = ({ids[row] for row in half} for half in split_halves(42, 0, epoch))
        assert trained[epoch] == first
        assert others[epoch] == second
    assert sorted(other_half([1] * 42, 8, 0, 0, False)) == split_halves(42, 0, 0)[1]


@pytest.mark.parametrize("grouped", [False, True])
def test_14_batches_of_the_other_half_tell_nothing_of_the_networks_own(grouped):
    """Rows of a sorted file, so that places are classes: the n-th batches must not stand at the same places."""
    lengths = [5] * 400
    own, other = EpochOrder(lengths, 8, 0, grouped, halved=True), other_half(lengths, 8, 0, 0, grouped)
    halves = split_halves(400, 0, 0)
    places = [
        [half.index(row) for row in order] for half, order in zip(halves, (list(own), other), strict=True)
    ]
    assert sum(a == b for a, b in zip(*places, strict=True)) < 20  # one in 200 by chance
    assert abs(np.corrcoef(places)[0, 1]) < 0.3


def test_slo_learns_from_all_rows_and_fixed_weights_are_reported_nowhere(tmp_path):
    slo = run_fit(make_model(), leebert(scheme="slo"), tmp_path / "slo", rows=32)
    fixed = run_fit(make_model(), MethodTraining(objective="distill"), tmp_path / "fixed", rows=32)
    assert slo.steps == fixed.steps == 4
    assert len(slo.trajectory) == len(slo.history)
    assert fixed.trajectory == []


def test_losses_between_exits_are_not_defined_for_scores(tmp_path):
    for method in (MethodTraining(objective="distill"), leebert(), FASTBERT):
        with pytest.raises(UserError, match="not defined for a regression task"):
            run_fit(make_model(schema=SCORES), method, tmp_path, schema=SCORES)
    full = make_model(exits=(4,), schema=SCORES)
    run_fit(make_model(schema=SCORES), DEEBERT, tmp_path, schema=SCORES, full=full)
    run_fit(make_model(schema=SCORES), MethodTraining(weights="depth"), tmp_path, schema=SCORES)


# --------------------------------------------------------------------------- early stopping


@pytest.mark.parametrize(("score_every", "scored"), [(1, [1, 2, 3]), (2, [2, 4, 6])])
def test_training_stops_after_scorings_without_a_better_one_and_stays_stopped(
    score_every, scored, tmp_path, monkeypatch
):
    monkeypatch.setattr("adaptive_inference.training.score.quality", lambda *given: 0.5)
    settings = {"rows": 16, "epochs": 9, "patience": 2, "score_every": score_every}
    first = run_fit(make_model(), EE, tmp_path, **settings)
    assert first.best_epoch == scored[0]
    assert [row["epoch"] for row in first.history if "development_quality" in row] == scored
    assert first.steps == 2 * scored[-1]
    kill_at(monkeypatch, 1)  # no batch is trained again
    second = run_fit(make_model(), EE, tmp_path, **settings)
    assert second.history == first.history


def test_the_last_epoch_is_scored_whatever_the_distance_and_unscored_ones_are_no_candidates(tmp_path):
    result = run_fit(make_model(), EE, tmp_path, epochs=5, score_every=2)
    assert [row["epoch"] for row in result.history if "development_quality" in row] == [2, 4, 5]
    assert result.best_epoch in (2, 4, 5)
    assert [row["epoch"] for row in result.history if row["epoch"] in (1, 3)] == [1, 3]


@pytest.mark.parametrize("method", [EE, leebert()], ids=["joint", "leebert"])
def test_a_batch_is_kept_only_where_it_is_asked_for_again(method, tmp_path):
    model = make_model()
    trainer = ready_trainer(model, method, tmp_path)
    trainer.training_step(model, make_batch(model))
    assert len(trainer._batches) == int(method is not EE)
