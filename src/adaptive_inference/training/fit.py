"""Train a model with exits, resume where a killed run stopped, and keep the best epoch's weights."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from adaptive_inference.backbones.load import check_gradient, check_precision
from adaptive_inference.errors import UserError
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.exits.outputs import pick_device
from adaptive_inference.exits.weights import load_weights
from adaptive_inference.files import read_json, write_json
from adaptive_inference.objectives.base import Objective
from adaptive_inference.training.arithmetic import fast_cpu
from adaptive_inference.training.checkpoints import BEST_FILE
from adaptive_inference.training.progress import OnLog, Progress
from adaptive_inference.training.recipe import Recipe
from adaptive_inference.training.rows import Rows
from adaptive_inference.training.score import exit_qualities
from adaptive_inference.training.trainer import ExitTrainer

logger = logging.getLogger("adaptive_inference")


def fit(
    model: MultiExitModel,
    objective: Objective,
    rows: Rows,
    recipe: Recipe,
    scratch: Path,
    on_log: OnLog = lambda row, step: None,
    identity: str = "",
) -> Progress:
    """Train in place and return what was measured; the model ends with the weights of its best epoch.

    The best epoch has the highest mean over exits of the task's metric on the development split, the earliest of
    several. Every ``training.save_every`` steps and after each epoch, all that the rest of the run depends on goes to
    ``scratch``; called again with the same arguments after a kill, the run gives the same weights and history, bit by
    bit, as one that was never killed. With ``training.epochs`` 0 the model is scored and left as it is.

    Parameters
    ----------
    model
        With exits, and certainty heads where the objective needs them.
    objective
        What is minimised, with the full model where it needs one; see `training.needs`.
    rows
        Of the splits that training may see.
    recipe
        How it is trained.
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
        The training is refused by `check`, or a loss is not finite.
    """
    check(model, objective, rows, recipe)
    if recipe.training.epochs == 0:
        return _as_it_is(model, rows, recipe, on_log)
    seen = [
        [row["id"], row["label"], row["input_ids"]] for part in (rows.train, rows.development) for row in part
    ]
    claim(scratch, recipe.digest(identity, model.exits, len(rows.train), seen))
    progress = Progress(model.exits, on_log)
    with fast_cpu(recipe.runtime.threads):
        trainer = ExitTrainer(model, objective, rows, recipe, scratch, progress)
        checkpoint = get_last_checkpoint(str(scratch))
        if checkpoint:
            logger.info("resuming from %s", Path(checkpoint).name)
            progress.restore(Path(checkpoint))
        if not progress.exhausted(recipe.training.patience):  # a run killed right after its early stop
            trainer.train(resume_from_checkpoint=checkpoint)
        load_weights(model, scratch / BEST_FILE)
        objective.surgery.finish(model)
    progress.stop_clock()
    if warning := objective.warning(progress.best_merit):
        logger.warning(warning)
    return progress


def _as_it_is(model: MultiExitModel, rows: Rows, recipe: Recipe, on_log: OnLog) -> Progress:
    """Score a model that came fine-tuned; its history is this one row, and no time counts as training."""
    progress = Progress(model.exits, on_log)
    model.to(pick_device(recipe.runtime.device))
    try:
        with fast_cpu(recipe.runtime.threads):
            quality = exit_qualities(model, rows.development, recipe.schema)
    except FloatingPointError as error:
        raise UserError(
            f"{error}, though nothing was trained: the checkpoint is damaged; fetch it again"
        ) from error
    progress.write_row(0, 0.0, quality)
    progress.is_best(quality, 0, quality)
    return progress


def check(model: MultiExitModel, objective: Objective, rows: Rows, recipe: Recipe) -> None:
    """Refuse what cannot be trained, before anything is written.

    Raises
    ------
    UserError
        The task or the encoder does not fit the objective, the encoder does not fit the precision, a split is empty, or
        there is no such device.
    """
    objective.check_kind(recipe.schema.kind)
    check_gradient(type(model.backbone), objective.gradient, model.exits)
    rows.check(recipe.schema.task)
    objective.check_rows(rows.train)
    pick_device(recipe.runtime.device)
    check_precision(type(model.backbone), recipe.runtime.precision)


def claim(scratch: Path, identity: str) -> None:
    """Make ``scratch`` this training's own: what another training left there is removed, never resumed."""
    file = scratch / "identity.json"
    if scratch.is_dir() and (not file.is_file() or read_json(file) != identity):
        shutil.rmtree(scratch)
    if not file.is_file():
        write_json(file, identity)
