"""From positions of words to labels of tokens: which tokens of an encoded example belong to its rationale."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.tasks.schema import Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_labels(
    split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[np.ndarray | None]:
    """Label the tokens that `encode.encode` gives for a split.

    Parameters
    ----------
    split
        Examples with one or two texts.
    tokenizer, max_length
        As for `encode.encode`, whose rows have the same tokens.

    Returns
    -------
    list of (N,) int8 arrays, or None
        1: the token has a character of a rationale word; 0: it has none; -1: it is not scored, being a special token or
        of the second text, for rationales are of the first. None: the example's rationale is not known. Words beyond
        ``max_length`` have no tokens, so that a row may lack a 1 although its rationale is not empty.

    Raises
    ------
    UserError
        The tokenizer does not tell where its tokens stand in the text.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} does not tell where its tokens stand in the text, so that rationales cannot be "
            "mapped to tokens; use a backbone with a fast tokenizer (one that has a tokenizer.json)"
        )
    known = [row for row, example in enumerate(split) if example.rationale is not None]
    labels: list[np.ndarray | None] = [None] * len(split)
    if not known:
        return labels
    columns = [list(column) for column in zip(*(split[row].texts for row in known), strict=True)]
    encoded = tokenizer(
        *columns, truncation=True, max_length=max_length, return_offsets_mapping=True, verbose=False
    )
    for place, row in enumerate(known):
        labels[row] = _of_row(
            _marked_characters(split[row].texts[0], split[row].rationale or ()),
            encoded["offset_mapping"][place],
            encoded.sequence_ids(place),
        )
    return labels


def _marked_characters(text: str, rationale: Collection[int]) -> np.ndarray:
    """Return for each character whether a rationale word has it, ``(characters,)`` bool; spaces never."""
    is_space = np.array([character == " " for character in text], dtype=bool)
    return np.isin(is_space.cumsum(), list(rationale)) & ~is_space


def _of_row(marked: np.ndarray, offsets: list[tuple[int, int]], texts: list[int | None]) -> np.ndarray:
    return np.array(
        [
            int(marked[start:end].any()) if text == 0 else -1
            for (start, end), text in zip(offsets, texts, strict=True)
        ],
        dtype=np.int8,
    )
