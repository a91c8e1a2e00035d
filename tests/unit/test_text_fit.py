"""Training a decoder by a loss over its blocks: what is learned, measured, selected and resumed."""

import math

import pytest
import torch
from safetensors.torch import load_file
from tiny_decoders import BLOCKS, collate, tiny_decoder, tiny_features

from adaptive_inference.errors import UserError
from adaptive_inference.generation.fit import fit
from adaptive_inference.generation.trainer import LayerTraining, TextRecipe, TextRows, TextTrainer
from adaptive_inference.settings.generation import LossTraining, TextTraining
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.training.progress import Progress

WEIGHTED = LossTraining(loss="weighted_ce")
FREE = LossTraining(loss="shallowdeep_kd_dyna", exit_layer=2, projection=True)


def make_rows(family, count=24, **more):
    return TextRows(tiny_features(family, count), tiny_features(family, 10, seed=1), collate, **more)


def recipe_of(loss, seed=0, runtime=None, **training):
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3} | training
    return TextRecipe(TextTraining(**settings), loss, runtime or Runtime(device="cpu"), seed)


def run_fit(family, loss, scratch, rows=None, on_log=lambda row, step: None, model=None, **training):
    trained = LayerTraining(model or tiny_decoder(family), loss)
    progress = fit(trained, rows or make_rows(family), recipe_of(loss, **training), scratch, on_log)
    return trained, progress


def weights_of(module):
    return {name: item.detach().clone() for name, item in module.state_dict().items()}


def same_bits(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("family", "loss"),
    [("t5", WEIGHTED), ("longt5", FREE), ("llama", FREE), ("gpt2", WEIGHTED), ("opt", FREE)],
)
def test_every_family_learns(family, loss, tmp_path):
    _, progress = run_fit(family, loss, tmp_path, epochs=4)
    losses = [row["development_loss"] for row in progress.history if "development_loss" in row]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert progress.train_loss < progress.history[0]["loss"]


def test_steps_relative_to_the_size_of_a_weight_learn_too(tmp_path):
    more = {"optimizer": "adafactor_scaled", "learning_rate": 2e-2, "weight_decay": 0.1}
    _, progress = run_fit("t5", WEIGHTED, tmp_path, epochs=4, **more)
    assert progress.train_loss < progress.history[0]["loss"]


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "adafactor_scaled"])
def test_optimisers_are_those_of_the_trainer(optimizer, tmp_path):
    loss = LossTraining(loss="ce")
    recipe = recipe_of(loss, optimizer=optimizer, weight_decay=0.1)
    trained = LayerTraining(tiny_decoder("t5"), loss)
    progress = Progress(trained.loss.exits, lambda row, step: None)
    trainer = TextTrainer(trained, make_rows("t5"), recipe, tmp_path, progress)
    made = trainer.create_optimizer()
    assert type(made).__name__.lower() == optimizer.removesuffix("_scaled")
    assert {group["weight_decay"] for group in made.param_groups} == {0.0, 0.1}
    assert all(group["lr"] == 3e-3 for group in made.param_groups)
    if optimizer != "adamw":  # free.md section 2: a fixed rate, no scaling by the parameter
        assert not any(group["relative_step"] for group in made.param_groups)
        assert {group["scale_parameter"] for group in made.param_groups} == {optimizer == "adafactor_scaled"}


def test_a_history_names_exits_and_the_development_figures(tmp_path):
    seen = []
    _, progress = run_fit("t5", FREE, tmp_path, on_log=lambda row, step: seen.append(step))
    last = progress.history[-1]
    assert progress.exits == (2, BLOCKS)
    assert {"exit2_loss", f"exit{BLOCKS}_loss", "development2_quality", "development_loss"} <= last.keys()
    assert math.isclose(last["loss"], last["exit2_loss"] + last[f"exit{BLOCKS}_loss"])
    assert all(0 <= progress.development_quality[layer] <= 1 for layer in progress.exits)
    assert seen == [row["step"] for row in progress.history]
    assert last["step"] == 2 * 3


def test_development_figures_are_means_over_tokens_not_over_batches(tmp_path):
    trained, progress = run_fit("t5", WEIGHTED, tmp_path, epochs=1, batch_size=4)
    rows = make_rows("t5").development
    sums, tokens = trained.token_scores(collate(rows))
    assert tokens == sum(len(row["labels"]) for row in rows)
    assert progress.history[-1]["development_loss"] == pytest.approx(float(sums[0, -1]) / tokens, rel=1e-5)
    assert progress.quality == pytest.approx((sums[1] / tokens).tolist())


