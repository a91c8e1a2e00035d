"""When a training writes a row, is scored and saves a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import ProgressCallback, TrainerCallback

from adaptive_inference.settings.training import Training
from adaptive_inference.training.progress import Progress

#: Rows of a history, about; epoch ends come on top.
HISTORY_ROWS = 100


class Pace(TrainerCallback):
    """Says when a row is written, the model is scored and a checkpoint saved.

    At the last step of an epoch only the epoch's end saves: a checkpoint between the step and the scoring would make a
    resumed run skip the scoring.

    Parameters
    ----------
    progress, training
        What is measured, and how often it is scored and saved.
    steps
        Of the whole training.
    after_step
        Called after each optimiser step with the rate of the network in it.
    """

    def __init__(
        self, progress: Progress, training: Training, steps: int, after_step: Callable[[float], None]
    ) -> None:
        self.progress, self.training, self.after_step = progress, training, after_step
        self.log_every = max(1, steps // HISTORY_ROWS)

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **kwargs: Any
    ) -> None:
        """Note the rate that was used, before the scheduler moves on; let the objective follow the step."""
        self.progress.learning_rate = float(lr_scheduler.get_last_lr()[0])
        self.after_step(self.progress.learning_rate)

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

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the line to what the scoring says; the next step draws the bar again."""
        self.training_bar.clear()
