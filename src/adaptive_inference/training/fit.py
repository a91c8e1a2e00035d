"""Train a model with exits, resume where a killed run stopped, and keep the best epoch's weights."""

from __future__ import annotations

import logging
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from adaptive_inference.errors import UserError
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.exits.weights import load_weights
from adaptive_inference.files import digest_json, read_json, write_json
from adaptive_inference.objectives.base import Objective
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.settings.training import MethodTraining, Training
from adaptive_inference.tasks.encode import Feature
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.training.arithmetic import fast_cpu
from adaptive_inference.training.progress import OnLog, Progress, Row
from adaptive_inference.training.trainer import BEST_FILE, ExitTrainer

logger = logging.getLogger("adaptive_inference")

#: Rows of a history, about; epoch ends come on top.
HISTORY_ROWS = 100
#: Rows per forward when the development split is scored.
DEVELOPMENT_BATCH = 64


@dataclass(frozen=True)
class FitResult:
    """What a training measured.

    Attributes
    ----------
    history
        Rows of ``history.jsonl``; see `progress.Progress`.
    trajectory
        Rows of ``weights.jsonl``: the learned weights of the losses at each row of the history; else empty.
    best_epoch
        From 1; its weights are the model's now.
    development_quality
        Layer of each exit -> quality on the development split at the best epoch.
    train_loss
        Mean total loss over the last epoch.
    steps, steps_run, seconds
        Optimiser steps of the training; steps and wall-clock, all processes of a resumed run together.
    """

    history: list[Row]
    trajectory: list[dict[str, Any]]
    best_epoch: int
    development_quality: dict[int, float]
    train_loss: float
    steps: int
    steps_run: int
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """Return the record's metrics: deterministic figures by their names."""
        named = {f"development{layer}_quality": value for layer, value in self.development_quality.items()}
        return named | {"best_epoch": self.best_epoch, "train_loss": self.train_loss}

    @property
    def timings(self) -> dict[str, float]:
        """Return the figures that depend on the clock."""
        return {"seconds": self.seconds, "steps_per_second": self.steps_run / max(self.seconds, 1e-9)}


def fit(
    model: MultiExitModel,
    objective: Objective,
    train_features: list[Feature],
    development_features: list[Feature],
    schema: Schema,
    training: Training,
    method: MethodTraining,
    runtime: Runtime,
    seed: int,
    scratch: Path,
    on_log: OnLog = lambda row, step: None,
    identity: str = "",
) -> FitResult:
    """Train in place; the model ends with the weights of its best epoch.

    The best epoch has the highest mean over exits of the task's metric on the development split, the earliest of
    several. Every ``training.save_every`` steps and after each epoch, all that the rest of the run depends on goes to
    ``scratch``; called again with the same arguments after a kill, the run gives the same weights and history, bit by
    bit, as one that was never killed.

    Parameters
    ----------
    model
        With exits, and certainty heads where the objective needs them.
    objective, method, training, runtime
        What is minimised, and how.
    train_features, development_features
        Rows of `tasks.encode.encode`.
    schema
        Kind of the task and its metric.
    seed
        Of the data order and of dropout.
    scratch
        Folder of the resumable state; remove it once the result is saved.
    on_log
        Called with each row of the history (without its step) and the step; rows of a killed run are repeated.
    identity
        Whatever else makes this training another one (a record id): files of another training in ``scratch`` are
        not resumed but removed.

    Raises
    ------
    UserError
        The task or the encoder does not fit the objective, a split is empty, there is no such device, or a loss is
        not finite.
    """
    objective.check_kind(schema.kind)
    if objective.gradient == "blockwise" and model.backbone.shares_layers and len(model.exits) > 1:
        raise UserError(
            f"gradient: blockwise needs layers of their own for each block, and {model.backbone.config.model_type} runs "
            "the same weights in all of them; use gradient: shared, or an encoder such as BERT"
        )
    for name, features in (("training", train_features), ("development", development_features)):
        if not features:
            raise UserError(f"task {schema.task}: the {name} split is empty; give the task more rows")
    given = [training, method, runtime.precision, schema.to_dict(), seed, model.exits, identity]
    rows = [[feature["id"], feature["label"], feature["input_ids"]] for feature in train_features]
    _claim(
        scratch,
        digest_json([item.model_dump() if hasattr(item, "model_dump") else item for item in given] + rows),
    )

    progress = Progress(model.exits, on_log)
    with fast_cpu(runtime.threads):
        trainer = make_trainer(
            model,
            objective,
            train_features,
            development_features,
            schema,
            training,
            method,
            runtime,
            seed,
            scratch,
            progress,
        )
        checkpoint = get_last_checkpoint(str(scratch))
        if checkpoint:
            logger.info("resuming from %s", Path(checkpoint).name)
            progress.restore(Path(checkpoint))
        if not progress.exhausted(training.patience):  # a run killed right after its early stop
            trainer.train(resume_from_checkpoint=checkpoint)
        load_weights(model, scratch / BEST_FILE)
        objective.finish(model)
    progress.stop_clock()
    return FitResult(
        history=progress.history,
        trajectory=progress.trajectory,
        best_epoch=progress.best_epoch,
        development_quality=dict(zip(model.exits, progress.quality, strict=True)),
        train_loss=progress.train_loss,
        steps=int(progress.history[-1]["step"]),
        steps_run=progress.steps_run,
        seconds=progress.seconds,
    )


def make_trainer(
    model: MultiExitModel,
    objective: Objective,
    train_features: list[Feature],
    development_features: list[Feature],
    schema: Schema,
    training: Training,
    method: MethodTraining,
    runtime: Runtime,
    seed: int,
    scratch: Path,
    progress: Progress,
) -> ExitTrainer:
    """Set up the trainer that `fit` runs; arguments as there."""
    rows = len(train_features) - (len(train_features) // 2 if objective.splits_rows else 0)
    batches = math.ceil(rows / training.batch_size)
    steps = math.ceil(batches / training.gradient_accumulation) * training.epochs
    return ExitTrainer(
        model,
        _arguments(training, runtime, seed, scratch, steps),
        objective=objective,
        method=method,
        training=training,
        schema=schema,
        train_features=train_features,
        development_features=development_features,
        progress=progress,
        log_every=max(1, steps // HISTORY_ROWS),
        precision=runtime.precision,
    )


def _arguments(
    training: Training, runtime: Runtime, seed: int, scratch: Path, steps: int
) -> TrainingArguments:
    """Translate our settings; everything that reports, saves or scores by itself is off."""
    cuda = torch.cuda.is_available()
    if runtime.device == "cuda" and not cuda:
        raise UserError("runtime.device: cuda, but torch sees no CUDA device; use `auto` or `cpu`")
    schedules: dict[str, Any] = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
    on_cpu = runtime.device == "cpu" or not cuda
    return TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=DEVELOPMENT_BATCH,
        gradient_accumulation_steps=training.gradient_accumulation,
        num_train_epochs=training.epochs,
        learning_rate=training.learning_rate,
        lr_scheduler_type=schedules[training.schedule],
        warmup_steps=math.ceil(training.warmup_ratio * steps),
        max_grad_norm=training.max_grad_norm,
        seed=seed,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
    )


def _claim(scratch: Path, identity: str) -> None:
    """Make ``scratch`` this training's own: what another training left there is removed, never resumed."""
    file = scratch / "identity.json"
    if scratch.is_dir() and (not file.is_file() or read_json(file) != identity):
        shutil.rmtree(scratch)
    if not file.is_file():
        write_json(file, identity)
