"""How many weights a model has, and how many of them the full model has not."""

from __future__ import annotations

from adaptive_inference.exits.model import MultiExitModel


def parameter_counts(model: MultiExitModel) -> dict[str, int]:
    """Count weights: all, and those beyond the encoder and one head, which the full model has too."""
    heads = sum(item.numel() for item in model.head_parameters())
    one = {
        id(item): item for module in (model.heads[-1], model.pooler) if module for item in module.parameters()
    }
    added = heads - sum(item.numel() for item in one.values())
    return {"parameters": parameter_total(model), "added_parameters": added}


def parameter_total(model: MultiExitModel) -> int:
    """Count all weights of a model."""
    return sum(item.numel() for item in model.parameters())
