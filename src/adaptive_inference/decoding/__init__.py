"""Early-exit decoding: which blocks of a decoder each token takes, as a loop for ``model.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adaptive_inference.decoding.policy import DecodingPolicy

if TYPE_CHECKING:
    from adaptive_inference.decoding.adaptive import AdaptiveThreshold
    from adaptive_inference.decoding.generate import EarlyExitDecoding

_LAZY = {"EarlyExitDecoding": "generate", "AdaptiveThreshold": "adaptive"}
__all__ = ["AdaptiveThreshold", "DecodingPolicy", "EarlyExitDecoding"]


def __getattr__(name: str) -> Any:
    """Load torch with the first loop that is asked for, not before: the check of the params reads policies."""
    from importlib import import_module

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
