"""What a task is and how its splits lie on disk.

What prepares a task writes these files; all that trains or measures, and a saved model, reads them. Loads no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from adaptive_inference.errors import UserError, blamed_on, nearest
from adaptive_inference.files import check_form, read_jsonl, read_object, write_json, write_text
from adaptive_inference.settings.base import Count

#: The four splits. Models are fitted on the first, selected on the second, thresholds are fitted on the third,
#: and only the last is reported.
SPLITS = ("train", "development", "calibration", "evaluation")

SCHEMA_FILE = "schema.json"


@dataclass(frozen=True)
class Schema:
    """What a model of this task answers, kept beside the splits and beside the model.

    Attributes
    ----------
    task
        Key of the task in the params.
    kind
        ``classification`` or ``regression``.
    labels
        Names of the classes, in the order of the logits; None for a regression task.
    metric
        How the task is scored; see `settings.inputs.Task.metric`.
    max_length
        Tokens kept of an example, special tokens included.
    text
        Names of the text columns, one or two.
    label_noise
        Share of flipped labels, known for the generated task only; 1 minus it is the ceiling of accuracy.
    tiers
        Names of the difficulty tiers 1, 2, ..., known for the generated task only.
    """

    task: str
    kind: Literal["classification", "regression"]
    labels: tuple[str, ...] | None
    metric: str
    max_length: Count
    text: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("text",)
    label_noise: float | None = None
    tiers: tuple[str, ...] | None = None

    @property
    def outputs(self) -> int:
        """Width of the logits: the number of classes, or 1 for a score."""
        return len(self.labels) if self.labels is not None else 1

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Schema:
        """Read the JSON form.

        Raises
        ------
        UserError
            A key is missing, unknown or of another kind.
        """
        known = [item.name for item in fields(cls)]
        for key in body:
            if key not in known:
                raise UserError(f"a schema has no {key!r}; its keys: {', '.join(known)}{nearest(key, known)}")
        check_form(cls, body, "a schema", f"its keys: {', '.join(known)}")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in body.items()})

    def save(self, folder: Path) -> None:
        """Write ``schema.json``."""
        write_json(Path(folder) / SCHEMA_FILE, self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> Schema:
        """Read what `save` wrote."""
        file = Path(folder) / SCHEMA_FILE
        with blamed_on(file, "prepare the task's data again, or export the model again"):
            return cls.from_dict(read_object(file))


@dataclass(frozen=True)
class Example:
    """One labelled row.

    Attributes
    ----------
    id
        Position of the row in its source (0-based), so that a message can name the row; of a chunk, its position among
        all chunks of its source.
    texts
        One text, or the two of a pair.
    label
        Index of the class, or the score.
    tier, clean_label
        Generated task only: difficulty 1 to 5, and the label before noise.
    rationale
        Ascending positions of the words of the first text, split on single spaces, that carry the label; empty: no word
        does; None: not known.
    """

    id: int
    texts: tuple[str, ...]
    label: int | float
    tier: int | None = None
    rationale: tuple[int, ...] | None = None
    clean_label: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without what is not known."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Example:
        """Read the JSON form."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in body.items()})


class Split(list[Example]):
    """The examples of one split, in file order."""

    @property
    def labels(self) -> list[int | float]:
        """Labels in order."""
        return [example.label for example in self]

    @property
    def tiers(self) -> list[int] | None:
        """Difficulty tiers in order, or None where the task has none."""
        tiers = [example.tier for example in self]
        return None if not tiers or None in tiers else tiers

    def texts(self, column: int = 0) -> list[str]:
        """Texts of one column in order."""
        return [example.texts[column] for example in self]


class Written(Protocol):
    """A row that has a JSON form."""

    def to_dict(self) -> dict[str, Any]:
        """Return it."""


def save_split(folder: Path, name: str, examples: Iterable[Written]) -> None:
    """Write ``NAME.jsonl``, one sorted object per line."""
    lines = (json.dumps(example.to_dict(), sort_keys=True, ensure_ascii=False) + "\n" for example in examples)
    write_text(Path(folder) / f"{name}.jsonl", "".join(lines))


def load_split(folder: Path, name: str) -> Split:
    """Read one split.

    Parameters
    ----------
    folder
        A ``splits`` folder, with the files of `save_split`.
    name
        One of `SPLITS`.

    Raises
    ------
    UserError
        There is no such split, or its file is missing.
    """
    if name not in SPLITS:
        raise UserError(f"no split {name!r}; allowed: {', '.join(SPLITS)}{nearest(name, list(SPLITS))}")
    path = Path(folder) / f"{name}.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is missing; prepare the task's data again")
    return Split(Example.from_dict(row) for row in read_jsonl(path))


def load_schema(folder: Path) -> Schema:
    """Read the schema of a ``splits`` folder."""
    return Schema.load(folder)
