"""AdapLeR: predictors learn which tokens matter, thresholds learn how many may stay (adapler.md 1.6 to 1.9).

Two losses share one forward pass under soft removal. The first trains all weights: the task loss, and the predictors'
divergence from the saliencies. The second trains the thresholds alone: the task loss, and the number of tokens left.

Shape suffixes: B rows, N tokens, C outputs, E exits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from adaptive_inference.cost.flops import flops_by_exit, flops_speedup
from adaptive_inference.errors import UserError
from adaptive_inference.exits.build import check_last_exit, start_from_full
from adaptive_inference.objectives.base import Objective, Route, Surgery, task_loss
from adaptive_inference.settings.training import Removal
from adaptive_inference.token_reduction.soft import SoftRemoval, sharpness_at
from adaptive_inference.token_reduction.targets import imitation_loss, imitation_target, layer_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from adaptive_inference.backbones.base import Backbone, Batch
    from adaptive_inference.exits.forward import EncoderForward, ExitAnswer
    from adaptive_inference.exits.model import MultiExitModel
    from adaptive_inference.objectives.base import Scored, StepTaken, Whole
    from adaptive_inference.settings.training import MethodTraining
    from adaptive_inference.tasks.encode import Feature


class BesideFull(Surgery):
    """Keeps the full model at hand, by whose quality and cost epochs are judged; may begin with its weights."""

    needs_full = "fine_tuned"

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        super().__init__(method, whole)
        self.settings = method.removal or Removal()

    def operate(self, model: MultiExitModel, seed: int, batches: Iterable[Batch]) -> None:
        """See `Surgery.operate`."""
        self.check_encoder(type(model.backbone), model.backbone.config)
        full = self.given_full().to(model.device).eval()
        if self.settings.start == "fine_tuned":
            start_from_full(model, full)
        with torch.no_grad():
            model.reduction.eta.fill_(self.settings.eta)

    def check_encoder(self, kind: type[Backbone], config: PreTrainedConfig) -> None:
        """See `Surgery.check_encoder`: rows may lose tokens of their own."""
        if not kind.reduces_tokens:
            raise UserError(
                f"objective {self.name!r} removes tokens from each row by itself, which {kind.family()} does not allow: all "
                "rows share its table of relative positions; use bert, roberta, albert, distilbert or mpnet, or leave the "
                "method out"
            )

    def check_exits(self, exits: Sequence[int], layers: int) -> None:
        """See `Surgery.check_exits`."""
        check_last_exit(exits, layers)


class Terms(NamedTuple):
    """What a batch adds to the task loss, scalars."""

    imitation: Tensor
    length: Tensor


class Adapler(Objective):
    """Trains the last exit alone, as published."""

    surgery_class = BesideFull
    surgery: BesideFull
    needs_reduction = True
    needs_saliency = True
    one_exit = True
    kinds = ("classification",)

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        super().__init__(method, whole)
        self.settings = self.surgery.settings
        self.by_depth = method.weights == "depth"
        self.sharpness = 0.0
        self._floor: float | None = None
        self._terms: Terms | None = None

    def attach(self, model: MultiExitModel, seed: int) -> None:
        """See `Objective.attach`."""
        self.model = model
        total = sum(model.exits)
        self.weights = {layer: layer / total if self.by_depth else 1.0 for layer in model.exits}
        self._thresholds = model.threshold_parameters()
        apart = {id(item) for item in self._thresholds}
        self._weights = [item for item in model.parameters() if item.requires_grad and id(item) not in apart]

    def begin(self, step: int, total: int) -> None:
        """Sharpen the removal with each epoch; see `Objective.begin`."""
        epoch = min(step * self.epochs // total, self.epochs - 1)
        self.sharpness = sharpness_at(epoch, self.epochs)

    def start(self, model: MultiExitModel, batch: Batch) -> EncoderForward:
        """See `Objective.start`; tokens fade rather than vanish."""
        self._saliency_BN = batch["saliency"]
        self._removal = model.reduction.soft(self.sharpness)
        return model.start(batch, self.gradient, removal=self._removal)

    def losses(self, answers: Sequence[ExitAnswer], labels_B: Tensor) -> list[Tensor]:
        """See `Objective.losses`."""
        self._answers = answers
        return [self.weights[answer.layer] * task_loss(answer.logits, labels_B) for answer in answers]

    def routes(self, losses_E: Tensor) -> list[Route]:
        """Weights learn by imitation, thresholds by length, both by the task; see `Objective.routes`."""
        theta = self.model.reduction.theta
        terms = removal_terms(self._removal, self._answers, self._saliency_BN, theta)
        self._terms = terms
        task = losses_E.sum()
        return [
            Route(task + self.settings.gamma * terms.imitation, self._weights),
            Route(task + self.settings.phi * terms.length, self._thresholds),
        ]

    def after_step(self, taken: StepTaken) -> None:
        """See `Objective.after_step`."""
        self.model.reduction.clamp()

    def figures(self) -> dict[str, float]:
        """Imitation loss and mean tokens per layer of the last batch, and the thresholds; see `Objective.figures`."""
        eta = self.model.reduction.eta.detach().tolist()
        named = {f"eta{layer}": value for layer, value in enumerate(eta, start=1)}
        if self._terms is not None:
            named["imitation_loss"] = self._terms.imitation.item()
            named["tokens_left"] = self._terms.length.item() / len(eta)
        return named

    def merit(self, found: Scored, score: Callable[[MultiExitModel], Scored]) -> tuple[float, ...]:
        """Prefer the fastest epoch among those near the full model's quality, else the best one (adapler.md 1.9)."""
        full = self.surgery.given_full()
        if self._floor is None:
            self._floor = score(full).qualities[-1] - self.settings.max_loss / 100
        outputs, quality = found.outputs, found.qualities[-1]
        flops = flops_by_exit(self.model, outputs.lengths, outputs.survivors)[:, -1]
        speedup = float(flops_speedup(flops_by_exit(full, outputs.lengths)[:, -1], flops))
        return (1.0, speedup, quality) if quality > self._floor else (0.0, quality, speedup)

    def verdict(self, merit: Sequence[float]) -> dict[str, float]:
        """See `Objective.verdict`."""
        qualified, *rest = merit
        speedup = rest[0] if qualified else rest[1]
        return {"qualified": qualified, "development_flops_speedup": speedup}

    def warning(self, merit: Sequence[float]) -> str:
        """See `Objective.warning`."""
        if merit[0]:
            return ""
        return (
            f"no epoch came within {self.settings.max_loss:g} points of the full model's development quality: the best one "
            f"({merit[1]:.4f}) is kept, and the record says `qualified: 0`; lower phi, train longer, or allow more by "
            "`removal.max_loss`"
        )

    def check_rows(self, features: Sequence[Feature]) -> None:
        """See `Objective.check_rows`."""
        if features and "saliency" not in features[0]:
            raise UserError(
                f"objective {self.name!r} needs the saliency of every token of the training rows, and they have none; give "
                "the scores that extract_saliencies wrote"
            )


