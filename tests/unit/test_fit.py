"""Whole trainings: selection, history, and a killed run that resumes bit by bit."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import (
    EE,
    LTE,
    SCORES,
    SWEET_LOCAL,
    Killed,
    kill_at,
    make_features,
    make_model,
    make_split_rows,
    objective_of,
    recipe_of,
    run_fit,
    same_bits,
    weights_of,
)

from adaptive_inference.errors import UserError
from adaptive_inference.exits.outputs import collect_outputs
from adaptive_inference.objectives.base import Scored
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.settings.training import MethodTraining
from adaptive_inference.training.fit import fit
from adaptive_inference.training.progress import Progress
from adaptive_inference.training.rows import length_quantiles

SETTINGS = {"rows": 42, "epochs": 2, "save_every": 2, "warmup_ratio": 0.2, "group_by_length": True}


@pytest.mark.parametrize("batch_number", [2, 4, 6, 7, 11], ids=lambda n: f"batch{n}")
@pytest.mark.parametrize(
    ("method", "accumulation", "score_every"),
    [(SWEET_LOCAL, 1, 1), (LTE, 1, 2), (EE, 2, 1)],
    ids=["sweet", "lte_scored_once", "accumulated"],
)
def test_a_killed_run_resumes_to_the_same_weights_and_history(
    method, accumulation, score_every, batch_number, tmp_path, monkeypatch
):
    """With dropout: the generators' states are resumed too. 6 batches are an epoch, and rows take 3 steps."""
    monkeypatch.setattr("adaptive_inference.training.pace.HISTORY_ROWS", 12 // accumulation // 3)

    def run(folder, log):
        torch.manual_seed(len(log))  # whatever was drawn before must not matter
        model = make_model(certainty=method is LTE, dropout=0.1)
        settings = SETTINGS | {"gradient_accumulation": accumulation, "score_every": score_every}
        result = run_fit(
            model, method, tmp_path / folder, on_log=lambda row, step: log.append((step, row)), **settings
        )
        return weights_of(model), result

    logs = {"unbroken": [], "killed": []}
    weights, result = run("unbroken", logs["unbroken"])
    with monkeypatch.context() as patch:
        kill_at(patch, batch_number)
        with pytest.raises(Killed):
            run("killed", logs["killed"])
    reached = len(logs["killed"])
    resumed_weights, resumed = run("killed", logs["killed"])
    assert same_bits(weights, resumed_weights)
    assert resumed.history == result.history
    assert logs["killed"][reached:] == logs["unbroken"]  # the new tracker hears all rows
    assert (resumed.best_epoch, resumed.development_quality) == (
        result.best_epoch,
        result.development_quality,
    )
    assert resumed.train_loss == result.train_loss
    assert resumed.steps_run == resumed.steps == 12 // accumulation


def test_a_run_killed_while_it_is_scored_is_scored_again(tmp_path, monkeypatch):
    """A checkpoint of an epoch's last step, taken before the scoring, would let it be skipped."""
    from adaptive_inference.training import trainer

    def dying(*args, **kwargs):
        raise Killed

    settings = SETTINGS | {"save_every": 3}
    unbroken = run_fit(make_model(dropout=0.1), EE, tmp_path / "unbroken", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "scored", dying)
        with pytest.raises(Killed):
            run_fit(make_model(dropout=0.1), EE, tmp_path / "killed", **settings)
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-3"]
    assert run_fit(make_model(dropout=0.1), EE, tmp_path / "killed", **settings).history == unbroken.history


def test_the_best_epoch_survives_a_kill(tmp_path, monkeypatch):
    from adaptive_inference.training import trainer

    planned = iter([[0.9, 0.9, 0.9], [0.1, 0.1, 0.1]])
    kept = []

    def scored(model, *rest):
        kept.append(weights_of(model))
        return Scored(None, next(planned))

    monkeypatch.setattr(trainer, "scored", scored)
    with monkeypatch.context() as patch:
        kill_at(patch, 8)
        with pytest.raises(Killed):
            run_fit(make_model(), EE, tmp_path, **SETTINGS)
    model = make_model()
    result = run_fit(model, EE, tmp_path, **SETTINGS)
    assert (result.best_epoch, result.development_quality) == (1, {1: 0.9, 2: 0.9, 4: 0.9})
    assert same_bits(weights_of(model), kept[0])


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    first = make_model(dropout=0.1)
    result = run_fit(first, EE, tmp_path, **SETTINGS)
    kill_at(monkeypatch, 1)
    second = make_model(dropout=0.1)
    assert run_fit(second, EE, tmp_path, **SETTINGS).history == result.history
    assert same_bits(weights_of(first), weights_of(second))


def test_files_of_another_training_are_not_resumed(tmp_path, monkeypatch):
    run_fit(make_model(), EE, tmp_path, **SETTINGS)
    kill_at(monkeypatch, 1)
    with pytest.raises(Killed):
        run_fit(make_model(), EE, tmp_path, **(SETTINGS | {"learning_rate": 2e-3}))


def other_label(part):
    def change(rows):
        first, *rest = getattr(rows, part)
        return replace(rows, **{part: [first | {"label": 1 - first["label"]}, *rest]})

    return change


@pytest.mark.parametrize(
    ("rows", "exits", "identity"),
    [
        (other_label("train"), (1, 2, 4), "a"),
        (other_label("development"), (1, 2, 4), "a"),
        (lambda rows: replace(rows, train=rows.train[:-1]), (1, 2, 4), "a"),
        (lambda rows: rows, (2, 4), "a"),
        (lambda rows: rows, (1, 2, 4), "b"),
    ],
    ids=["label", "development label", "row", "exits", "identity"],
)
def test_a_training_is_told_apart_by_its_rows_exits_and_identity(
    rows, exits, identity, tmp_path, monkeypatch
):
    given, recipe = make_split_rows(make_model(), 16), recipe_of(epochs=1)
    fit(make_model(), objective_of(EE), given, recipe, tmp_path, identity="a")
    kill_at(monkeypatch, 1)
    fit(make_model(), objective_of(EE), given, recipe, tmp_path, identity="a")  # finished: nothing is trained
    with pytest.raises(Killed):
        fit(make_model(exits=exits), objective_of(EE), rows(given), recipe, tmp_path, identity=identity)


def test_half_a_checkpoint_is_never_resumed(tmp_path, monkeypatch):
    from adaptive_inference.training import trainer

    original = trainer.ExitTrainer._save_optimizer_and_scheduler

    def dying(self, folder):
        original(self, folder)
        if self.state.global_step == 4:
            raise Killed

    unbroken = make_model(dropout=0.1)
    run_fit(unbroken, EE, tmp_path / "unbroken", **SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.ExitTrainer, "_save_optimizer_and_scheduler", dying)
        with pytest.raises(Killed):
            run_fit(make_model(dropout=0.1), EE, tmp_path / "killed", **SETTINGS)
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = make_model(dropout=0.1)
    run_fit(resumed, EE, tmp_path / "killed", **SETTINGS)
    assert same_bits(weights_of(unbroken), weights_of(resumed))


def test_one_checkpoint_is_kept_and_none_holds_a_pickled_object(tmp_path):
    run_fit(make_model(), EE, tmp_path, **SETTINGS)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    names = {path.name for path in checkpoint.iterdir()}
    assert "model.safetensors" in names
    assert not names & {"pytorch_model.bin", "training_args.bin"}
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(checkpoint / name, weights_only=True)


def test_two_runs_are_bit_equal_and_seeds_matter(tmp_path):
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        model = make_model(dropout=0.1)
        found.append((run_fit(model, EE, tmp_path / name, seed=seed).history, weights_of(model)))
    assert found[0][0] == found[1][0] != found[2][0]
    assert same_bits(found[0][1], found[1][1])


def test_the_best_epoch_is_kept_and_the_development_split_alone_decides(tmp_path, monkeypatch):
    from adaptive_inference.training import trainer

    planned = iter([[0.5, 0.7, 0.6], [0.9, 0.9, 0.9], [0.9, 0.9, 0.9], [0.1, 0.2, 0.9]])
    seen = []

    def scored(model, features, schema):
        seen.append((weights_of(model), [feature["id"] for feature in features]))
        return Scored(None, next(planned))

    monkeypatch.setattr(trainer, "scored", scored)
    model = make_model()
    result = run_fit(model, EE, tmp_path, epochs=4)
    assert result.best_epoch == 2  # the earlier of two equals
    assert result.development_quality == {1: 0.9, 2: 0.9, 4: 0.9}
    assert same_bits(weights_of(model), seen[1][0])
    assert not same_bits(weights_of(model), seen[3][0])
    assert all(ids == [feature["id"] for feature in make_features(model, 12, 1)] for _, ids in seen)


def test_the_history_has_losses_per_exit_and_quality_per_epoch(tmp_path):
    model = make_model()
    result = run_fit(model, EE, tmp_path, rows=40, epochs=3, warmup_ratio=0.2, head_learning_rate=0.1)
    assert [row["step"] for row in result.history] == list(range(1, 16))
    for row in result.history:
        parts = [row[f"exit{layer}_loss"] for layer in (1, 2, 4)]
        assert row["loss"] == pytest.approx(sum(parts))
        assert ("development_quality" in row) == (row["step"] % 5 == 0)
    rates = [row["learning_rate"] for row in result.history]
    assert rates[0] == 0.0
    assert max(rates) == rates[3] == 1e-3
    assert rates == rates[:3] + sorted(rates[3:], reverse=True)
    last = result.history[-1]
    mean = sum(last[f"development{layer}_quality"] for layer in (1, 2, 4)) / 3
    assert last["development_quality"] == pytest.approx(mean)
    assert result.train_loss == pytest.approx(sum(row["loss"] for row in result.history[-5:]) / 5)
    result.write(tmp_path)
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history


def test_training_learns(tmp_path):
    model = make_model()
    result = run_fit(model, EE, tmp_path, rows=160, epochs=4, learning_rate=3e-3)
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]
    outputs = collect_outputs(model, make_features(model, 12, 1), 4)
    right = (outputs.logits[:, -1].argmax(-1) == outputs.labels).mean()
    assert right == pytest.approx(result.development_quality[4])


