"""Tiny random models of every family that writes text, and batches for them."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

torch.set_num_threads(1)  # more are slower on tensors this small, and compete with other workers

VOCABULARY, WIDTH, BLOCKS = 40, 16, 4
_T5 = {
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_decoder_layers": BLOCKS,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
_LLAMA = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
SETTINGS = {
    "t5": _T5,
    "mt5": _T5,
    "longt5": _T5 | {"local_radius": 4},
    "llama": _LLAMA,
    "qwen3": _LLAMA | {"head_dim": 8},
    "gpt2": {"n_embd": WIDTH, "n_layer": BLOCKS, "n_head": 2, "n_positions": 64},
    "opt": {
        "hidden_size": WIDTH,
        "ffn_dim": 32,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    },
}
ENCODER_DECODER = ("t5", "mt5", "longt5")
FAMILIES = tuple(SETTINGS)


def tiny_config(family, **changes):
    return AutoConfig.for_model(
        family,
        **{"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
        | SETTINGS[family]
        | changes,
    )


def tiny_decoder(family, seed=0, **changes):
    """A model whose weights are wide enough that layers and rows differ; in training mode, as it comes from its config."""
    config = tiny_config(family, **changes)
    kind = AutoModelForSeq2SeqLM if family in ENCODER_DECODER else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind.from_config(config)
        with torch.no_grad():
            for item in model.parameters():
                item.add_(0.1 * torch.randn_like(item))
    return model


def tiny_features(family, rows=6, seed=0):
    """Sources and targets of random words; a target repeats its source's first tokens, so that it can be learned."""
    draw, features = torch.Generator().manual_seed(seed), []
    for index in range(rows):
        length = int(torch.randint(3, 7, (1,), generator=draw))
        source = torch.randint(3, VOCABULARY, (length,), generator=draw).tolist()
        target = [*source[:2], 1]
        if family not in ENCODER_DECODER:
            source, target = source + target, [-100] * len(source) + target
        features.append({"id": index, "input_ids": source, "labels": target})
    return features


def collate(features, pad=0, left=False):
    """Pad ids with 0 and labels with -100."""

    def padded(rows, value):
        longest = max(map(len, rows)) + pad
        rows = [
            [value] * (longest - len(row)) + row if left else row + [value] * (longest - len(row))
            for row in rows
        ]
        return torch.tensor(rows)

    ids = [feature["input_ids"] for feature in features]
    return {
        "ids": torch.tensor([feature["id"] for feature in features]),
        "input_ids": padded(ids, 0),
        "attention_mask": padded([[1] * len(row) for row in ids], 0),
        "labels": padded([feature["labels"] for feature in features], -100),
    }
