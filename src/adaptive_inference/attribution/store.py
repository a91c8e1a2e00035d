"""Scores of tokens on disk, by the examples' ids: rows may be shuffled, and a row is never taken for another.

One safetensors file, of equal bytes for equal scores; no text of examples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.files import digest_json, read_arrays, write_arrays

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FIX = "run the stage that extracts them again, for the rows and the backbone of this run"


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the digest of all that turns a text into tokens; what a call leaves behind (padding, truncation) is no part.

    Raises
    ------
    UserError
        The tokenizer is written in Python, and has no such description.
    """
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError(
            f"{type(tokenizer).__name__} has no tokenizer.json to know it by; save it as a fast tokenizer"
        )
    body = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest_json({name: part for name, part in body.items() if name not in ("padding", "truncation")})


@dataclass(frozen=True)
class Origin:
    """What scores were made of, or must have been.

    Attributes
    ----------
    tokenizer
        See `tokenizer_digest`.
    max_length
        Tokens kept of a row, special tokens included.
    made_from
        Name -> digest: ``backbone``, ``data``, ...
    """

    tokenizer: str
    max_length: int
    made_from: Mapping[str, str] = field(default_factory=dict)

    def check(self, asked: Origin) -> None:
        """Refuse what is asked otherwise; of `made_from` the names that are asked count.

        Raises
        ------
        UserError
            Names the first difference.
        """
        found = {"max_length": self.max_length, "tokenizer": self.tokenizer, **self.made_from}
        wanted = {"max_length": asked.max_length, "tokenizer": asked.tokenizer, **asked.made_from}
        for name, value in wanted.items():
            if found.get(name) != value:
                raise UserError(
                    f"the token scores were made with {name} {found.get(name)}, but this run has {name} {value}; the two "
                    f"must be the same: {_FIX}"
                )


@dataclass(frozen=True)
class Scores:
    """One score per token of N examples.

    Attributes
    ----------
    kind
        What the scores are, of `extract.KINDS`.
    ids
        ``(N,)`` int64, of the examples.
    offsets
        ``(N + 1,)`` int64: example i has ``values[offsets[i] : offsets[i + 1]]``.
    values
        float32.
    origin
        What they were made of.
    """

    kind: str
    ids: np.ndarray
    offsets: np.ndarray
    values: np.ndarray
    origin: Origin

    @classmethod
    def join(cls, kind: str, ids: Sequence[int], rows: Sequence[np.ndarray], origin: Origin) -> Scores:
        """Put the rows' scores together; each row is as long as its tokens."""
        offsets = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
        values = np.concatenate([np.zeros(0, np.float32), *rows]).astype(np.float32)
        return cls(kind, np.asarray(ids, dtype=np.int64), offsets, values, origin)

    def of(self, features: Sequence[Mapping[str, Any]], asked: Origin) -> list[np.ndarray]:
        """Return each feature's scores, in the features' order.

        Parameters
        ----------
        features
            Rows of `tasks.encode.encode`.
        asked
            What the scores must have been made of.

        Raises
        ------
        UserError
            They were made of something else, examples are missing, or an example has another number of tokens.
        """
        self.origin.check(asked)
        places = {int(id_): place for place, id_ in enumerate(self.ids)}
        missing = [feature["id"] for feature in features if feature["id"] not in places]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(features)} examples have no token scores, the first with id {missing[0]}; every "
                f"example needs them: {_FIX}"
            )
        found = []
        for feature in features:
            start, stop = self.offsets[places[feature["id"]] :][:2]
            if stop - start != feature["length"]:
                raise UserError(
                    f"the example with id {feature['id']} has {feature['length']} tokens, but {stop - start} token scores; "
                    f"there must be one for each: {_FIX}"
                )
            found.append(self.values[start:stop])
        return found

    def summary(self) -> dict[str, float | int | None]:
        """Return counts, the mean score, and which share of a row's scores its first and its largest token have on average.

        The share of a uniform row would be ``mean_uniform_share``; rows whose scores are all 0 are left out of the shares.
        """
        rows = [self.values[start:stop] for start, stop in pairwise(self.offsets)]
        shares = [row / row.sum() for row in rows if len(row) and row.sum() > 0]
        means = {
            "mean_score": self.values,
            "mean_first_token_share": [row[0] for row in shares],
            "mean_largest_share": [row.max() for row in shares],
            "mean_uniform_share": [1 / len(row) for row in shares],
        }
        counts = {"rows": len(rows), "tokens": len(self.values), "rows_of_zeros": len(rows) - len(shares)}
        return counts | {
            name: float(np.mean(of, dtype=np.float64)) if len(of) else None for name, of in means.items()
        }

    def save(self, file: Path) -> None:
        """Write one file."""
        origin = self.origin
        head = {"kind": self.kind, "tokenizer": origin.tokenizer, "max_length": origin.max_length}
        head["made_from"] = dict(origin.made_from)
        write_arrays(
            file, {"ids": self.ids, "offsets": self.offsets, "values": self.values}, "token_scores", head
        )

    @classmethod
    def load(cls, file: Path) -> Scores:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            The file is missing or holds something else.
        """
        try:
            arrays, head = read_arrays(file, "token_scores")
            ids, offsets, values = (arrays[name] for name in ("ids", "offsets", "values"))
            if len(offsets) != len(ids) + 1 or offsets[0] != 0 or offsets[-1] != len(values):
                raise ValueError("its rows do not add up")
            origin = Origin(head["tokenizer"], head["max_length"], head["made_from"])
            return cls(head["kind"], ids, offsets, values, origin)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file} holds no token scores ({error}); run its stage again") from error


def mean_scores(each: Sequence[Scores]) -> Scores:
    """Return the mean of the raw scores of several models, as of the best epochs: larger ones weigh more (adapler.md 1.1).

    Parameters
    ----------
    each
        Of one kind and of the same rows in one order; of what they were made of, what differs becomes one digest.

    Raises
    ------
    UserError
        They are of different kinds, tokenizers, lengths or rows.
    """
    first = each[0]
    for other in each[1:]:
        other.origin.check(replace(first.origin, made_from={}))
        same = np.array_equal(other.ids, first.ids) and np.array_equal(other.offsets, first.offsets)
        if other.kind != first.kind or not same:
            raise UserError(
                f"token scores of kind {other.kind} of {len(other.ids)} rows cannot be averaged with {first.kind} of "
                f"{len(first.ids)} rows; they must be of one kind and of the same rows: {_FIX}"
            )
    made_from = {}
    for name in sorted({name for item in each for name in item.origin.made_from}):
        digests = [item.origin.made_from.get(name) for item in each]
        made_from[name] = digests[0] if len(set(digests)) == 1 else digest_json(digests)
    values = np.mean([item.values for item in each], axis=0, dtype=np.float64).astype(np.float32)
    return replace(first, values=values, origin=replace(first.origin, made_from=made_from))
