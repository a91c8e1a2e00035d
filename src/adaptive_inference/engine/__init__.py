"""Engines that really stop at the exit: one decision loop for any batch size, over whatever runs the layers."""

from adaptive_inference.engine.compaction import Compaction
from adaptive_inference.engine.engine import Engine
from adaptive_inference.engine.stream import Answered, Stream, StreamStopped
from adaptive_inference.engine.underway import Decisions

__all__ = ["Answered", "Compaction", "Decisions", "Engine", "Stream", "StreamStopped"]
