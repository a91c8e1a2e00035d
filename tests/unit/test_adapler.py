"""AdapLeR's training: which loss reaches which parameter, what is kept, and what comes back from disk."""

import logging
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_training import SCHEMA, Killed, kill_at, make_rows, recipe_of, same_bits, weights_of

from adaptive_inference.errors import UserError
from adaptive_inference.exits import MultiExitModel, build_model
from adaptive_inference.exits.forward import ExitAnswer
from adaptive_inference.exits.outputs import collect_outputs
from adaptive_inference.objectives import load_objective
from adaptive_inference.objectives.adapler import removal_terms
from adaptive_inference.objectives.base import Scored
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.settings.training import MethodTraining
from adaptive_inference.tasks.encode import collate, encode
from adaptive_inference.token_reduction.reduction import TokenReduction
from adaptive_inference.token_reduction.soft import SoftRemoval
from adaptive_inference.token_reduction.targets import imitation_loss, imitation_target
from adaptive_inference.training.fit import fit
from adaptive_inference.training.needs import model_and_objective
from adaptive_inference.training.progress import Progress
from adaptive_inference.training.rows import Rows
from adaptive_inference.training.trainer import ExitTrainer

BACKBONE = Backbone(weights="random:bert", exits=[2, 4], read="mean")
OURS = ("eta", "theta")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The full model's folder."""
    folder = tmp_path_factory.mktemp("full") / "model"
    build_model(Backbone(weights="random:bert", exits=[4], read="mean"), SCHEMA, 0).save_pretrained(folder)
    return folder


def method_of(objective="adapler", gradient="shared", **removal):
    return MethodTraining(objective=objective, gradient=gradient, removal=removal)


def rows_of(tokenizer, count=32, seed=0):
    features = encode(make_rows(count, seed), tokenizer, 32)
    telling = set(tokenizer.convert_tokens_to_ids(["good", "bad"]))
    for feature in features:
        feature["saliency"] = [1.0 if token in telling else 0.05 for token in feature["input_ids"]]
    return features


def parts(full, method, **training):
    """Recipe, model, objective and rows of a training."""
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "warmup_ratio": 0.2} | training
    recipe = recipe_of(method, **settings)
    model, objective = model_and_objective(recipe, BACKBONE, None, full)
    rows = Rows(rows_of(model.tokenizer), rows_of(model.tokenizer, 12, 1))
    return recipe, model, objective, rows


def train(full, folder, method, **training):
    recipe, model, objective, rows = parts(full, method, **training)
    return model, fit(model, objective, rows, recipe, folder)


