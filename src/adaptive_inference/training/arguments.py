"""A recipe as the arguments of `transformers.Trainer`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from adaptive_inference.exits.outputs import pick_device
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.settings.training import Training

_SCHEDULES: dict[str, Any] = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
}


def optimizer_steps(rows: int, training: Training) -> int:
    """Return the optimiser steps of a training on so many rows."""
    batches = math.ceil(rows / training.batch_size)
    return math.ceil(batches / training.gradient_accumulation) * training.epochs


def training_arguments(
    training: Training,
    runtime: Runtime,
    seed: int,
    scratch: Path,
    steps: int,
    optimizer: str = "adamw_torch_fused",
) -> TrainingArguments:
    """Translate our settings; everything that reports, saves or scores by itself is off."""
    on_cpu = pick_device(runtime.device).type == "cpu"
    return TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation,
        num_train_epochs=training.epochs,
        learning_rate=training.learning_rate,
        lr_scheduler_type=_SCHEDULES[training.schedule],
        warmup_steps=math.ceil(training.warmup_ratio * steps),
        max_grad_norm=training.max_grad_norm,
        optim=optimizer,
        weight_decay=training.weight_decay,
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
