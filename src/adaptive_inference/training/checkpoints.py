"""Checkpoints that appear whole or not at all, hold no pickled object, and all that the rest of a run depends on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Trainer

from adaptive_inference.backbones.load import WEIGHT_FILE
from adaptive_inference.exits.weights import full_disk_is_os_error, load_weights, save_tensors, save_weights
from adaptive_inference.objectives.base import Objective
from adaptive_inference.training.progress import Progress

BEST_FILE = "best.safetensors"
OBJECTIVE_FILE = "objective.safetensors"


def epoch_file(epoch: int | str) -> str:
    """Return where the weights of one of the best epochs lie, with ``keep_epochs`` above 1; ``*``: of any."""
    return f"epoch-{epoch}.safetensors"


class CheckpointedTrainer(Trainer):
    """`Trainer` whose checkpoints also hold a training's progress and the state of its objective; one is kept."""

    objective: Objective
    progress: Progress
    _checkpoint_home: str | None = None  #: where a checkpoint is being written

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
            self.objective.restore(load_file(saved, device=str(self.args.device)))