def step(full, folder, method, change=lambda objective: None):
    """Gradients by name after the first batch."""
    recipe, model, objective, rows = parts(full, method)
    change(objective)
    trainer = ExitTrainer(
        model, objective, rows, recipe, folder, Progress(model.exits, lambda row, step: None)
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.state.max_steps = 8
    trainer.training_step(model, next(iter(trainer.get_train_dataloader())))
    return {
        name: torch.zeros_like(item) if item.grad is None else item.grad.clone()
        for name, item in model.named_parameters()
    }


def of(gradients, *starts):
    return {name: item for name, item in gradients.items() if name.startswith(starts)}


def moved(first, second):
    """Names of the gradients that differ."""
    return {name for name in first if not torch.allclose(first[name], second[name], rtol=1e-4, atol=1e-9)}


THRESHOLDS = {"reduction.eta", "reduction.theta"}


def test_imitation_moves_weights_alone_and_length_thresholds_alone(full, tmp_path):
    none = step(full, tmp_path / "none", method_of(gamma=0.0, phi=0.0, eta=0.9))
    imitating = step(full, tmp_path / "gamma", method_of(gamma=1.0, phi=0.0, eta=0.9))
    shortening = step(full, tmp_path / "phi", method_of(gamma=0.0, phi=1.0, eta=0.9))
    changed = moved(none, imitating)
    assert not changed & THRESHOLDS
    assert {name.split(".")[0] for name in changed} >= {"backbone", "reduction"}
    assert moved(none, shortening) == THRESHOLDS


def test_without_either_term_the_task_still_moves_thresholds_and_predictors(full, tmp_path):
    gradients = step(full, tmp_path, method_of(gamma=0.0, phi=0.0, eta=0.9))
    assert (gradients["reduction.eta"] != 0).all()
    assert (gradients["reduction.theta"] != 0).all()
    assert all((item != 0).any() for item in of(gradients, "reduction.predictors").values())


def test_a_block_learns_from_its_own_exit_alone(full, tmp_path):
    """With blockwise gradients, nothing above the first exit reaches what lies below it."""

    def silence_the_last(objective):
        whole = objective.losses
        objective.losses = lambda answers, labels: [
            whole(answers, labels)[0],
            answers[1].logits.new_zeros(()),
        ]

    def gradients(name, gradient, change=lambda objective: None):
        method = method_of("adapler_joint", gradient, gamma=1.0, phi=1.0, eta=0.9)
        found = step(full, tmp_path / name, method, change)
        lower = (
            "backbone.model.embeddings",
            "backbone.model.encoder.layer.0",
            "backbone.model.encoder.layer.1",
        )
        below = of(found, *lower, "reduction.predictors.0", "reduction.predictors.1")
        return below | {"eta": found["reduction.eta"][:2], "theta": found["reduction.theta"][:1]}

    whole = gradients("whole", "blockwise")
    assert not moved(whole, gradients("first", "blockwise", silence_the_last))
    assert {"eta", "theta"} <= moved(whole, gradients("shared", "shared"))


def test_a_block_learns_from_its_exit_all_that_an_exit_without_blocks_above_would_teach(full, tmp_path):
    """Blockwise gradients cut what comes from above, and nothing of a block's own: heads weigh tokens by survival too."""

    def first_alone(objective):
        whole = objective.losses
        objective.losses = lambda answers, labels: whole(answers, labels)[:1]

    blockwise, shared = (
        step(
            full, tmp_path / name, method_of("adapler_joint", name, gamma=0.0, phi=0.0, eta=0.9), first_alone
        )
        for name in ("blockwise", "shared")
    )
    assert (blockwise["reduction.eta"][:2] != 0).all()
    assert not moved(blockwise, shared)


@pytest.mark.parametrize(("epochs", "expected"), [(3, [50, 2500, 125_000]), (4, [10, 100, 1000, 10_000])])
def test_each_epoch_has_its_sharpness_from_its_first_step_to_its_last(epochs, expected):
    objective = load_objective("adapler", method_of())
    objective.epochs, found = epochs, []
    for taken in range(7 * epochs):
        objective.begin(taken, 7 * epochs)
        found.append(objective.sharpness)
    assert found == [sharpness for sharpness in expected for _ in range(7)]


def test_a_layer_counts_as_far_as_a_row_is_likely_to_reach_it_worked_by_hand():
    """Exits after layers 2 and 4: one row is 3/4 sure at the first, the other leaves there for certain."""
    weights, target = torch.ones(2, 2), torch.tensor([[0.75, 0.25]]).expand(2, -1)
    removal = SoftRemoval([], torch.ones(4), 10.0)
    removal.scores = [target, torch.full((2, 2), 0.5), target, target]
    removal.entry = [weights] * 4
    removal.lengths = [torch.tensor([left, 2 * left], requires_grad=True) for left in (8.0, 4.0, 2.0, 1.0)]
    first = torch.tensor([[0.0, math.log(3)], [0.0, 200.0]], requires_grad=True)
    answers = [ExitAnswer(2, first), ExitAnswer(4, torch.zeros(2, 2))]
    terms = removal_terms(removal, answers, 7 * target, torch.ones(3))
    assert terms.length.item() == pytest.approx(((8 + 4 + (2 + 1) / 4) + (16 + 8)) / 2)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert terms.imitation.item() == pytest.approx(3 * divergence, rel=1e-5)  # of layer 2 of 4
    terms.length.backward()
    assert first.grad is None
    found = torch.stack([item.grad for item in removal.lengths])
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.125, 0.0], [0.125, 0.0]]))
    alone = removal_terms(removal, answers[1:], 7 * target, torch.ones(3))
    assert alone.length.item() == pytest.approx((15 + 30) / 2)


