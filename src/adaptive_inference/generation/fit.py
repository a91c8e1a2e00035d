"""Train a decoder by a loss over its blocks, resume where a killed run stopped, keep the best epoch's weights."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from adaptive_inference.exits.outputs import pick_device
from adaptive_inference.exits.weights import load_weights
from adaptive_inference.generation.trainer import LayerTraining, TextRecipe, TextRows, TextTrainer
from adaptive_inference.training.arithmetic import fast_cpu
from adaptive_inference.training.checkpoints import BEST_FILE
from adaptive_inference.training.fit import claim
from adaptive_inference.training.progress import OnLog, Progress

logger = logging.getLogger("adaptive_inference")


def fit(
    trained: LayerTraining,
    rows: TextRows,
    recipe: TextRecipe,
    scratch: Path,
    on_log: OnLog = lambda row, step: None,
    identity: str = "",
) -> Progress:
    """Train in place and return what was measured; the model ends in evaluation mode, with its best epoch's weights.

    The best epoch is that of the greatest development metric, or of the smallest development loss where `TextRows` has
    none; the earliest of several. Called again with the same arguments after a kill, the run gives the same weights and
    history, bit by bit, as one that was never killed.

    Rows of the history are as of the classifiers' trainings: ``exitK_loss`` (distillation within the shallow exit's),
    and after an epoch ``developmentK_quality``, the share of target tokens that block K predicts given those before,
    ``development_loss`` of the last block, and the metric by its name.

    Parameters
    ----------
    trained
        The model, with its loss.
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
        A split is empty, there is no such device, or a loss is not finite.
    """
    rows.check()
    pick_device(recipe.runtime.device)
    seen = [[row["input_ids"], row["labels"]] for part in (rows.train, rows.development) for row in part]
    metric = rows.metric[0] if rows.metric else None
    claim(scratch, recipe.digest(identity, metric, len(rows.train), seen))
    progress = Progress(trained.loss.exits, on_log)
    with fast_cpu(recipe.runtime.threads):
        trainer = TextTrainer(trained, rows, recipe, scratch, progress)
        checkpoint = get_last_checkpoint(str(scratch))
        if checkpoint:
            logger.info("resuming from %s", Path(checkpoint).name)
            progress.restore(Path(checkpoint))
        trainer.train(resume_from_checkpoint=checkpoint)
        load_weights(trained, scratch / BEST_FILE)
    trained.eval()
    progress.stop_clock()
    return progress
