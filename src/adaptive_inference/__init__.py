"""Adaptive-inference transformers: train, calibrate, time, compare and use early-exit models.

``from adaptive_inference import MultiExitModel`` loads a trained model; nothing heavy is imported before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptive_inference.exits import MultiExitModel, MultiModel, load_model

__all__ = ["MultiExitModel", "MultiModel", "load_model"]


def __getattr__(name: str) -> Any:
    """Import torch and transformers on first use only."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from adaptive_inference import exits

    return getattr(exits, name)
