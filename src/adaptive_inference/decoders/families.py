"""Which decoders are served, and why others are not."""

from __future__ import annotations

from transformers import PreTrainedModel

from adaptive_inference.decoders.base import ATTENTION, Decoder
from adaptive_inference.decoders.rotary import RotaryDecoder
from adaptive_inference.decoders.t5 import T5Decoder
from adaptive_inference.errors import UserError

ADAPTERS: tuple[type[Decoder], ...] = (RotaryDecoder, T5Decoder)


def served() -> list[str]:
    """Return the ``model_type`` of every family that is driven."""
    return sorted(name for kind in ADAPTERS for name in kind.model_types)


def adapter_for(model: PreTrainedModel) -> Decoder:
    """Return the adapter that drives a stock model with an LM head.

    Raises
    ------
    UserError
        Its family, or a setting of it, is not served.
    """
    model_type = model.config.model_type
    for kind in ADAPTERS:
        if model_type in kind.model_types:
            return kind(model)
    raise UserError(f"decoders of type {model_type!r} are not driven; served are {', '.join(served())}")
