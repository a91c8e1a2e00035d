"""`transformers.Trainer` for models with exits.

Shape suffixes: E exits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_inference.errors import UserError
from adaptive_inference.exits.forward import ExitAnswer
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.exits.weights import save_weights
from adaptive_inference.objectives.base import Objective, Scored, StepTaken
from adaptive_inference.tasks.encode import collate
from adaptive_inference.training.arguments import optimizer_steps, training_arguments
from adaptive_inference.training.checkpoints import BEST_FILE, CheckpointedTrainer, epoch_file
from adaptive_inference.training.optimizer import adamw
from adaptive_inference.training.order import EpochOrder, OtherHalf, epoch_order
from adaptive_inference.training.pace import Pace
from adaptive_inference.training.progress import Progress
from adaptive_inference.training.recipe import Recipe
from adaptive_inference.training.rows import Rows
from adaptive_inference.training.score import scored

logger = logging.getLogger("adaptive_inference")


class ExitTrainer(CheckpointedTrainer):
    """Trains a model with exits, with an objective plugged in.

    What it adds to its base class: losses per exit; SWEET's block-local backward; clipping per block; a learning rate
    of the heads; one finiteness check per batch; model selection on the development split, always in fp32.

    Parameters
    ----------
    model
        Is trained in place.
    objective
        What is minimised.
    rows, recipe
        What is trained on, and how.
    scratch
        Folder of checkpoints and of the best weights.
    progress
        Collects what is measured.
    """

    def __init__(
        self,
        model: MultiExitModel,
        objective: Objective,
        rows: Rows,
        recipe: Recipe,
        scratch: Path,
        progress: Progress,
    ) -> None:
        learnt = len(rows.train) - (len(rows.train) // 2 if objective.splits_rows else 0)
        steps = optimizer_steps(learnt, recipe.training)
        args = training_arguments(recipe.training, recipe.runtime, recipe.seed, scratch, steps)
        self._pad = getattr(model.tokenizer, "pad_token_id", None)
        super().__init__(
            model,
            args,
            lambda features: collate(features, self._pad),
            rows.train,
            Pace(progress, recipe.training, steps, self.after_step),
            recipe.runtime,
        )
        self.objective, self.rows, self.recipe = objective, rows, recipe
        self._lengths = [feature["length"] for feature in rows.train]
        self._other_half = OtherHalf(self._lengths, *self._order_settings)
        self._batches: list[dict[str, Tensor]] = []  # since the last step, where they are asked for again
        objective.epochs = recipe.training.epochs
        objective.surgery.operate(model, args.seed, self._shuffled())
        objective.attach(model, args.seed)
        progress.observe, progress.figures = objective.report, objective.figures
        self._clip_groups = self._groups_to_clip()

    def _groups_to_clip(self) -> list[list[nn.Parameter]]:
        thresholds = self.model.threshold_parameters()
        apart = {id(item) for item in thresholds}
        per_block = self.recipe.method.clip == "per_block"
        groups = self.model.blocks() if per_block else [list(self.model.parameters())]
        groups = [[item for item in group if id(item) not in apart] for group in groups]
        return [*groups, thresholds] if thresholds else groups

    # ------------------------------------------------------------------ data and optimiser

    @property
    def _order_settings(self) -> tuple[int, int, bool]:
        """Rows of an optimiser step, seed, and whether rows of like length go together."""
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return rows, self.args.seed, self.recipe.training.group_by_length

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        return EpochOrder(self._lengths, *self._order_settings, self.objective.splits_rows)

    def _shuffled(self) -> Iterator[dict[str, Tensor]]:
        """Yield the training rows as batches, shuffled by the seed: a file may be sorted by class."""
        size, seed = self.args.train_batch_size, self.args.seed
        return self._batches_of(epoch_order(self._lengths, size, seed, 0, group_by_length=False))

    def _batches_of(self, rows: Sequence[int]) -> Iterator[dict[str, Tensor]]:
        features, size = self.rows.train, self.args.train_batch_size
        for start in range(0, len(rows), size):
            part = [features[row] for row in rows[start : start + size]]
            yield self._prepare_inputs(collate(part, self._pad))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """See `training.optimizer`; norms and biases do not decay."""
        if self.optimizer is None:
            decaying = set(self.get_decay_parameter_names(self.model))
            self.optimizer = adamw(self.model, self.recipe, decaying)
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
        for part in (self.objective.surgery, self.objective):
            part.begin(self.state.global_step, self.state.max_steps)
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
        """Back-propagate the exits' losses by the objective's routes; return the losses, (E,).

        With ``backward: block_local`` each loss is back-propagated as soon as it exists, which frees its block's
        activations before the next block runs (sweet.md 1.3): the same gradients, less memory.
        """
        if self.recipe.method.backward == "whole":
            with self._autocast():
                answers = self.objective.start(self.model, inputs).answers()
                losses_E = torch.stack(self.objective.losses(answers, inputs["labels"]))
            routes = self.objective.routes(losses_E)
            for place, (loss, parameters) in enumerate(routes, start=1):
                more = place < len(routes)
                self.accelerator.backward(loss * share, inputs=parameters, retain_graph=more)
            return losses_E.detach()
        losses = []
        with self._autocast():
            forward = self.objective.start(self.model, inputs)
        for index in range(len(self.model.exits)):
            with self._autocast():
                loss = self.objective.exit_loss(forward.reach(index), inputs["labels"])
            self.accelerator.backward(loss * share)
            losses.append(loss.detach())
        return torch.stack(losses)

    def after_step(self, rate: float) -> None:
        """Let the objective follow a step of the optimiser; ``rate`` is the network's in that step."""
        step, batches, self._batches = self.state.global_step, self._batches, []
        taken = StepTaken(step, rate, lambda: self._again(batches), lambda: self._again(self._others(step)))
        with torch.no_grad():
            self.objective.after_step(taken)

    def _again(self, batches: Sequence[dict[str, Tensor]]) -> Iterator[tuple[list[ExitAnswer], Tensor]]:
        """Run batches through the network as it is now, in training mode."""
        for inputs in batches:
            with self._autocast():
                yield self.model.start(inputs).answers(), inputs["labels"]

    def _others(self, step: int) -> list[dict[str, Tensor]]:
        """Return batches of rows that the network does not learn from in this epoch."""
        return list(self._batches_of(self._other_half.rows(step)))

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

    def state_beside_model(self) -> dict[str, Tensor]:
        """Return the objective's state."""
        return self.objective.state()

    def restore_beside_model(self, state: dict[str, Tensor]) -> None:
        """Give the objective its state back."""
        self.objective.restore(state)

    # ------------------------------------------------------------------ history and selection

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score each exit on the development split and keep the weights where their mean is the best so far."""
        try:
            found = self._score(self.model)
            merit = self.objective.merit(found, self._score)
        except FloatingPointError as error:
            raise UserError(
                f"{error} after step {self.state.global_step}; lower `training.learning_rate` or set "
                "`training.max_grad_norm`"
            ) from error
        qualities, verdict = found.qualities, self.objective.verdict(merit)
        self.progress.write_row(self.state.global_step, self.state.epoch, qualities, verdict)
        if self.progress.is_best(qualities, round(self.state.epoch), merit):
            save_weights(self.model, Path(self.args.output_dir) / BEST_FILE)
        if self.recipe.method.keep_epochs > 1:
            self._keep_best_epochs(round(self.state.epoch))
        named = ", ".join(
            f"{layer}: {value:.4f}" for layer, value in zip(self.model.exits, qualities, strict=True)
        )
        named += "".join(f", {name} {value:.4g}" for name, value in verdict.items())
        logger.info(
            "epoch %d of %d: development %s by exit layer {%s}",
            round(self.state.epoch),
            self.recipe.training.epochs,
            self.recipe.schema.metric,
            named,
        )
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {})
        if self.progress.exhausted(self.recipe.training.patience):
            logger.info("no better epoch since epoch %d: stopping", self.progress.best_epoch)
            self.control.should_training_stop = True
        return {}

    def _keep_best_epochs(self, epoch: int) -> None:
        home, best = Path(self.args.output_dir), self.progress.best_epochs(self.recipe.method.keep_epochs)
        if epoch in best:
            save_weights(self.model, home / epoch_file(epoch))
        for earlier in range(1, epoch):
            if earlier not in best:
                (home / epoch_file(earlier)).unlink(missing_ok=True)

    def _score(self, model: MultiExitModel) -> Scored:
        return scored(model, self.rows.development, self.recipe.schema)
