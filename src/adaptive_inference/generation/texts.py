"""From pairs of texts to token ids and batches, and from written ids back to texts.

An encoder-decoder reads ``source </s>`` and learns ``target </s>``. A decoder-only one reads ``[opening] source separator``
and goes on with ``target </s>``; its loss is on the target alone. The opening is what the tokenizer puts before a text:
Llama's begin token, nothing for GPT-2. The separator is its separator token, or a line break where it has none.

Shapes: B rows, N tokens read, T tokens learned. Loads torch only inside the functions that make tensors.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adaptive_inference.tasks.text_schema import TextExample, TextSchema

logger = logging.getLogger(__name__)

#: A label that no loss reads.
UNREAD = -100

#: What the token that ends a text is called among the difficulties.
END = "end"


@dataclass(frozen=True)
class Pair:
    """One example as token ids.

    Attributes
    ----------
    id
        Of the example.
    source, target
        What is read, and what is learned or compared, each with its special tokens.
    """

    id: int
    source: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True)
class EncodedPairs:
    """A split as token ids, and how many of its texts were cut to fit."""

    pairs: list[Pair]
    cut_sources: int
    cut_targets: int


def encode_pairs(
    examples: Sequence[TextExample],
    tokenizer: PreTrainedTokenizerBase,
    schema: TextSchema,
    *,
    encoder_decoder: bool,
) -> EncodedPairs:
    """Tokenise a split.

    Parameters
    ----------
    examples
        Its rows.
    tokenizer
        Of the model; see `tokenizer.checked`.
    schema
        Of the task: ``max_source`` and ``max_target`` count the special tokens too.
    encoder_decoder
        Whether the model has an encoder.

    Returns
    -------
    EncodedPairs
        Too long texts keep their beginning and their special tokens; how many there were is counted, and logged.

    Raises
    ------
    UserError
        ``max_source`` or ``max_target`` leaves no room for a word.
    """
    sources, cut_sources = encode_sources(
        [example.source for example in examples],
        tokenizer,
        schema.max_source,
        encoder_decoder=encoder_decoder,
    )
    end = [tokenizer.eos_token_id]
    targets, cut_targets = _framed(
        [example.target for example in examples], tokenizer, schema.max_target, [], end, "max_target"
    )
    pairs = [
        Pair(example.id, source, target)
        for example, source, target in zip(examples, sources, targets, strict=True)
    ]
    for cut, key in ((cut_sources, "max_source"), (cut_targets, "max_target")):
        if cut:
            most = getattr(schema, key)
            logger.warning(
                "%d of %d texts are longer than %s: %d tokens; their ends are cut off",
                cut,
                len(pairs),
                key,
                most,
            )
    return EncodedPairs(pairs, cut_sources, cut_targets)


def encode_sources(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_source: int, *, encoder_decoder: bool
) -> tuple[list[tuple[int, ...]], int]:
    """Tokenise what a model reads; return the ids, and how many texts were cut.

    Raises
    ------
    UserError
        ``max_source`` leaves no room for a word.
    """
    if encoder_decoder:
        return _framed(texts, tokenizer, max_source, [], [tokenizer.eos_token_id], "max_source")
    whole, plain = tokenizer("a").input_ids, _plain(["a"], tokenizer)[0]
    opening = whole[: next(at for at in range(len(whole)) if whole[at : at + len(plain)] == plain)]
    separator = tokenizer.sep_token_id
    between = _plain(["\n"], tokenizer)[0] if separator is None else [separator]
    return _framed(texts, tokenizer, max_source, opening, between, "max_source")


def collate_pairs(pairs: Sequence[Pair], pad: int, *, encoder_decoder: bool) -> dict[str, Tensor]:
    """Stack pairs into one batch to learn from, padded on the right.

    Returns
    -------
    dict of Tensor
        ``input_ids`` and ``attention_mask`` (B, N), ``labels``: (B, T) for an encoder-decoder, else (B, N) in line with
        ``input_ids``; all int64. Labels of padding, and of a decoder-only model's source, are -100.
    """
    if encoder_decoder:
        read = [pair.source for pair in pairs]
        labels = [pair.target for pair in pairs]
    else:
        read = [pair.source + pair.target for pair in pairs]
        labels = [(UNREAD,) * len(pair.source) + pair.target for pair in pairs]
    return _padded(read, pad, left=False) | {"labels": _stack(labels, UNREAD, left=False)}


def collate_sources(
    sources: Sequence[Sequence[int]], pad: int, *, encoder_decoder: bool
) -> dict[str, Tensor]:
    """Stack sources into one batch to write from.

    Returns
    -------
    dict of Tensor
        ``input_ids`` and ``attention_mask``, (B, N) int64; a decoder-only model's are padded on the left, so that all rows
        continue at the same column.
    """
    return _padded(sources, pad, left=not encoder_decoder)


def written_texts(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts of written ids, prompts left out: each up to its first end token, special tokens dropped."""
    end = tokenizer.eos_token_id
    ended = [list(row[: row.index(end)] if end in row else row) for row in map(list, rows)]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in ended]


def token_difficulties(example: TextExample, pair: Pair) -> tuple[str, ...]:
    """Return the difficulty of each token of a pair's target, `END` last.

    Raises
    ------
    UserError
        The tokenizer does not give each word one token, or the target was cut, so that tokens have no known difficulty.
    """
    kinds = (*(example.difficulties or ()), END)
    if len(kinds) != len(pair.target):
        raise UserError(
            f"row {example.id} has {len(kinds) - 1} words of known difficulty but {len(pair.target) - 1} tokens; use "
            "tokenizer: train, which gives each word of the generated task one token, and a larger max_target"
        )
    return kinds


def check_context(schema: TextSchema, context: int | None, *, encoder_decoder: bool) -> None:
    """Refuse texts that are longer than the positions that a model knows.

    Parameters
    ----------
    schema
        Of the task.
    context
        Positions of the model; None: any number (relative positions).
    encoder_decoder
        Whether sources and targets have positions of their own.

    Raises
    ------
    UserError
        They do not fit.
    """
    needed = (
        max(schema.max_source, schema.max_target)
        if encoder_decoder
        else schema.max_source + schema.max_target
    )
    if context is not None and needed > context:
        raise UserError(
            f"task {schema.task}: max_source {schema.max_source} and max_target {schema.max_target} need {needed} "
            f"positions, but the model has {context}; lower them, or use a model with a longer context"
        )


def _framed(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    most: int,
    before: list[int],
    after: list[int],
    key: str,
) -> tuple[list[tuple[int, ...]], int]:
    """Put special tokens around the ids of each text, cut so that all fit; return the rows and how many were cut."""
    room = most - len(before) - len(after)
    if room < 1:
        raise UserError(
            f"{key}: {most} leaves no room beside {len(before) + len(after)} special tokens; give more"
        )
    rows = _plain(texts, tokenizer)
    cut = sum(len(row) > room for row in rows)
    return [(*before, *row[:room], *after) for row in rows], cut


def _plain(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids


def _padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> dict[str, Tensor]:
    mask = [[1] * len(row) for row in rows]
    return {"input_ids": _stack(rows, pad, left=left), "attention_mask": _stack(mask, 0, left=left)}


def _stack(rows: Sequence[Sequence[int]], filler: int, *, left: bool) -> Tensor:
    import torch

    longest = max(map(len, rows))
    gaps = [[filler] * (longest - len(row)) for row in rows]
    return torch.tensor(
        [[*gap, *row] if left else [*row, *gap] for row, gap in zip(rows, gaps, strict=True)],
        dtype=torch.long,
    )
