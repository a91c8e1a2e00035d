"""What the training stages share: rows in, history and figures out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.errors import UserError
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.files import write_text
from adaptive_inference.tasks.encode import Feature, encode
from adaptive_inference.tasks.schema import Schema, load_split
from adaptive_inference.training.folds import Fold
from adaptive_inference.training.progress import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Shares at which token lengths are reported.
QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Rows:
    """Tokenised rows of the two splits that training may see; ``held_out`` are those of ``train`` in a fold."""

    train: list[Feature]
    development: list[Feature]
    max_length: int
    held_out: list[Feature] = field(default_factory=list)

    @classmethod
    def load(
        cls, folder: Path, schema: Schema, tokenizer: PreTrainedTokenizerBase, fold: Fold | None = None
    ) -> Rows:
        """Read and tokenise ``train`` and ``development`` of a ``splits`` folder; ``fold`` takes its rows out of train.

        Raises
        ------
        UserError
            A split is missing or empty, or cannot be cut into such folds.
        """
        found = {}
        for name in ("train", "development"):
            split = load_split(folder, name)
            if not split:
                raise UserError(f"the {name} split of {folder} is empty; give task {schema.task!r} more rows")
            found[name] = split
        if fold is not None:
            found["train"], found["held_out"] = fold.split(found["train"])
        encoded = {name: encode(split, tokenizer, schema.max_length) for name, split in found.items()}
        return cls(**encoded, max_length=schema.max_length)

    @property
    def details(self) -> dict[str, Any]:
        """Rows, quantiles of the token lengths, and rows as long as allowed, most of them cut."""
        return {
            name: {
                "rows": len(features),
                "length_quantiles": length_quantiles([feature["length"] for feature in features]),
                "rows_at_max_length": sum(feature["length"] >= self.max_length for feature in features),
            }
            for name in ("train", "development", "held_out")
            if (features := getattr(self, name))
        }


def length_quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """Return the length below which each share of `QUANTILES` of the rows lies, as an observed length."""
    ordered = sorted(lengths)
    return {f"{share:g}": ordered[round(share * (len(ordered) - 1))] for share in QUANTILES}


def parameter_counts(model: MultiExitModel) -> dict[str, int]:
    """Count weights: all, and those beyond the encoder and one head, which the full model has too."""
    heads = sum(item.numel() for item in model.head_parameters())
    one = {
        id(item): item for module in (model.heads[-1], model.pooler) if module for item in module.parameters()
    }
    total = sum(item.numel() for item in model.parameters())
    return {"parameters": total, "added_parameters": heads - sum(item.numel() for item in one.values())}


def write_history(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``history.jsonl``, one sorted object per line."""
    _write_lines(folder / "history.jsonl", rows)


def write_trajectory(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write ``weights.jsonl``, the learned weights of the losses over training; nothing where none are learned."""
    if rows:
        _write_lines(folder / "weights.jsonl", rows)


def _write_lines(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(file, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
