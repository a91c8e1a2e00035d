"""One step of the trainer, its data order and its optimiser."""

import errno
import functools
import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from tiny_training import (
    EE,
    SCORES,
    SWEET,
    SWEET_LOCAL,
    make_batch,
    make_features,
    make_model,
    ready_trainer,
    run_fit,
    weights_of,
)
from transformers import TrainingArguments

from adaptive_inference.data.splits import make_splits
from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import Task
from adaptive_inference.settings.training import MethodTraining
from adaptive_inference.training.order import epoch_order

PER_BLOCK = MethodTraining(gradient="blockwise", clip="per_block")


@given(
    lengths=st.lists(st.integers(1, 60), max_size=300),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 5),
    grouped=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_visits_every_row_once(lengths, batch_size, seed, grouped):
    order = epoch_order(lengths, batch_size, seed, 0, grouped)
    assert sorted(order) == list(range(len(lengths)))
    assert order == epoch_order(lengths, batch_size, seed, 0, grouped)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_order_follows_seed_and_epoch_and_not_the_global_generator(grouped):
    lengths = [index % 17 for index in range(203)]
    torch.manual_seed(1)
    first = epoch_order(lengths, 8, 0, 0, grouped)
    torch.manual_seed(2)
    assert first == epoch_order(lengths, 8, 0, 0, grouped)
    assert first != epoch_order(lengths, 8, 0, 1, grouped)
    assert first != epoch_order(lengths, 8, 1, 0, grouped)


def test_grouping_saves_padding_and_does_not_sort_the_batches():
    lengths = torch.randint(3, 60, (2000,), generator=torch.Generator().manual_seed(0)).tolist()

    def batches(grouped):
        order = epoch_order(lengths, 16, 0, 0, grouped)
        return [[lengths[row] for row in order[start : start + 16]] for start in range(0, 2000, 16)]

    padded = {grouped: sum(16 * max(batch) for batch in batches(grouped)) for grouped in (True, False)}
    assert padded[True] < 1.05 * sum(lengths) < padded[False]
    longest = [max(batch) for batch in batches(True)]
    rises = sum(after > before for before, after in itertools.pairwise(longest))
    assert 0.3 < rises / len(longest) < 0.7


def test_several_gpus_do_not_multiply_the_batch(tmp_path, monkeypatch):
    devices = TrainingArguments.__dict__["_setup_devices"]

    def two(args):
        found = (getattr(devices, "func", None) or devices.fget)(args)
        args._n_gpu = 2
        return found

    patched = functools.cached_property(two)
    patched.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", patched)
    trainer = ready_trainer(make_model(), EE, tmp_path)
    assert len(next(iter(trainer.get_train_dataloader()))["ids"]) == 8


def test_what_an_objective_looks_at_before_training_is_drawn_by_the_seed_from_all_rows(tmp_path):
    """The first of the rows must not be the first of a file, which may be sorted by class."""
    ids = [feature["id"] for feature in make_features(make_model(), 16)]
    seen = []
    for seed in (0, 0, 1):
        trainer = ready_trainer(make_model(), EE, tmp_path)
        trainer.args.seed = seed
        seen.append([row for batch in trainer._shuffled() for row in batch["ids"].tolist()])
    assert all(sorted(rows) == sorted(ids) and rows != ids for rows in seen)
    assert seen[0] == seen[1] != seen[2]


def _gradients(trainer, model, batches):
    trainer.current_gradient_accumulation_steps = len(batches)
    for batch in batches:
        trainer.training_step(model, batch)
    return [item.grad.clone() for item in model.parameters() if item.grad is not None]


@pytest.mark.parametrize("method", [EE, SWEET_LOCAL], ids=["early_exit", "block_local"])
def test_accumulated_batches_give_the_gradient_of_one_large_batch(method, tmp_path):
    model = make_model()
    whole = make_batch(model, 8)
    halves = [{name: item[part] for name, item in whole.items()} for part in (slice(4), slice(4, 8))]
    trainer = ready_trainer(model, method, tmp_path)
    once = _gradients(trainer, model, [whole])
    trainer.progress.end_step()
    model.zero_grad()
    twice = _gradients(trainer, model, halves)
    assert all(torch.allclose(a, b, atol=1e-6, rtol=1e-4) for a, b in zip(once, twice, strict=True))
    first, second = trainer.progress.pending  # two optimiser steps, of one batch and of two
    assert first == pytest.approx(second, rel=1e-5)


