"""Exit heads and the models that have them.

``load_model(folder)`` returns a `MultiExitModel` or a `MultiModel`, whichever the folder holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptive_inference.exits.build import build_model
    from adaptive_inference.exits.cascade import MultiModel
    from adaptive_inference.exits.forward import ExitAnswer, Forward
    from adaptive_inference.exits.load import load_model
    from adaptive_inference.exits.model import ExitBatch, MultiExitModel

__all__ = ["ExitAnswer", "ExitBatch", "Forward", "MultiExitModel", "MultiModel", "build_model", "load_model"]

_HOMES = {
    "ExitAnswer": "forward",
    "ExitBatch": "model",
    "Forward": "forward",
    "MultiExitModel": "model",
    "MultiModel": "cascade",
    "build_model": "build",
    "load_model": "load",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that command lines answer before torch is loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
