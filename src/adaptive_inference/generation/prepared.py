"""What is prepared of a text task before anything is trained: the tokenizer, and the statistics of its splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.generation.texts import EncodedPairs
from adaptive_inference.generation.tokenizer import load_text_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adaptive_inference.settings.generation import TextModel
    from adaptive_inference.tasks.text_schema import TextExample

QUANTILES = (5, 25, 50, 75, 95, 100)  # of lengths, in percent


def start_tokenizer(settings: TextModel, examples: Sequence[TextExample]) -> PreTrainedTokenizerBase:
    """Train, or load, the tokenizer of a model.

    Parameters
    ----------
    settings
        Says where it comes from.
    examples
        The train split. Rows whose words have known difficulties get a token for each word.

    Raises
    ------
    UserError
        It cannot be had, has no end token, or its vocabulary is too small.
    """
    if settings.vocabulary is not None:
        return train_tokenizer(examples, settings.vocabulary, words=examples[0].difficulties is not None)
    if settings.tokenizer == "weights":
        return load_text_tokenizer(settings.weights, settings.revision)
    return load_text_tokenizer(settings.tokenizer)


def describe_pairs(encoded: EncodedPairs) -> dict[str, Any]:
    """Return the statistics of a split: rows, quantiles of tokens, texts that were cut."""
    lengths = {
        "source_tokens": [len(pair.source) for pair in encoded.pairs],
        "target_tokens": [len(pair.target) for pair in encoded.pairs],
    }
    quantiles = {
        name: {str(at): float(np.percentile(found, at)) for at in QUANTILES}
        for name, found in lengths.items()
    }
    cut = {"cut_sources": encoded.cut_sources, "cut_targets": encoded.cut_targets}
    return {"rows": len(encoded.pairs)} | quantiles | cut


def shared_sources(splits: Mapping[str, Sequence[TextExample]]) -> dict[str, int]:
    """Return how many sources two splits share, for each pair of splits."""
    sources = {name: {example.source for example in examples} for name, examples in splits.items()}
    pairs = combinations(sources, 2)
    return {f"{first}-{second}": len(sources[first] & sources[second]) for first, second in pairs}