def test_regression_trains_every_exit(tmp_path):
    model = make_model(schema=SCORES)
    batch = make_batch(model, kind="regression")
    assert batch["labels"].is_floating_point()
    ready_trainer(model, SWEET, tmp_path, SCORES).training_step(model, batch)
    assert all(head.classifier.weight.grad.any() for head in model.heads)


def test_global_clipping_bounds_the_whole_and_per_block_each_block(tmp_path):
    for method in (SWEET, PER_BLOCK):
        model = make_model()
        trainer = ready_trainer(model, method, tmp_path, max_grad_norm=0.01)
        trainer.training_step(model, make_batch(model))
        trainer._clip_grad_norm(model)
        norms = [
            torch.stack([item.grad.norm() for item in block if item.grad is not None]).norm()
            for block in model.blocks()
        ]
        if method is PER_BLOCK:
            assert [norm.item() for norm in norms] == pytest.approx([0.01] * 3, rel=1e-3)
        else:
            assert torch.stack(norms).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_heads_have_their_own_rate_and_norms_do_not_decay(tmp_path):
    model = make_model()
    trainer = ready_trainer(model, EE, tmp_path, head_learning_rate=0.5, learning_rate=0.1, weight_decay=0.01)
    heads = {id(item) for item in model.head_parameters()}
    names = {id(item): name for name, item in model.named_parameters()}
    seen = set()
    for group in trainer.optimizer.param_groups:
        for item in group["params"]:
            seen.add(id(item))
            assert group["lr"] == (0.5 if id(item) in heads else 0.1)
            spared = names[id(item)].endswith("bias") or "LayerNorm" in names[id(item)]
            assert group["weight_decay"] == (0.0 if spared else 0.01)
    assert seen == set(names)
    assert (
        ready_trainer(make_model(), EE, tmp_path, learning_rate=0.1).optimizer.param_groups[-1]["lr"] == 0.1
    )


@pytest.mark.parametrize("method", [EE, SWEET_LOCAL], ids=["early_exit", "block_local"])
def test_a_loss_that_is_not_finite_names_step_exit_and_rows(method, tmp_path):
    model = make_model()
    trainer, batch = ready_trainer(model, method, tmp_path), make_batch(model)
    with torch.no_grad():
        model.heads[1].classifier.bias[0] = float("nan")
    before = weights_of(model.backbone)
    with pytest.raises(UserError, match=r"layer 2 .* step 1 .*\(ids.* 0, 1, 2, 3, 4, 5\)"):
        trainer.training_step(model, batch)
    assert all(torch.equal(before[name], item) for name, item in weights_of(model.backbone).items())


def test_a_diverging_training_stops_with_a_message(tmp_path):
    with pytest.raises(UserError, match="not finite"):
        run_fit(make_model(), EE, tmp_path, rows=64, learning_rate=1e30, max_grad_norm=0.0)


def fails(error):
    """A writer on a full disk."""

    def write(*args, **kwargs):
        raise error

    return write


@pytest.mark.parametrize("writer", ["weights", "optimiser"])
def test_a_full_disk_is_an_os_error(writer, tmp_path, monkeypatch):
    """Stages explain an `OSError`; these two were seen on a full tmpfs."""
    from adaptive_inference.exits import weights as module

    model = make_model()
    trainer = ready_trainer(model, EE, tmp_path)
    trainer.create_scheduler(10)
    if writer == "weights":
        seen = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        monkeypatch.setattr(module.safetensors.torch, "save_file", fails(seen))
    else:
        monkeypatch.setattr(torch, "save", fails(RuntimeError("[enforce fail at inline_container.cc:672]")))
        monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="No space left") as caught:
        trainer._save_checkpoint(model, None)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.glob("checkpoint-*"))


def test_the_subset_follows_the_seed_and_is_the_same_for_all_methods(tmp_path):
    """sweet.md 7.19: it is drawn once per task and seed, before there is a method."""
    task = Task(
        source="generated",
        generated={"rows": 300, "evaluation_rows": 40},
        train_rows=50,
        development_rows=20,
        calibration_rows=20,
    )
    drawn = [make_splits("tiers", task, tmp_path, seed)[1]["train"] for seed in (0, 0, 1)]
    ids = [[example.id for example in split] for split in drawn]
    assert ids[0] == ids[1] != ids[2]
    assert all(len(set(part)) == len(part) == 50 for part in ids)
    assert set(ids[0]) != set(ids[2])
