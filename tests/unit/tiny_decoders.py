"""Batches for tiny random models of every family that writes text."""

import torch

from adaptive_inference.decoders._tiny import BLOCKS, VOCABULARY, WIDTH
from adaptive_inference.decoders._tiny import tiny_decoder as tiny_decoder_to_use

torch.set_num_threads(1)  # more are slower on tensors this small, and compete with other workers

ENCODER_DECODER = ("t5", "mt5", "longt5")
FAMILIES = (*ENCODER_DECODER, "llama", "qwen3", "gpt2", "opt")
__all__ = ["BLOCKS", "ENCODER_DECODER", "FAMILIES", "WIDTH", "collate", "tiny_decoder", "tiny_features"]


def tiny_decoder(family, seed=0, **changes):
    """A tiny model in training mode, as it comes from its config."""
    return tiny_decoder_to_use(family, seed, **changes).train()


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