def test_a_regression_is_selected_by_its_own_metric(tmp_path):
    result = run_fit(make_model(schema=SCORES), EE, tmp_path, schema=SCORES)
    assert set(result.development_quality) == {1, 2, 4}


def test_learning_to_exit_on_scores_and_empty_splits_are_refused_before_training(tmp_path):
    with pytest.raises(UserError, match="regression"):
        run_fit(make_model(schema=SCORES, certainty=True), LTE, tmp_path, schema=SCORES)
    with pytest.raises(UserError, match="training split is empty"):
        run_fit(make_model(), EE, tmp_path, rows=0)
    assert not list(tmp_path.iterdir())


def test_blockwise_gradients_are_refused_where_blocks_share_their_layers(tmp_path):
    with pytest.raises(UserError, match="albert runs the same weights"):
        run_fit(make_model("albert"), SWEET_LOCAL, tmp_path)
    run_fit(make_model("albert", exits=(4,)), SWEET_LOCAL, tmp_path)  # one block has nothing to share


def test_a_device_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = make_model()
    with pytest.raises(UserError, match="no CUDA device"):
        fit(
            model,
            objective_of(EE),
            make_split_rows(model),
            recipe_of(runtime=Runtime(device="cuda")),
            tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_nothing_is_printed_where_there_is_no_terminal(tmp_path, capfd, caplog):
    with caplog.at_level(logging.INFO):
        run_fit(make_model(), EE, tmp_path)
    out, err = capfd.readouterr()
    assert out == ""
    assert "it/s" not in err
    assert any("epoch 1 of 1" in message for message in caplog.messages)


def test_bf16_trains_and_scores_in_fp32(tmp_path):
    losses = {}
    for precision in ("bf16", "fp32"):
        model = make_model()
        recipe = recipe_of(runtime=Runtime(device="cpu", precision=precision), epochs=1)
        result = fit(model, objective_of(EE), make_split_rows(model, 16), recipe, tmp_path / precision)
        assert all(item.dtype == torch.float32 for item in model.parameters())
        losses[precision] = result.history[-1]["loss"]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_bf16_is_refused_for_an_encoder_that_cannot_be_trained_in_it(tmp_path):
    model, runtime = make_model("deberta"), Runtime(device="cpu", precision="bf16")
    with pytest.raises(UserError, match="bf16 cannot be used with model type deberta;"):
        fit(
            model,
            objective_of(EE),
            make_split_rows(model),
            recipe_of(runtime=runtime),
            tmp_path,
        )


def test_length_quantiles_are_observed_lengths():
    assert length_quantiles([5, 1, 3]) == {"0": 1, "0.5": 3, "0.9": 5, "0.99": 5, "1": 5}


def test_progress_survives_its_file(tmp_path):
    progress = Progress((2,), lambda row, step: None)
    for value in (0.1, 0.2, 1 / 3):
        progress.add([value], 1.0)
        progress.end_step()
    progress.save(tmp_path)
    again = Progress((2,), lambda row, step: None)
    again.restore(tmp_path)
    assert again.pending == [[0.1], [0.2], [1 / 3]]
    assert again.is_best([0.0], 1, [0.0])


def fit_without_epochs(model, scratch):
    recipe = recipe_of()
    recipe = replace(recipe, training=recipe.training.model_copy(update={"epochs": 0}))
    return fit(model, objective_of(EE), make_split_rows(model), recipe, scratch)


def test_a_training_of_no_epochs_scores_the_model_and_leaves_it_as_it_is(tmp_path):
    model = make_model(exits=(4,), dropout=0.5)
    before = weights_of(model)
    result = fit_without_epochs(model, tmp_path / "scratch")
    assert same_bits(weights_of(model), before)
    assert result.history == [
        {"step": 0, "epoch": 0.0, "learning_rate": 0.0}
        | dict.fromkeys(("development4_quality", "development_quality"), result.quality[0])
    ]
    assert result.metrics == {"development4_quality": result.quality[0], "best_epoch": 0}
    assert (result.steps, result.timings["seconds"]) == (0, 0.0)
    assert not (tmp_path / "scratch").exists()


def test_a_checkpoint_that_answers_no_numbers_is_refused_though_nothing_is_trained(tmp_path):
    model = make_model(exits=(4,))
    model.heads[0].classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite, though nothing was trained: the checkpoint is damaged"):
        fit_without_epochs(model, tmp_path)


def test_the_weights_of_the_best_epochs_are_kept(tmp_path, monkeypatch):
    from adaptive_inference.training import trainer

    planned, seen = iter([0.5, 0.9, 0.7, 0.9, 0.1]), []

    def scored(model, *rest):
        seen.append(weights_of(model))
        return Scored(None, [next(planned)])

    monkeypatch.setattr(trainer, "scored", scored)
    result = run_fit(make_model(exits=[4]), MethodTraining(keep_epochs=3), tmp_path, epochs=5)
    assert result.best_epochs(3) == [2, 4, 3]
    kept = {file.name: load_file(file) for file in tmp_path.glob("epoch-*")}
    assert kept.keys() == {f"epoch-{epoch}.safetensors" for epoch in (2, 3, 4)}
    for epoch in (2, 3, 4):
        assert same_bits(kept[f"epoch-{epoch}.safetensors"], seen[epoch - 1])