def removal_terms(
    removal: SoftRemoval, answers: Sequence[ExitAnswer], saliency_BN: Tensor, theta: Tensor
) -> Terms:
    """Return the imitation of the saliencies, weighted by layer, and the mean number of tokens left, summed over layers.

    With exits, a layer counts for a row as far as the row is likely to reach it: by the product, over the exits before,
    of one minus the exit's confidence (adapler.md 7.5).

    Parameters
    ----------
    removal
        After all layers were run.
    answers
        Of all exits, in their order.
    saliency_BN
        Not negative; 0 on padding.
    theta
        (L - 1,), see `TokenReduction`.
    """
    layers = len(removal.scores)
    imitation = saliency_BN.new_zeros(())
    for index, weight in enumerate(layer_weights(layers)):
        entry_BN = removal.entry[index]
        factor = theta[index - 1] if index else 1.0
        target_BN = imitation_target(saliency_BN, entry_BN, factor)
        imitation = imitation + weight * imitation_loss(target_BN, removal.scores[index], entry_BN)
    reach_B, waiting, length = torch.ones_like(removal.lengths[0]), list(answers), saliency_BN.new_zeros(())
    for index, left_B in enumerate(removal.lengths):
        if waiting and waiting[0].layer <= index:
            reach_B = reach_B * (1 - waiting.pop(0).logits.detach().float().softmax(-1).amax(-1))
        length = length + (reach_B * left_B).mean()
    return Terms(imitation, length)


OBJECTIVE = Adapler
