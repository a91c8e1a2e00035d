"""`transformers.Trainer` for decoders that learn by a loss over their blocks.

Shape suffixes: E exits (blocks whose cross-entropy counts), N target tokens, D width, V vocabulary.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.optimization import Adafactor

from adaptive_inference.errors import UserError
from adaptive_inference.exits.weights import save_weights
from adaptive_inference.files import digest_json
from adaptive_inference.generation.layer_states import LayerStates
from adaptive_inference.generation.losses import LayerLoss
from adaptive_inference.settings.generation import LossTraining, TextTraining
from adaptive_inference.settings.protocol import Runtime
from adaptive_inference.settings.training import Training
from adaptive_inference.training.arguments import optimizer_steps, training_arguments
from adaptive_inference.training.checkpoints import BEST_FILE, CheckpointedTrainer
from adaptive_inference.training.order import EpochOrder
from adaptive_inference.training.pace import Pace
from adaptive_inference.training.progress import Progress

logger = logging.getLogger("adaptive_inference")

#: A row: ``input_ids``, ``labels`` and, for messages, ``id``.
TextFeature = Mapping[str, Any]
Collate = Callable[[list[TextFeature]], dict[str, Tensor]]
#: Optimisers by their names in transformers, whose defaults they keep: Adafactor at a fixed rate. It scales where asked.
_OPTIMIZERS = {"adamw": "adamw_torch_fused", "adafactor": "adafactor", "adafactor_scaled": "adafactor"}


@dataclass(frozen=True)
class TextRecipe:
    """Everything that a training is given but the model and the rows.

    Attributes
    ----------
    settings
        Optimisation of all trainings.
    loss
        This one's loss, and what it sets otherwise.
    runtime
        Where it computes; threads and precision change the result.
    seed
        Of the data order and of dropout.
    """

    settings: TextTraining
    loss: LossTraining
    runtime: Runtime
    seed: int

    @property
    def training(self) -> Training:
        """The optimisation as all trainings of the project have it, the loss's own keys in place."""
        own = self.loss.model_dump(include={"epochs", "learning_rate"}, exclude_none=True)
        return Training(**self.settings.model_dump(exclude={"optimizer"}) | own)

    def digest(self, *given: Any) -> str:
        """Return the digest of the recipe and of whatever else, as plain JSON, makes a training this one."""
        sections = (self.settings, self.loss, self.runtime)
        return digest_json([*(item.model_dump() for item in sections), self.seed, given])


@dataclass(frozen=True)
class TextRows:
    """Tokenised rows of the two splits that training may see, and how a batch is made of them.

    Attributes
    ----------
    train, development
        Rows.
    collate
        Makes ``input_ids``, ``attention_mask`` and ``labels`` of rows; see `LayerStates`.
    metric
        Its name, and what gives it for the model as it is: quality on the development split, by all blocks. None: the
        best epoch is that of the smallest development loss, for which nothing is written.
    """

    train: Sequence[TextFeature]
    development: Sequence[TextFeature]
    collate: Collate
    metric: tuple[str, Callable[[PreTrainedModel], float]] | None = None

    def check(self) -> None:
        """Refuse a split without rows, and rows that teach nothing.

        Raises
        ------
        UserError
            Names the split, and the row.
        """
        for name, rows in (("training", self.train), ("development", self.development)):
            if not rows:
                raise UserError(f"the {name} split is empty; give the task more rows")
            for place, row in enumerate(rows):
                if not any(token >= 0 for token in row["labels"]):
                    raise UserError(
                        f"{name} row {row.get('id', place)} has no target token, its source alone fills the length; "
                        "raise `max_source` or `max_target`, or remove it"
                    )


class LayerTraining(nn.Module):
    """A stock model and a loss over its blocks: what is trained, projection included.

    Parameters
    ----------
    model
        Is trained in place.
    settings
        The loss.

    Raises
    ------
    UserError
        The family is not served, or the exit layer is not below the number of blocks.
    """

    def __init__(self, model: PreTrainedModel, settings: LossTraining) -> None:
        super().__init__()
        self.model = model
        self.states = LayerStates(model)
        self.loss = LayerLoss(settings, self.states.blocks, self.states.width)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch as one term for each exit, (E,)."""
        states_ND, labels_N = self.states(batch, self.loss.layers)
        return self.loss(states_ND, labels_N, self.states.logits)

    @torch.no_grad()
    def token_scores(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Return summed cross-entropy and count of right tokens of each exit, (2, E), and the number of tokens."""
        states_ND, labels_N = self.states(batch, self.loss.exits)
        sums = []
        for layer in self.loss.exits:
            logits_NV = self.states.logits(states_ND[layer]).float()
            right = (logits_NV.argmax(-1) == labels_N).sum()
            sums.append(torch.stack([functional.cross_entropy(logits_NV, labels_N, reduction="sum"), right]))
        return torch.stack(sums, dim=1), len(labels_N)