@pytest.mark.parametrize("sharpness", [10.0, 1e5, 1e20])
def test_rows_that_collapse_and_rows_of_special_tokens_alone_train_without_imitation(full, sharpness):
    """All weight on the first token: every other one goes, nothing is left to imitate, and no gradient breaks."""
    _, model, _, rows = parts(full, method_of(eta=1.0))
    reduction = model.reduction
    batch = collate(rows.train[:3], model.tokenizer.pad_token_id)
    special = [model.tokenizer.cls_token_id, model.tokenizer.sep_token_id]
    batch["input_ids"][0], batch["attention_mask"][0], batch["saliency"][0] = 0, 0, 0.0
    batch["input_ids"][0, :2], batch["attention_mask"][0, :2] = torch.tensor(special), 1
    batch["saliency"][0, :2] = 0.5
    with torch.no_grad():
        reduction.eta.fill_(1.0)
        hidden = model.backbone.embed(batch)[0]
        for predictor in reduction.predictors:  # of the first token's state and no other
            predictor.inner.weight.copy_(50 * hidden[1, 0].expand_as(predictor.inner.weight))
            predictor.outer.weight.fill_(1.0)
    removal = reduction.soft(sharpness)
    answers = model.start(batch, removal=removal).answers()
    terms = removal_terms(removal, answers, batch["saliency"], reduction.theta)
    (terms.imitation + terms.length + answers[-1].logits.sum()).backward()
    assert all(item.grad is None or item.grad.isfinite().all() for item in model.parameters())
    if sharpness > 1e3:
        torch.testing.assert_close(removal.lengths[0], torch.ones(3))
        first = imitation_loss(
            imitation_target(batch["saliency"], removal.entry[1]), removal.scores[1], removal.entry[1]
        )
        assert first.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("phi", "start", "end"), [(1e6, 0.25, 1.0), (0.0, 0.01, None)])
def test_thresholds_stay_in_their_range(full, tmp_path, phi, start, end):
    model, _ = train(full, tmp_path, method_of(phi=phi, eta=start, threshold_learning_rate=5.0))
    eta = model.reduction.eta
    assert (eta >= 0.01 - 1e-8).all()
    assert (eta <= 1.0).all()
    assert end is None or (eta == end).any()


def test_a_higher_phi_leaves_no_more_tokens(full, tmp_path):
    left = []
    for phi in (0.0, 0.01, 1.0):
        method = method_of(phi=phi, gamma=0.1, threshold_learning_rate=0.1, max_loss=100.0)
        model, _ = train(full, tmp_path / str(phi), method, epochs=5, head_learning_rate=0.02)
        rows = rows_of(model.tokenizer, 20, 3)
        lengths = []
        for row in rows:
            forward = model.start({"input_ids": torch.tensor([row["input_ids"]])})
            forward.answers()
            lengths.append(float(np.mean(forward.survivors)))
        left.append(float(np.mean(lengths)))
    assert left[0] >= left[1] >= left[2], left
    assert left[0] > left[2], left


@pytest.mark.parametrize("objective", ["adapler", "adapler_joint"])
def test_a_killed_training_resumes_to_the_same_weights(full, tmp_path, monkeypatch, objective):
    method = method_of(objective)
    settings = {"save_every": 2}
    model, result = train(full, tmp_path / "unbroken", method, **settings)
    with monkeypatch.context() as patch:
        kill_at(patch, 6)
        with pytest.raises(Killed):
            train(full, tmp_path / "killed", method, **settings)
    again, resumed = train(full, tmp_path / "killed", method, **settings)
    assert same_bits(weights_of(model), weights_of(again))
    assert resumed.history == result.history
    assert resumed.best_merit == result.best_merit


def test_the_model_comes_back_with_thresholds_and_equal_answers(full, tmp_path):
    model, _ = train(full, tmp_path / "scratch", method_of("adapler_joint", threshold_learning_rate=0.05))
    model.save_pretrained(tmp_path / "model")
    again = MultiExitModel.from_pretrained(tmp_path / "model")
    assert torch.equal(model.reduction.eta, again.reduction.eta)
    assert torch.equal(model.reduction.theta, again.reduction.theta)
    features = rows_of(model.tokenizer, 9, 5)
    np.testing.assert_array_equal(
        collect_outputs(model, features, 4).logits, collect_outputs(again, features, 4).logits
    )


def test_one_exit_after_the_last_layer_or_all(full):
    assert parts(full, method_of())[1].exits == (4,)
    assert parts(full, method_of("adapler_joint"))[1].exits == (2, 4)


