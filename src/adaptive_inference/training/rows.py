"""Rows that a training may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.errors import UserError
from adaptive_inference.tasks.encode import Feature, encode
from adaptive_inference.tasks.schema import Schema, load_split
from adaptive_inference.training.folds import Fold

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adaptive_inference.attribution.store import Origin, Scores

#: Shares at which token lengths are reported.
QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Rows:
    """Tokenised rows of the two splits that training may see; ``held_out`` are those of ``train`` in a fold."""

    train: list[Feature]
    development: list[Feature]
    held_out: list[Feature] = field(default_factory=list)

    @classmethod
    def load(
        cls, folder: Path, schema: Schema, tokenizer: PreTrainedTokenizerBase, fold: Fold | None = None
    ) -> Rows:
        """Read and tokenise ``train`` and ``development`` of a ``splits`` folder; ``fold`` takes its rows out of train.

        Raises
        ------
        UserError
            A split is missing, or cannot be cut into such folds.
        """
        found = {name: load_split(folder, name) for name in ("train", "development")}
        if fold is not None:
            found["train"], found["held_out"] = fold.split(found["train"])
        return cls(**{name: encode(split, tokenizer, schema.max_length) for name, split in found.items()})

    def with_saliencies(self, scores: Scores, asked: Origin) -> Rows:
        """Return the same rows; those of ``train`` have a column ``saliency``, a float for each token.

        Parameters
        ----------
        scores
            Saliencies of the training rows.
        asked
            What they must have been made of.

        Raises
        ------
        UserError
            They are scores of another kind or origin, or examples are missing; see `Scores.of`.
        """
        if scores.kind != "saliency":
            raise UserError(
                f"the token scores are of kind {scores.kind!r}, but methods that remove tokens learn from 'saliency'; give "
                "the file that extract_saliencies wrote of that kind"
            )
        found = scores.of(self.train, asked)
        train = [feature | {"saliency": row.tolist()} for feature, row in zip(self.train, found, strict=True)]
        return replace(self, train=train)

    def check(self, task: str) -> None:
        """Refuse a split without rows.

        Raises
        ------
        UserError
            Names the split.
        """
        for name, features in (("training", self.train), ("development", self.development)):
            if not features:
                raise UserError(f"task {task}: the {name} split is empty; give the task more rows")

    def lengths(self, max_length: int) -> dict[str, Any]:
        """Return rows, quantiles of the token lengths, and rows as long as allowed, most of them cut; by split."""
        return {
            name: {
                "rows": len(features),
                "length_quantiles": length_quantiles([feature["length"] for feature in features]),
                "rows_at_max_length": sum(feature["length"] >= max_length for feature in features),
            }
            for name in ("train", "development", "held_out")
            if (features := getattr(self, name))
        }


def length_quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """Return the length below which each share of `QUANTILES` of the rows lies, as an observed length."""
    ordered = sorted(lengths)
    return {f"{share:g}": ordered[round(share * (len(ordered) - 1))] for share in QUANTILES}