class TextTrainer(CheckpointedTrainer):
    """Trains a `LayerTraining`; selects by the development split, scored in fp32 after each epoch.

    Parameters
    ----------
    trained
        Is trained in place.
    rows, recipe
        What is trained on, and how.
    scratch
        Folder of checkpoints and of the best weights.
    progress
        Collects what is measured; its exits are the loss's.
    """

    def __init__(
        self, trained: LayerTraining, rows: TextRows, recipe: TextRecipe, scratch: Path, progress: Progress
    ) -> None:
        training = recipe.training
        steps = optimizer_steps(len(rows.train), training)
        optimizer = _OPTIMIZERS[recipe.settings.optimizer]
        super().__init__(
            trained,
            training_arguments(training, recipe.runtime, recipe.seed, scratch, steps, optimizer),
            rows.collate,
            list(rows.train),
            Pace(progress, training, steps, lambda rate: None),
            recipe.runtime,
        )
        if recipe.settings.optimizer == "adafactor_scaled":
            # nothing in the arguments reaches `scale_parameter`
            rate = {"lr": training.learning_rate, "scale_parameter": True, "relative_step": False}
            self.optimizer_cls_and_kwargs = (Adafactor, rate)
        self.rows, self.training = rows, training
        self._lengths = [len(row["input_ids"]) + len(row["labels"]) for row in rows.train]

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return EpochOrder(self._lengths, rows, self.args.seed, self.training.group_by_length)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any = None
    ) -> Tensor:
        """Run one batch forward and backward; return the loss, scaled for gradient accumulation.

        A step is the mean over its batches, and a batch's loss the mean over its target tokens.

        Raises
        ------
        UserError
            The loss of an exit is not finite.
        """
        model.train()
        inputs = self._prepare_inputs(inputs)
        share = 1.0 / self.current_gradient_accumulation_steps
        with self._autocast():
            losses_E = self.model(inputs)
        self.accelerator.backward(losses_E.sum() * share)
        losses_E = losses_E.detach()
        values = losses_E.tolist()
        if not all(map(math.isfinite, values)):
            layer = self.model.loss.exits[[math.isfinite(value) for value in values].index(False)]
            raise UserError(
                f"the loss of the exit after block {layer} is not finite at step {self.state.global_step + 1}; lower "
                "`learning_rate`, or raise `warmup_ratio`"
            )
        self.progress.add(values, share)
        return losses_E.sum() * share

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the development split and keep the weights where they are the best so far.

        Raises
        ------
        UserError
            The development loss is not finite.
        """
        epoch = round(self.state.epoch)
        losses, shares_right, found = self._development()
        if not all(map(math.isfinite, losses)):
            raise UserError(
                f"the development loss is not finite after step {self.state.global_step}; lower `learning_rate`, or "
                "set `max_grad_norm`"
            )
        self.progress.write_row(self.state.global_step, self.state.epoch, shares_right, found)
        named = ", ".join(f"{name.removeprefix('development_')} {value:.4f}" for name, value in found.items())
        logger.info("epoch %d of %d: development %s", epoch, self.training.epochs, named)
        merit = found[f"development_{self.rows.metric[0]}"] if self.rows.metric else -losses[-1]
        if self.progress.is_best(shares_right, epoch, [merit]):
            save_weights(self.model, Path(self.args.output_dir) / BEST_FILE)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {})
        return {}

    def _development(self) -> tuple[list[float], list[float], dict[str, float]]:
        """Return cross-entropy and share of right tokens of each exit given the target so far, and the row's figures."""
        self.model.eval()
        rows, size = self.rows.development, self.args.train_batch_size
        sums, tokens = torch.zeros(2, len(self.model.loss.exits)), 0
        for start in range(0, len(rows), size):
            batch = self._prepare_inputs(self.rows.collate(list(rows[start : start + size])))
            found_2E, count = self.model.token_scores(batch)
            sums, tokens = sums + found_2E.cpu(), tokens + count
        losses, right = (sums / tokens).tolist()
        found = {"development_loss": losses[-1]}
        if self.rows.metric:
            name, measure = self.rows.metric
            found[f"development_{name}"] = float(measure(self.model.model))
        return losses, right, found
