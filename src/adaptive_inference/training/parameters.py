"""How many weights a model has."""

from __future__ import annotations

from adaptive_inference.exits.model import MultiExitModel


def parameter_total(model: MultiExitModel) -> int:
    """Count all weights of a model."""
    return sum(item.numel() for item in model.parameters())