def test_the_best_epoch_is_that_of_the_metric_and_its_weights_come_back(tmp_path):
    values, seen = iter([0.2, 0.7, 0.7, 0.1]), []

    def metric(model):
        assert not model.training
        seen.append(weights_of(model))
        return next(values)

    rows = make_rows("llama", metric=("bleu", metric))
    trained, progress = run_fit("llama", WEIGHTED, tmp_path, rows, epochs=4)
    assert [row["development_bleu"] for row in progress.history if "development_bleu" in row] == [
        0.2,
        0.7,
        0.7,
        0.1,
    ]
    assert progress.best_epoch == 2
    assert progress.best_merit == [0.7]
    assert same_bits(weights_of(trained.model), seen[1])
    assert not trained.model.training


def test_without_a_metric_the_smallest_development_loss_is_best(tmp_path):
    _, progress = run_fit(
        "t5", WEIGHTED, tmp_path, epochs=4, learning_rate=0.3
    )  # far too fast: it gets worse again
    losses = [row["development_loss"] for row in progress.history if "development_loss" in row]
    assert progress.best_epoch == 1 + losses.index(min(losses))
    assert progress.best_merit == [-min(losses)]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize(("family", "batch"), [("t5", 2), ("t5", 5), ("gpt2", 5)])
def test_a_killed_training_ends_as_one_that_was_not(family, batch, tmp_path, monkeypatch):
    settings = {"save_every": 1, "learning_rate": 1e-2}
    whole, expected = run_fit(family, FREE, tmp_path / "whole", **settings)
    original, count = TextTrainer.training_step, []

    def dying(self, *args, **kwargs):
        count.append(1)
        if len(count) == batch:
            raise Killed
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(TextTrainer, "training_step", dying)
        with pytest.raises(Killed):
            run_fit(family, FREE, tmp_path / "killed", **settings)
    started = []
    monkeypatch.setattr(
        TextTrainer,
        "training_step",
        lambda self, *args, **kwargs: (started.append(1), original(self, *args, **kwargs))[1],
    )
    resumed, progress = run_fit(
        family, FREE, tmp_path / "killed", model=tiny_decoder(family, seed=9), **settings
    )
    assert len(started) == 6 - (batch - 1)  # it went on where it stopped
    assert same_bits(weights_of(resumed), weights_of(whole))
    assert progress.history == expected.history


def test_what_another_training_left_is_not_resumed(tmp_path):
    run_fit("t5", WEIGHTED, tmp_path)
    other, progress = run_fit("t5", WEIGHTED, tmp_path, seed=1)
    alone, _ = run_fit("t5", WEIGHTED, tmp_path / "alone", seed=1)
    assert progress.steps == 6
    assert same_bits(weights_of(other), weights_of(alone))


def test_tied_weights_are_kept_once(tmp_path):
    trained, _ = run_fit("t5", FREE, tmp_path)
    names = load_file(tmp_path / "best.safetensors").keys()
    assert "model.shared.weight" in names
    assert not {"model.lm_head.weight", "model.encoder.embed_tokens.weight"} & names
    assert "loss.projection.weight" in names
    assert trained.model.lm_head.weight is trained.model.shared.weight


def test_accumulated_batches_give_the_step_of_one_batch(tmp_path):
    """All targets have three tokens, so the mean over batches is the mean over tokens."""
    one, _ = run_fit("llama", WEIGHTED, tmp_path / "one", epochs=1, batch_size=8, max_grad_norm=0.0)
    two, _ = run_fit(
        "llama",
        WEIGHTED,
        tmp_path / "two",
        epochs=1,
        batch_size=4,
        gradient_accumulation=2,
        max_grad_norm=0.0,
    )
    torch.testing.assert_close(weights_of(two), weights_of(one), rtol=1e-3, atol=1e-4)


def test_bf16_trains(tmp_path):
    trained, rough = run_fit("llama", FREE, tmp_path, runtime=Runtime(device="cpu", precision="bf16"))
    _, exact = run_fit("llama", FREE, tmp_path / "exact")
    assert rough.train_loss == pytest.approx(exact.train_loss, rel=0.05)
    assert rough.train_loss != exact.train_loss
    assert all(item.dtype == torch.float32 for item in trained.parameters())


def test_a_loss_that_is_not_finite_names_its_block_and_the_fix(tmp_path):
    model = tiny_decoder("llama")
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.fill_(torch.inf)
    with pytest.raises(UserError, match=r"exit after block 3 is not finite at step 1; lower `learning_rate`"):
        run_fit("llama", WEIGHTED, tmp_path, model=model)


def test_splits_without_rows_and_rows_without_targets_are_refused(tmp_path):
    empty = TextRows([], tiny_features("t5"), collate)
    with pytest.raises(UserError, match="the training split is empty"):
        run_fit("t5", WEIGHTED, tmp_path, empty)
    row = {"id": 7, "input_ids": [3, 4], "labels": [-100, -100]}
    with pytest.raises(UserError, match=r"development row 7 has no target token.*raise `max_source`"):
        run_fit("llama", WEIGHTED, tmp_path, TextRows(tiny_features("llama"), [row], collate))
