"""The full model without its least important attention heads, fine-tuned again.

Importance is how much the loss would move if a head's output were scaled, measured row by row on the full fine-tuned model
(Michel, Levy, Neubig: "Are Sixteen Heads Really Better than One?", 2019).

Shape suffixes: B rows, N tokens, L layers, A heads, D width of all heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adaptive_inference.backbones._heads import check_removable, keep_heads
from adaptive_inference.objectives._from_full import FromFull
from adaptive_inference.objectives.base import task_loss
from adaptive_inference.objectives.joint import Joint
from adaptive_inference.settings.training import HeadPruning as Settings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from adaptive_inference.backbones.base import Backbone, Batch
    from adaptive_inference.exits.model import MultiExitModel
    from adaptive_inference.objectives.base import Whole
    from adaptive_inference.settings.training import MethodTraining


class FewerHeads(FromFull):
    """Takes the least important heads out of the full model."""

    def __init__(self, method: MethodTraining, whole: Whole | None = None) -> None:
        super().__init__(method, whole)
        self.settings = method.pruning or Settings()

    def operate(self, model: MultiExitModel, seed: int, batches: Iterable[Batch]) -> None:
        """Measure and take out heads; see `Surgery.operate`."""
        self.check_encoder(type(model.backbone), model.backbone.config)
        super().operate(model, seed, batches)
        importance_LA = head_importance(model, first_rows(batches, self.settings.rows))
        kept = heads_kept(importance_LA, self.settings.share)
        for layer, heads in zip(model.backbone.layers, kept, strict=True):
            keep_heads(layer, heads)

    def check_encoder(self, kind: type[Backbone], config: PreTrainedConfig) -> None:
        """See `Surgery.check_encoder`: single heads can be taken out."""
        check_removable(kind)


class HeadPruning(Joint):
    """`Joint`, of a model that starts as the full one with fewer heads."""

    surgery_class = FewerHeads


def first_rows(batches: Iterable[Batch], rows: int) -> Iterator[Batch]:
    """Yield whole batches until so many rows are reached."""
    for batch in batches:
        yield batch
        rows -= len(batch["labels"])
        if rows <= 0:
            return


def head_importance(model: MultiExitModel, batches: Iterable[Batch]) -> Tensor:
    """Return the mean over rows of |d loss of the last exit / d gate|, (L, A), each layer scaled to length 1.

    A gate multiplies a head's output; it is 1. The model is left as it was, in eval mode.
    """
    model.eval()
    layers = model.backbone.layers
    total_LA = torch.zeros(len(layers), model.backbone.config.num_attention_heads, device=model.device)
    rows = 0
    for batch in batches:
        labels_B = batch["labels"]
        gates_LBA = torch.ones(
            len(layers), len(labels_B), total_LA.shape[1], device=model.device, requires_grad=True
        )
        with torch.enable_grad(), gated(layers, gates_LBA):
            last = model.start(batch).reach(len(model.exits) - 1)
            whole = task_loss(last.logits, labels_B) * len(
                labels_B
            )  # each row's gate moves its own row's loss alone
        (gradient_LBA,) = torch.autograd.grad(whole, gates_LBA)
        total_LA += gradient_LBA.abs().sum(1)
        rows += len(labels_B)
    mean_LA = total_LA / rows
    return mean_LA / mean_LA.norm(dim=1, keepdim=True).clamp(min=torch.finfo(mean_LA.dtype).tiny)


@contextlib.contextmanager
def gated(layers: Iterable[nn.Module], gates_LBA: Tensor) -> Iterator[None]:
    """While entered, the output of every head is multiplied by its gate."""

    def gate(gates_BA: Tensor) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            (mixed_BND,) = inputs
            width = mixed_BND.shape[-1] // gates_BA.shape[-1]
            return (mixed_BND * gates_BA.repeat_interleave(width, dim=-1)[:, None],)

        return hook

    pairs = zip(layers, gates_LBA, strict=True)
    handles = [
        layer.attention.output.dense.register_forward_pre_hook(gate(gates_BA)) for layer, gates_BA in pairs
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def heads_kept(importance_LA: Tensor, share: float) -> list[list[int]]:
    """Return the heads that each layer keeps: all but the least important share of the model, the best of a layer always.

    Of equally important heads the first in the model go.
    """
    layers, heads = importance_LA.shape
    ranked = importance_LA.flatten().argsort(stable=True).tolist()
    best = set((torch.arange(layers) * heads + importance_LA.argmax(1).cpu()).tolist())
    removed = set([head for head in ranked if head not in best][: round(share * layers * heads)])
    return [[head for head in range(heads) if layer * heads + head not in removed] for layer in range(layers)]


OBJECTIVE = HeadPruning
