"""Checkpoints that appear whole or not at all, hold no pickled object, and all that the rest of a run depends on."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from adaptive_inference.backbones.load import WEIGHT_FILE
from adaptive_inference.errors import UserError
from adaptive_inference.exits.weights import full_disk_is_os_error, load_weights, save_tensors, save_weights
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.training.pace import Pace, QuietBar
from adaptive_inference.training.progress import Progress

BEST_FILE = "best.safetensors"
OBJECTIVE_FILE = "objective.safetensors"


def epoch_file(epoch: int | str) -> str:
    """Return where the weights of one of the best epochs lie, with ``keep_epochs`` above 1; ``*``: of any."""
    return f"epoch-{epoch}.safetensors"


class CheckpointedTrainer(Trainer):
    """`Trainer` of one process that measures by `Progress`, and whose checkpoints hold all that a rest depends on.

    The last checkpoint alone is kept.

    Parameters
    ----------
    model, args, collate, rows
        As of the base class.
    pace
        When rows are written, the model is scored and checkpoints are saved.
    runtime
        Precision of the forward.
    """

    progress: Progress
    _checkpoint_home: str | None = None  #: where a checkpoint is being written

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        collate: Callable[[list[Any]], Any],
        rows: Dataset[Any] | list[Any],
        pace: Pace,
        runtime: Runtime,
    ) -> None:
        _ = args.device  # counts the GPUs, once
        args._n_gpu = 1  # before the base class multiplies the batch by it; DataParallel would bypass the model's methods
        super().__init__(model, args, data_collator=collate, train_dataset=rows, callbacks=[pace])
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if not args.disable_tqdm:
            self.add_callback(QuietBar)
        if self.accelerator.num_processes > 1:
            raise UserError("training runs in one process; start it without torchrun or accelerate launch")
        self.model_accepts_loss_kwargs = False
        self.progress, self._precision = pace.progress, runtime.precision

    def state_beside_model(self) -> dict[str, Tensor]:
        """Return what else the rest of a run depends on; nothing by default."""
        return {}

    def restore_beside_model(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_beside_model` returned."""

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> None:
        return None  # not reported: the base class would compute it even where nothing is clipped

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
        if state := self.state_beside_model():
            save_tensors(state, written / OBJECTIVE_FILE)
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
            self.restore_beside_model(load_file(saved, device=str(self.args.device)))
