"""Adaptive-inference transformers: train, calibrate, time, compare and use early-exit models.

``load_predictor(folder).predict(texts)`` answers with a saved classifier, ``load_generator(folder).generate(texts)`` with a
saved decoder; nothing heavy is imported before that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptive_inference.own_code import load_own_code
    from adaptive_inference.serving.generator import load_generator
    from adaptive_inference.serving.hub import push_to_hub
    from adaptive_inference.serving.models import MultiExitModel, MultiModel, load_model
    from adaptive_inference.serving.predictor import load_predictor

__all__ = [
    "MultiExitModel",
    "MultiModel",
    "load_generator",
    "load_model",
    "load_own_code",
    "load_predictor",
    "push_to_hub",
]

_HOMES = {
    "MultiExitModel": "serving.models",
    "MultiModel": "serving.models",
    "load_generator": "serving.generator",
    "load_model": "serving.models",
    "load_own_code": "own_code",
    "load_predictor": "serving.predictor",
    "push_to_hub": "serving.hub",
}


def __getattr__(name: str) -> Any:
    """Import on first use: torch and transformers come with a model only."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
