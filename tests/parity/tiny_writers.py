"""Tiny random language models that are sometimes sure and sometimes right: untrained ones are neither."""

from __future__ import annotations

import torch
from transformers import DynamicCache, EncoderDecoderCache

from adaptive_inference.decoders._tiny import VOCABULARY, tiny_decoder
from adaptive_inference.decoders.families import adapter_for
from adaptive_inference.decoding import DecodingPolicy, EarlyExitDecoding

FAMILIES = ("t5", "mt5", "longt5", "llama", "gpt2", "opt")
THRESHOLDS = (0.0, 0.3, 0.6, 0.9, 1.0)
SHALLOW, NEW, PROMPT = 2, 11, 7
#: What block writes into the residual stream, as the families call it.
OUTPUTS = (
    ".o.weight", ".wo.weight", "o_proj.weight", "down_proj.weight", "c_proj.weight", "out_proj.weight", "fc2.weight",
)  # fmt: skip
#: Factor of the final norm at which a family's gaps spread over [0, 1].
SHARPNESS = {"t5": 1.0, "mt5": 0.7, "longt5": 1.0, "llama": 4.0, "gpt2": 4.0, "opt": 3.0}


def writer(family, seed=0, deep=0.35, end=1, **changes):
    """Return a model in float64 whose blocks above `SHALLOW` change little, so that both models often agree.

    ``deep`` scales what these blocks write, ``end`` is the end token (None: texts never end by themselves).
    """
    if family == "longt5":
        changes = {"local_radius": 2, "encoder_attention_type": "local"} | changes
    model = tiny_decoder(family, seed, **changes).double()
    decoder = adapter_for(model)
    with torch.no_grad():
        for block in decoder.blocks[SHALLOW:]:
            for name, weight in block.named_parameters():
                if name.endswith(OUTPUTS):
                    weight.mul_(deep)
        final = final_norm(model)
        for weight in final.parameters():
            weight.mul_(SHARPNESS[family])
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = 0
    return model


def final_norm(model):
    paths = ("decoder.final_layer_norm", "model.norm", "transformer.ln_f", "model.decoder.final_layer_norm")
    modules = dict(model.named_modules())
    return next(modules[path] for path in paths if path in modules)


def prompts(count, seed=0, width=PROMPT):
    """Return padded prompts of random lengths: ids and mask, padding on the left."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (count, width), generator=generator)
    lengths = torch.randint(2, width + 1, (count,), generator=generator)
    lengths[0] = width
    mask = (torch.arange(width) >= width - lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def one(inputs, row):
    """Return a row of a batch by itself, without its padding."""
    real = inputs["attention_mask"][row].bool()
    return {name: values[row : row + 1, real] for name, values in inputs.items()}


def plain(model, inputs, **options):
    """Return the tokens of plain ``generate``."""
    options = {"max_new_tokens": NEW} | options
    if model.config.is_encoder_decoder:
        # generate counts the layers of its cache by the encoder, and fails where the decoder has more
        options["past_key_values"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
    return model.generate(**inputs, **options)


def write(model, inputs, policy, adaptive=None, classifier=None, observe=False, defer=None, **options):
    """Return the tokens of a policy, and the trace."""
    decoding = EarlyExitDecoding(policy, adaptive, classifier=classifier, observe=observe, defer=defer)
    ids = model.generate(**inputs, custom_generate=decoding, **({"max_new_tokens": NEW} | options))
    return ids, decoding.trace


def new_tokens(model, inputs, ids, row=0, pad=0):
    """Return a row's generated tokens, without what fills it up."""
    start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    tokens = ids[row, start:].tolist()
    while tokens and tokens[-1] == pad:
        tokens.pop()
    return tokens


def verify(threshold, **options):
    return DecodingPolicy("verify", exit_layer=SHALLOW, threshold=threshold, **options)


def keep(threshold, **options):
    return DecodingPolicy("keep", exit_layer=SHALLOW, threshold=threshold, **options)


def middle(model, inputs, leave=0.6, policy=None):
    """Return a threshold that a share of a text's tokens exceed: how sure a model is depends on its random weights."""
    _, trace = write(model, inputs, policy or keep(1.0))
    sure = sorted(value for row in trace.rows for value in row.confidence if value is not None)
    return sure[int((1 - leave) * (len(sure) - 1))]
