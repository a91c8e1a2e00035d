"""Engines that really stop at the exit: one decision loop for any batch size, over whatever runs the layers."""

from adaptive_inference.engine.engine import Decisions, Engine

__all__ = ["Decisions", "Engine"]
