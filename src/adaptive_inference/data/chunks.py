"""Long documents as several examples: chunks of words, each with the document's label (adapler.md section 2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import Chunk
from adaptive_inference.tasks.schema import Example, Split


def chunk_splits(
    splits: dict[str, Split], train: Split, evaluation: Split | None, asked: Chunk
) -> dict[str, Split]:
    """Cut the documents of all splits.

    Parameters
    ----------
    splits
        The four splits, of documents.
    train, evaluation
        All documents of the train file, and of the evaluation file where there is one.
    asked
        How to cut.

    Returns
    -------
    dict
        The splits of chunks, in the order of the documents. A chunk's id is its position among the chunks of all
        documents of its file, so that it depends on no seed. With ``only_rationales`` the train split lacks the chunks
        that are known to hold no rationale word; the other splits are never chosen by what is to be found in them.

    Raises
    ------
    UserError
        ``only_rationales`` leaves nothing to train on.
    """
    of_train = _numbered(train, asked.words)
    of_evaluation = of_train if evaluation is None else _numbered(evaluation, asked.words)
    chunked = {
        name: Split(
            chunk
            for document in split
            for chunk in (of_evaluation if name == "evaluation" else of_train)[document.id]
        )
        for name, split in splits.items()
    }
    if asked.only_rationales:
        chunked["train"] = Split(chunk for chunk in chunked["train"] if chunk.rationale != ())
        if not chunked["train"]:
            raise UserError(
                "`chunk.only_rationales` leaves no chunk to train on, since none has a rationale word; check the column of "
                "`rationale`, or remove the key"
            )
    return chunked


def cut(document: Example, words: int) -> list[Example]:
    """Cut one document into chunks of at most ``words`` words, all with its id; no word is lost.

    A chunk ends before a run of rationale words that does not fit any more; a run longer than a chunk has to be cut.
    """
    spaced = document.texts[0].split(" ")
    marked = set(document.rationale or ())
    chunks, start = [], 0
    while start < len(spaced):
        end = _end(start, min(start + words, len(spaced)), len(spaced), marked)
        known = document.rationale is not None
        rationale = tuple(p - start for p in range(start, end) if p in marked) if known else None
        chunks.append(replace(document, texts=(" ".join(spaced[start:end]),), rationale=rationale))
        start = end
    return chunks


def _end(start: int, latest: int, count: int, marked: set[int]) -> int:
    """Return the last end up to ``latest`` that cuts no run of rationale words, or ``latest`` where there is none."""
    end = latest
    while start < end < count and end in marked and end - 1 in marked:
        end -= 1
    return end if end > start else latest


def _numbered(documents: Iterable[Example], words: int) -> dict[int, list[Example]]:
    chunks: dict[int, list[Example]] = {}
    first = 0
    for document in documents:
        parts = cut(document, words)
        chunks[document.id] = [replace(part, id=first + place) for place, part in enumerate(parts)]
        first += len(parts)
    return chunks
