"""`transformers.Trainer` for models with exits.

Shape suffixes: B rows, E exits.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from adaptive_inference.backbones.load import check_precision
from adaptive_inference.errors import UserError
from adaptive_inference.exits.model import ExitStep, MultiExitModel
from adaptive_inference.exits.outputs import collect_outputs
from adaptive_inference.exits.weights import full_disk_is_os_error, load_weights, save_weights
from adaptive_inference.objectives.base import Objective, StepTaken
from adaptive_inference.settings.training import MethodTraining, Training
from adaptive_inference.tasks.encode import Feature, collate
from adaptive_inference.tasks.quality import predict, quality
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.training.order import EpochOrder, epoch_order, other_half
from adaptive_inference.training.progress import Progress

logger = logging.getLogger("adaptive_inference")

WEIGHT_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"
OBJECTIVE_FILE = "objective.safetensors"


class ExitTrainer(Trainer):
    """Trains a model with exits, with an objective plugged in.

    What it adds to its base class: losses per exit; SWEET's block-local backward; clipping per block; a learning rate
    of the heads; one finiteness check per batch; checkpoints that appear whole or not at all and hold no pickled
    object; model selection on the development split.

    Parameters
    ----------
    model
        Is trained in place.
    args
        Made by `training.fit`; their logging, saving and evaluation strategies are ``no``: `Pace` decides.
    objective, method, training, schema
        What is minimised and how.
    train_features, development_features
        Rows of `tasks.encode.encode`.
    progress
        Collects what is measured.
    log_every
        Optimiser steps between two rows of the history.
    precision
        ``fp32``, or ``bf16`` for autocast of the training forward; development quality is always of fp32.
    """

    def __init__(
        self,
        model: MultiExitModel,
        args: TrainingArguments,
        *,
        objective: Objective,
        method: MethodTraining,
        training: Training,
        schema: Schema,
        train_features: list[Feature],
        development_features: list[Feature],
        progress: Progress,
        log_every: int,
        precision: str = "fp32",
    ) -> None:
        pad = getattr(model.tokenizer, "pad_token_id", None)
        _ = args.device  # counts the GPUs, once
        args._n_gpu = 1  # before the base class multiplies the batch by it; DataParallel would bypass `steps`
        super().__init__(
            model,
            args,
            data_collator=lambda rows: collate(rows, pad),
            train_dataset=train_features,
            callbacks=[Pace(self, progress, log_every, training)],
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if not args.disable_tqdm:
            self.add_callback(QuietBar)
        if self.accelerator.num_processes > 1:
            raise UserError("training runs in one process; start it without torchrun or accelerate launch")
        check_precision(type(model.backbone), precision)
        self.model_accepts_loss_kwargs = False
        self.objective, self.method, self.training, self.schema = objective, method, training, schema
        self.development_features, self.progress, self.precision = development_features, progress, precision
        self._other: tuple[int, list[int]] = (-1, [])  # an epoch, and the order of its other half
        self._pad, self._batches = (
            pad,
            [],
        )  # batches since the optimiser last stepped, where they are asked for again
        objective.prepare(model, self._shuffled())
        objective.attach(model, args.seed)
        progress.observe = objective.report
        self._clip_groups = model.blocks() if method.clip == "per_block" else [list(model.parameters())]
        self._checkpoint_home: str | None = None

    # ------------------------------------------------------------------ data and optimiser

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        lengths = [feature["length"] for feature in self.train_dataset]
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return EpochOrder(
            lengths, rows, self.args.seed, self.training.group_by_length, self.objective.splits_rows
        )

    def _shuffled(self) -> Iterator[dict[str, Tensor]]:
        """Yield the training rows as batches, shuffled by the seed: a file may be sorted by class."""
        features, size = self.train_dataset, self.args.train_batch_size
        lengths = [feature["length"] for feature in features]
        order = epoch_order(lengths, size, self.args.seed, 0, group_by_length=False)
        for start in range(0, len(order), size):
            rows = [features[row] for row in order[start : start + size]]
            yield self._prepare_inputs(collate(rows, self._pad))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW (betas 0.9, 0.999; eps 1e-8) with the heads' own rate; norms and biases do not decay."""
        if self.optimizer is None:
            heads = {id(item) for item in self.model.head_parameters()}
            decaying = set(self.get_decay_parameter_names(self.model))
            rates = {False: self.training.learning_rate, True: self.training.head_learning_rate}
            groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
            for name, item in self.model.named_parameters():
                if item.requires_grad:
                    groups.setdefault((id(item) in heads, name in decaying), []).append(item)
            self.optimizer = torch.optim.AdamW(
                [
                    {
                        "params": items,
                        "lr": rates[is_head] or self.training.learning_rate,
                        "weight_decay": self.training.weight_decay if decays else 0.0,
                    }
                    for (is_head, decays), items in sorted(groups.items(), key=lambda entry: entry[0])
                ],
                fused=self.args.device.type
                in ("cpu", "cuda"),  # 16 ms in place of 88 for 22.7 M weights on a CPU
            )
        return self.optimizer

    # ------------------------------------------------------------------ one step

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any = None
    ) -> Tensor:
        """Run one batch forward and backward; return the total loss, scaled for gradient accumulation.

        Raises
        ------
        UserError
            The loss of an exit is not finite.
        """
        self.objective.enter_training(self.model)
        self.objective.begin(self.state.global_step, self.state.max_steps)
        inputs = self._prepare_inputs(inputs)
        if self.objective.splits_rows:
            self._batches.append(inputs)
        share = 1.0 / self.current_gradient_accumulation_steps
        losses_E = self._backward(inputs, share)
        values = losses_E.tolist()  # the only wait for the device in a step
        if not all(map(math.isfinite, values)):
            raise UserError(self._not_finite(values, inputs["ids"].tolist()))
        self.progress.add(values, share)
        return losses_E.sum() * share

    def _backward(self, inputs: dict[str, Tensor], share: float) -> Tensor:
        """Back-propagate the sum of the exits' losses; return the losses, (E,).

        With ``backward: block_local`` each loss is back-propagated as soon as it exists, which frees its block's
        activations before the next block runs (sweet.md 1.3): the same gradients, less memory.
        """
        steps = self.objective.steps(self.model, inputs)
        if self.method.backward == "whole":
            with self._autocast():
                losses_E = torch.stack(self.objective.losses(list(steps), inputs["labels"]))
            self.accelerator.backward(losses_E.sum() * share)
            return losses_E.detach()
        losses = []
        for _ in self.model.exits:
            with self._autocast():
                loss = self.objective.exit_loss(next(steps), inputs["labels"])
            self.accelerator.backward(loss * share)
            losses.append(loss.detach())
        return torch.stack(losses)

    def after_step(self, rate: float) -> None:
        """Let the objective follow a step of the optimiser; ``rate`` is the network's in that step."""
        step, batches, self._batches = self.state.global_step, self._batches, []
        taken = StepTaken(step, rate, lambda: self._again(batches), lambda: self._again(self._others(step)))
        with torch.no_grad():
            self.objective.after_step(taken)

    def _again(self, batches: Sequence[dict[str, Tensor]]) -> Iterator[tuple[list[ExitStep], Tensor]]:
        """Run batches through the network as it is now, in training mode."""
        for inputs in batches:
            with self._autocast():
                yield list(self.model.steps(inputs)), inputs["labels"]

    def _others(self, step: int) -> list[dict[str, Tensor]]:
        """Return batches of the half of the rows that the network does not learn from in this epoch.

        The n-th step of an epoch has its n-th batches: nothing to remember over a kill.
        """
        features, size = self.train_dataset, self.args.train_batch_size
        rows = size * self.args.gradient_accumulation_steps
        steps = math.ceil((len(features) - len(features) // 2) / rows)
        epoch, within = divmod(step, steps)
        if self._other[0] != epoch:
            lengths = [feature["length"] for feature in features]
            found = other_half(lengths, rows, self.args.seed, epoch, self.training.group_by_length)
            self._other = epoch, found
        order = self._other[1]
        start = within * rows % len(order)
        drawn = order[start : start + rows]
        parts = (drawn[at : at + size] for at in range(0, len(drawn), size))
        return [self._prepare_inputs(collate([features[row] for row in part], self._pad)) for part in parts]

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16)

    def _not_finite(self, values: list[float], ids: list[int]) -> str:
        layer = self.model.exits[[math.isfinite(value) for value in values].index(False)]
        return (
            f"the loss of the exit after layer {layer} is not finite at step {self.state.global_step + 1} (ids of the "
            f"batch's examples: {', '.join(map(str, ids))}); lower `training.learning_rate`, raise `warmup_ratio`, or "
            "look at these rows; finished stages are kept"
        )

    def _clip_grad_norm(self, model: nn.Module) -> None:
        for group in self._clip_groups:
            torch.nn.utils.clip_grad_norm_(group, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> None:
        return None  # not reported: the base class would compute it even where nothing is clipped

    # ------------------------------------------------------------------ history and selection

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score each exit on the development split and keep the weights where their mean is the best so far."""
        try:
            qualities = development_qualities(
                self.model, self.development_features, self.schema, self.args.eval_batch_size
            )
        except FloatingPointError as error:
            raise UserError(
                f"{error} after step {self.state.global_step}; lower `training.learning_rate` or set "
                "`training.max_grad_norm`"
            ) from error
        self.progress.write_row(self.state.global_step, self.state.epoch, qualities)
        if self.progress.is_best(qualities, round(self.state.epoch)):
            save_weights(self.model, Path(self.args.output_dir) / BEST_FILE)
        named = ", ".join(
            f"{layer}: {value:.4f}" for layer, value in zip(self.model.exits, qualities, strict=True)
        )
        logger.info(
            "epoch %d of %d: development %s by exit layer {%s}",
            round(self.state.epoch),
            self.training.epochs,
            self.schema.metric,
            named,
        )
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {})
        if self.progress.exhausted(self.training.patience):
            logger.info("no better epoch since epoch %d: stopping", self.progress.best_epoch)
            self.control.should_training_stop = True
        return {}

    # ------------------------------------------------------------------ checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint aside and move it into place, so that a kill leaves no half of one; drop older ones."""
        home = Path(self.args.output_dir)
        aside = home / "partial"
        shutil.rmtree(aside, ignore_errors=True)
        self._checkpoint_home = str(aside)
        try:
            with full_disk_is_os_error(home):
                super()._save_checkpoint(model, trial)
        finally:
            self._checkpoint_home = None
        (written,) = aside.iterdir()
        self.progress.save(written)
        if state := self.objective.state():
            save_file({name: item.contiguous() for name, item in state.items()}, written / OBJECTIVE_FILE)
        shutil.rmtree(home / written.name, ignore_errors=True)
        os.replace(written, home / written.name)
        for older in home.glob("checkpoint-*"):
            if older.name != written.name:
                shutil.rmtree(older, ignore_errors=True)

    def _get_output_dir(self, trial: Any) -> str:
        return self._checkpoint_home or self.args.output_dir

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        save_weights(self.model, Path(output_dir or self.args.output_dir) / WEIGHT_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint) / WEIGHT_FILE)
        saved = Path(resume_from_checkpoint) / OBJECTIVE_FILE
        if saved.is_file():
            self.objective.restore(load_file(saved, device=str(self.args.device)))


class Pace(TrainerCallback):
    """Says when a row is written, the model is scored and a checkpoint saved.

    At the last step of an epoch only the epoch's end saves: a checkpoint between the step and the scoring would make a
    resumed run skip the scoring.
    """

    def __init__(self, trainer: ExitTrainer, progress: Progress, log_every: int, training: Training) -> None:
        self.trainer, self.progress, self.log_every, self.training = trainer, progress, log_every, training

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **kwargs: Any
    ) -> None:
        """Note the rate that was used, before the scheduler moves on; let the objective follow the step."""
        self.progress.learning_rate = float(lr_scheduler.get_last_lr()[0])
        self.trainer.after_step(self.progress.learning_rate)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write a row and save, each at its own pace."""
        self.progress.end_step()
        if float(state.epoch).is_integer():
            return
        if state.global_step % self.log_every == 0:
            self.progress.write_row(state.global_step, state.epoch)
        control.should_save = state.global_step % self.training.save_every == 0

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score where it is due, then save."""
        epoch = round(state.epoch)
        due = epoch % self.training.score_every == 0 or epoch == self.training.epochs
        control.should_evaluate, control.should_save = due, True
        if not due:
            self.progress.write_row(state.global_step, state.epoch)


class QuietBar(ProgressCallback):
    """The progress bar, without the log lines that the base class prints through it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print nothing."""


def development_qualities(
    model: MultiExitModel, features: list[Feature], schema: Schema, batch_size: int
) -> list[float]:
    """Score every exit, forced on all rows, by the task's metric.

    Raises
    ------
    FloatingPointError
        An output is not finite.
    """
    outputs = collect_outputs(model, features, batch_size)
    if not np.isfinite(outputs.logits).all():
        raise FloatingPointError("the model's outputs are not finite")
    predictions_EN = predict(outputs.logits, schema.kind).T
    return [float(quality(schema.metric, row, outputs.labels, schema.outputs)) for row in predictions_EN]
