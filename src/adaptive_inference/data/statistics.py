"""What a reader of the record wants to know of each split, as numbers."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from adaptive_inference.tasks.encode import encode_texts
from adaptive_inference.tasks.schema import Schema, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Quantiles of the token lengths, in percent; 0 and 100 are the extremes.
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def describe(split: Split, schema: Schema, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the statistics of one split.

    Returns
    -------
    dict
        ``rows``; ``labels`` (name -> rows, or mean, deviation and extremes of scores); ``tokens`` (quantile in
        percent -> length before truncation, special tokens included); ``truncated`` (share of rows cut at
        ``max_length``); ``repeated`` (rows whose texts stood before in the split); for the generated task ``tiers``
        (tier -> rows) and ``flipped`` (share of wrong labels).
    """
    lengths = sorted(
        feature["length"] for feature in encode_texts([example.texts for example in split], tokenizer, None)
    )
    body: dict[str, Any] = {
        "rows": len(split),
        "labels": _labels(split, schema),
        "tokens": {str(q): lengths[round(q / 100 * (len(lengths) - 1))] for q in QUANTILES},
        "truncated": sum(length > schema.max_length for length in lengths) / len(lengths),
        "repeated": len(split) - len({example.texts for example in split}),
    }
    if split.tiers is not None:
        body["tiers"] = {str(tier): count for tier, count in sorted(Counter(split.tiers).items())}
        body["flipped"] = fmean(example.label != example.clean_label for example in split)
    return body


def shared_texts(splits: dict[str, Split]) -> dict[str, int]:
    """Return for each pair of splits the rows of the later one whose texts occur in the earlier one."""
    texts = {name: {example.texts for example in split} for name, split in splits.items()}
    return {
        f"{first}-{second}": sum(example.texts in texts[first] for example in splits[second])
        for first, second in combinations(splits, 2)
    }


def _labels(split: Split, schema: Schema) -> dict[str, Any]:
    if schema.labels is None:
        scores = [float(label) for label in split.labels]
        return {"mean": fmean(scores), "deviation": pstdev(scores), "min": min(scores), "max": max(scores)}
    counts = Counter(split.labels)
    return {name: counts.get(index, 0) for index, name in enumerate(schema.labels)}
