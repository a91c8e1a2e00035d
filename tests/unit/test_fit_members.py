"""Members of a multi-model: each resumes by itself, and the last may be the full model."""

from dataclasses import replace

import pytest
import torch
from tiny_training import EE, make_model, make_split_rows, objective_of, recipe_of, same_bits, weights_of

from adaptive_inference.exits import MultiModel, load_model
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.training import members
from adaptive_inference.training.trainer import ExitTrainer


class Killed(BaseException):
    """Stands for a kill."""


@pytest.fixture
def trainer(tmp_path):
    """Makes trainers that share the rows."""
    rows = make_split_rows(make_model())

    def make(scratch, log=None, identity="x"):
        return members.MemberTrainer(
            Backbone(weights="random:bert", exits=[1, 2, 4]),
            objective_of(EE),
            rows,
            recipe_of(epochs=2, batch_size=8, learning_rate=1e-3, save_every=3),
            tmp_path / scratch,
            (lambda row, step: None) if log is None else (lambda row, step: log.append((step, row))),
            identity,
        )

    return make


def test_a_killed_run_keeps_finished_members_and_resumes_the_other(trainer, monkeypatch):
    logs = {"whole": [], "resumed": []}
    whole = [trainer("whole", logs["whole"]).train(layer) for layer in (1, 2)]
    with monkeypatch.context() as patch:
        original, seen = ExitTrainer.training_step, []

        def dying(self, *args, **kwargs):
            seen.append(1)
            if len(seen) == 8 + 5:  # 8 steps are a member
                raise Killed
            return original(self, *args, **kwargs)

        patch.setattr(ExitTrainer, "training_step", dying)
        killed = trainer("killed")
        killed.train(1)
        with pytest.raises(Killed):
            killed.train(2)

    steps = []
    original = ExitTrainer.training_step
    monkeypatch.setattr(
        ExitTrainer, "training_step", lambda self, *a, **k: (steps.append(1), original(self, *a, **k))[1]
    )
    again = [trainer("killed", logs["resumed"]).train(layer) for layer in (1, 2)]
    assert len(steps) == 8 - 4  # nothing of the first member; of the second, what follows its last checkpoint
    for before, after in zip(whole, again, strict=True):
        assert same_bits(weights_of(before.model), weights_of(after.model))
        assert (before.metrics, before.history, before.steps) == (after.metrics, after.history, after.steps)
    assert logs["resumed"] == logs["whole"]


def test_a_finished_member_of_another_record_is_trained_again(trainer, monkeypatch):
    trainer("same").train(1)

    def dying(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(members, "fit", dying)
    trainer("same").train(1)
    with pytest.raises(Killed):
        trainer("same", identity="y").train(1)


def test_names_tell_the_members_apart(trainer):
    first, second = (trainer("named").train(layer) for layer in (1, 2))
    assert not first.metrics.keys() & second.metrics.keys()
    assert {name for row in first.history for name in row} == {
        "step",
        "epoch",
        "exit1_loss",
        "development1_quality",
    }


def test_the_full_model_is_the_member_that_would_be_trained(trainer, tmp_path):
    trained = trainer("trained").train(4)
    copied = trainer("copied").copy(trained.model)
    assert copied.metrics["development4_quality"] == trained.metrics["development4_quality"]
    assert (copied.steps, trained.steps) == (None, 8)
    MultiModel([trainer("trained").train(1).model, copied.model]).save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert same_bits(weights_of(loaded.members[1]), weights_of(trained.model))


@pytest.mark.parametrize("epochs", [2, 3])
def test_the_full_model_is_copied_only_where_it_was_trained_as_the_members_are(epochs, trainer, monkeypatch):
    making = trainer("family")
    full = making.train(4).model
    monkeypatch.setattr(
        members.MemberTrainer, "train", lambda self, layer: members.Member(layer, full, {}, steps=8)
    )
    full_recipe = replace(
        making.recipe, training=making.recipe.training.model_copy(update={"epochs": epochs})
    )
    family = making.train_all([1, 4], full, full_recipe)
    assert [member.steps for member in family.members] == [8, None if epochs == 2 else 8]


def test_a_family_adds_up_its_members(trainer):
    making = trainer("family")
    full = making.train(4).model
    family = making.train_all([1, 2, 4], full, making.recipe)
    sizes = [sum(item.numel() for item in member.model.parameters()) for member in family.members]
    assert family.metrics["parameters"] == sum(sizes)
    assert len(family.history) == sum(len(member.history) for member in family.members)
    assert family.timings["seconds"] == sum(family.timings["members"].values())
    assert family.timings["members"].keys() == {"1", "2"}  # the copy took no time


def test_a_member_starts_as_the_multi_exit_model_does(trainer):
    """sweet.md 7.11: the same first layers and the same head, so that only training tells them apart."""
    member, exits = make_model(exits=(2,)), make_model(exits=(2, 4))
    assert same_bits(weights_of(member.heads[0]), weights_of(exits.heads[0]))
    for first, second in zip(
        member.backbone.layer_parameters(0, 2), exits.backbone.layer_parameters(0, 2), strict=True
    ):
        assert torch.equal(first, second)