def test_parameters_of_a_predictor():
    """Property 16: 24,641 at a width of 768, 295,692 in twelve layers."""
    reduction = TokenReduction(12, 768)
    sizes = [sum(item.numel() for item in part.parameters()) for part in reduction.predictors]
    assert set(sizes) == {24_641}
    assert sum(sizes) == 295_692
    assert (reduction.eta == 0.25).all()
    assert (reduction.theta == 1).all()


@pytest.mark.parametrize(
    ("epochs", "best", "qualified"),
    [
        ([(0.90, 1.2), (0.895, 2.0), (0.80, 9.0), (0.893, 1.9)], 2, 1.0),  # the fastest above 0.89
        ([(0.90, 1.5), (0.89, 3.0)], 1, 1.0),  # the floor itself is not above it
        ([(0.5, 3.0), (0.6, 2.0), (0.55, 9.0)], 2, 0.0),  # none: the best
    ],
)
def test_the_fastest_epoch_near_the_full_model_is_kept(full, epochs, best, qualified, monkeypatch):
    """Property 17, with a full model of 0.90 and one point allowed."""
    from adaptive_inference.objectives import adapler

    objective = load_objective("adapler", method_of(), lambda kind: MultiExitModel.from_pretrained(full))
    objective.attach(build_model(BACKBONE, SCHEMA, 0, exits=[4], reduces=True), 0)
    progress = Progress((4,), lambda row, step: None)
    outputs = collect_outputs(objective.model, rows_of(objective.model.tokenizer, 4), 4)
    full_scored = Scored(outputs, [0.90])
    for epoch, (quality, speedup) in enumerate(epochs, start=1):
        monkeypatch.setattr(adapler, "flops_by_exit", lambda *_: np.ones((4, 1)))
        monkeypatch.setattr(adapler, "flops_speedup", lambda *_, value=speedup: value)
        merit = objective.merit(Scored(outputs, [quality]), lambda model: full_scored)
        progress.is_best([quality], epoch, merit)
    assert progress.best_epoch == best
    assert objective.verdict(progress.best_merit) == {
        "qualified": qualified,
        "development_flops_speedup": epochs[best - 1][1],
    }
    assert bool(objective.warning(progress.best_merit)) == (not qualified)


def test_that_nothing_qualifies_is_told(full, tmp_path, caplog):
    """The full model is right on every row, so that no model is above it."""
    recipe, model, objective, rows = parts(full, method_of(max_loss=0.0), epochs=1)
    told = (
        collect_outputs(MultiExitModel.from_pretrained(full), rows.development, 12).logits[:, -1].argmax(-1)
    )
    for feature, label in zip(rows.development, told, strict=True):
        feature["label"] = int(label)
    with caplog.at_level(logging.WARNING, "adaptive_inference"):
        result = fit(model, objective, rows, recipe, tmp_path)
    assert (result.best_merit[0], result.best_epoch) == (0.0, 1)
    assert "no epoch came within 0 points" in caplog.text


@pytest.mark.parametrize(
    ("removal", "key"),
    [({"eta": 1.5}, "eta"), ({"eta": 0.001}, "eta"), ({"gamma": -1.0}, "gamma"), ({"phi": -0.1}, "phi")],
)
def test_settings_out_of_range_are_refused(removal, key):
    with pytest.raises(ValidationError, match=key):
        method_of(**removal)


def test_exits_have_no_meaning_for_the_last_one_alone():
    with pytest.raises(ValidationError, match="adapler_joint"):
        MethodTraining(objective="adapler", exits=[2, 4])


def test_rows_without_saliency_are_refused(full, tmp_path):
    recipe, model, objective, rows = parts(full, method_of())
    for feature in rows.train:
        del feature["saliency"]
    with pytest.raises(UserError, match="extract_saliencies"):
        fit(model, objective, rows, recipe, tmp_path)


def test_families_that_cannot_lose_tokens_are_refused_with_the_reason(full):
    from adaptive_inference.backbones.deberta import DebertaBackbone

    objective = load_objective("adapler", method_of())
    with pytest.raises(UserError, match=r"deberta does not allow.*relative positions"):
        objective.surgery.check_encoder(DebertaBackbone, None)
