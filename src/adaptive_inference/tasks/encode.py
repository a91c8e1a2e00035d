"""From texts to token ids, and from rows of ids to one padded batch.

Loads torch only inside `collate`: without it, `prepare_data` counts tokens, and an exported model answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.tasks.schema import Split

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Feature = dict[str, Any]

#: Per-token columns that a batch can hold, with what pads them (None: the tokenizer's padding id).
TOKEN_COLUMNS: dict[str, float | None] = {
    "input_ids": None,
    "attention_mask": 0,
    "token_type_ids": 0,
    "saliency": 0.0,
}


def encode(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Feature]:
    """Tokenise a split, without padding.

    Parameters
    ----------
    split
        Examples with one or two texts.
    tokenizer
        Of the backbone that will read the features.
    max_length
        Tokens kept, special tokens included; of a pair the longer text is cut first.

    Returns
    -------
    list of dict
        Per example ``input_ids`` and ``attention_mask`` (lists of N ints), ``token_type_ids`` where the
        tokenizer makes them, ``label``, ``id`` and ``length`` (N).
    """
    if not split:
        return []
    encoded = encode_texts([example.texts for example in split], tokenizer, max_length)
    for feature, example in zip(encoded, split, strict=True):
        feature |= {"label": example.label, "id": example.id}
    return encoded


def encode_texts(
    texts: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> list[Feature]:
    """Tokenise rows of one or two texts without labels; ``max_length=None`` cuts nothing."""
    columns = [list(column) for column in zip(*texts, strict=True)]
    cut = {"truncation": True, "max_length": max_length} if max_length is not None else {"truncation": False}
    encoded = tokenizer(*columns, padding=False, return_attention_mask=True, verbose=False, **cut)
    names = [name for name in TOKEN_COLUMNS if name in encoded]
    return [
        {name: list(encoded[name][row]) for name in names} | {"length": len(encoded["input_ids"][row])}
        for row in range(len(texts))
    ]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of tokens that stand for no word: those that begin, separate, end and pad; an unknown word is one."""
    names = ("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    return sorted({getattr(tokenizer, name) for name in names} - {None})


def pad_rows(features: Sequence[Feature], pad_token_id: int | None) -> dict[str, np.ndarray]:
    """Stack the token columns of features, padded on the right to the longest of them.

    Parameters
    ----------
    features
        Rows of `encode`.
    pad_token_id
        What pads ``input_ids``; None counts as 0 (padding is masked).

    Returns
    -------
    dict of array, (B, N)
        ``input_ids``, ``attention_mask`` and, where the rows have it, ``token_type_ids``: int64; ``saliency`` float32
        where the rows have it.
    """
    longest = max(len(feature["input_ids"]) for feature in features)
    batch = {}
    for name, filler in TOKEN_COLUMNS.items():
        if name not in features[0]:
            continue
        pad = (pad_token_id or 0) if filler is None else filler
        rows = [list(feature[name]) + [pad] * (longest - len(feature[name])) for feature in features]
        batch[name] = np.array(rows, dtype=np.float32 if isinstance(filler, float) else np.int64)
    return batch


def collate(features: Sequence[Feature], pad_token_id: int | None) -> dict[str, Tensor]:
    """Stack features into one batch of tensors.

    Parameters
    ----------
    features
        Rows of `encode` (``label`` and ``id`` may be absent).
    pad_token_id
        See `pad_rows`.

    Returns
    -------
    dict of Tensor
        The columns of `pad_rows`; ``labels`` (B,) int64 for classes, float32 for scores; ``ids`` (B,) int64.
    """
    import torch

    batch = {name: torch.from_numpy(column) for name, column in pad_rows(features, pad_token_id).items()}
    if "label" in features[0]:
        labels = [feature["label"] for feature in features]
        scores = any(isinstance(label, float) for label in labels)
        batch["labels"] = torch.tensor(labels, dtype=torch.float32 if scores else torch.long)
    if "id" in features[0]:
        batch["ids"] = torch.tensor([feature["id"] for feature in features], dtype=torch.long)
    return batch
