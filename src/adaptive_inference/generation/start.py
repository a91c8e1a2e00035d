"""The decoder that a training starts from, and what of it can be told before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adaptive_inference.decoders.families import adapter_for
from adaptive_inference.decoders.weights import load_decoder

if TYPE_CHECKING:
    from adaptive_inference.decoders.base import Decoder
    from adaptive_inference.settings.generation import TextModel


def start_decoder(settings: TextModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """Load or make the model that is trained: with a place in its vocabulary for each token of the tokenizer.

    Parameters
    ----------
    settings
        Where its weights come from.
    tokenizer
        Has a pad and an end token.
    seed
        Of random weights, and of embeddings that a vocabulary lacks.

    Raises
    ------
    UserError
        The weights cannot be found or used, or the family is not served.
    """
    own = settings.config | {"vocab_size": len(tokenizer)} if settings.weights == "config" else {}
    model = load_decoder(
        settings.weights,
        architecture=settings.architecture,
        config=own,
        revision=settings.revision,
        sha256=settings.sha256,
        seed=seed,
    )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.resize_token_embeddings(len(tokenizer))
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "eos_token_id", "bos_token_id")}
    if model.config.is_encoder_decoder:
        given = getattr(model.generation_config, "decoder_start_token_id", None)
        special["decoder_start_token_id"] = tokenizer.pad_token_id if given is None else given  # T5 starts so
    for name, token in special.items():
        setattr(model.config, name, token)
        setattr(model.generation_config, name, token)
    adapter_for(model)  # refuses what cannot be decoded, before it is trained
    return model


def sketch_decoder(settings: TextModel) -> Decoder | None:
    """Return the decoder of a configuration in the params, without weights; None where weights bring their own.

    Raises
    ------
    UserError
        The configuration cannot be used, or the family is not served.
    """
    if settings.weights != "config":
        return None
    with torch.device("meta"):
        return adapter_for(load_decoder("config", architecture=settings.architecture, config=settings.config))
