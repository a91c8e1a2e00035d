"""Which decoders are served, and why others are not."""

from __future__ import annotations

from transformers import PreTrainedModel

from adaptive_inference.decoders.base import Decoder
from adaptive_inference.decoders.gpt2 import Gpt2Decoder
from adaptive_inference.decoders.opt import OptDecoder
from adaptive_inference.decoders.rotary import RotaryDecoder
from adaptive_inference.decoders.t5 import T5Decoder
from adaptive_inference.errors import UserError

ADAPTERS: tuple[type[Decoder], ...] = (Gpt2Decoder, OptDecoder, RotaryDecoder, T5Decoder)
#: Attention of transformers that adds a mask to the scores, which ragged rows need.
ATTENTION = ("eager", "sdpa")


def served() -> list[str]:
    """Return the ``model_type`` of every family that is driven."""
    return sorted(name for kind in ADAPTERS for name in kind.model_types)


def adapter_for(model: PreTrainedModel) -> Decoder:
    """Return the adapter that drives a stock model with an LM head.

    Raises
    ------
    UserError
        Its family, or a setting of it, is not served; the message says why and what is.
    """
    if reason := _refused(model):
        raise UserError(f"{type(model).__name__} cannot be decoded with early exit: {reason}")
    kinds = {name: kind for kind in ADAPTERS for name in kind.model_types}
    return kinds[model.config.model_type](model)


def _refused(model: PreTrainedModel) -> str:
    """Return why a model is not served, and what to do; empty: it is."""
    config = model.config
    known = f"served are {', '.join(served())}"
    if getattr(model, "_is_stateful", False):
        return (
            "it carries a state from token to token (state space or linear attention), and a block that was skipped cannot "
            f"make up its state later as it can its keys and values; {known}"
        )
    if not model.can_generate():
        return (
            f"it has no LM head that generates, as encoders and classifiers have none; {known}, as *ForCausalLM or "
            "*ForConditionalGeneration"
        )
    if config.model_type not in served():
        return f"no adapter drives model type {config.model_type!r}; {known}"
    if getattr(model, "peft_config", None):
        return "it carries adapters that are not merged; merge them first (merge_and_unload)"
    window = getattr(config, "sliding_window", None)
    if window or set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return (
            f"it attends within a window (sliding_window {window}), and a block that lags behind would need what has left "
            "it; use a model that attends to all tokens (sliding_window: null)"
        )
    if config._attn_implementation not in ATTENTION:
        return (
            f"attention {config._attn_implementation!r} takes no mask by row and column; load it with attn_implementation= "
            f"{' or '.join(ATTENTION)}"
        )
    return ""
