"""What a text task is and how its splits lie on disk; loads no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from adaptive_inference.errors import UserError, blamed_on, nearest
from adaptive_inference.files import check_form, read_jsonl, read_object, write_json
from adaptive_inference.settings.base import Count
from adaptive_inference.tasks.schema import SCHEMA_FILE, SPLITS


@dataclass(frozen=True)
class TextSchema:
    """What a model of this task reads and writes, kept beside the splits and beside the model.

    Attributes
    ----------
    task
        Key of the task in the params.
    metric
        How what is written is scored, one of `text_quality.METRICS`.
    max_source, max_target
        Tokens read of a source and learned of a target at most, the end token included.
    difficulties
        What a target's words may be, from the easy to the hard, known for the generated task only.
    source_text
        What is read, with columns in braces (`settings.generation.TextTask`); None: one text as it is.
    """

    task: str
    metric: str
    max_source: Count
    max_target: Count
    difficulties: tuple[str, ...] | None = None
    source_text: str | None = None

    @property
    def text(self) -> tuple[str, ...]:
        """Names of the columns that a source is made of, each once, in their order."""
        names = dict.fromkeys(re.findall(r"{(\w+)}", self.source_text or ""))
        return tuple(names) or ("text",)

    def source(self, texts: Sequence[str]) -> str:
        """Return what is read of some texts, one for each name of `text`, as training read it."""
        if self.source_text is None:
            return texts[0].strip()
        cells = dict(zip(self.text, texts, strict=True))
        return re.sub(r"{(\w+)}", lambda found: cells[found[1]], self.source_text).strip()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> TextSchema:
        """Read the JSON form.

        Raises
        ------
        UserError
            A key is missing, unknown or of another kind.
        """
        known = [item.name for item in fields(cls)]
        for key in body:
            if key not in known:
                raise UserError(
                    f"a text schema has no {key!r}; its keys: {', '.join(known)}{nearest(key, known)}"
                )
        check_form(cls, body, "a text schema", f"its keys: {', '.join(known)}")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in body.items()})

    def save(self, folder: Path) -> None:
        """Write ``schema.json``."""
        write_json(Path(folder) / SCHEMA_FILE, self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> TextSchema:
        """Read what `save` wrote."""
        file = Path(folder) / SCHEMA_FILE
        with blamed_on(file, "prepare the task's texts again, or export the model again"):
            return cls.from_dict(read_object(file))


@dataclass(frozen=True)
class TextExample:
    """A text to read and the text to write.

    Attributes
    ----------
    id
        Position of the row in its source (0-based), so that a message can name the row.
    source, target
        What is read, and what is learned.
    references
        Further accepted texts where there are several, the target among them; empty: the target alone.
    difficulties
        Generated task only: of each word of the target, which kind it is.
    group
        What rows share that must be in one split, such as the passage that several questions are about; None: the source.
    """

    id: int
    source: str
    target: str
    references: tuple[str, ...] = ()
    difficulties: tuple[str, ...] | None = None
    group: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The group, or the text that is read: rows that share it are never in two splits."""
        return (self.source if self.group is None else self.group,)

    @property
    def accepted(self) -> tuple[str, ...]:
        """All texts that what is written may equal."""
        return self.references or (self.target,)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without what is not known."""
        return {key: value for key, value in asdict(self).items() if value not in (None, ())}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> TextExample:
        """Read the JSON form."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in body.items()})


def load_text_split(folder: Path, name: str) -> list[TextExample]:
    """Read one split, which `schema.save_split` wrote.

    Parameters
    ----------
    folder
        A ``splits`` folder.
    name
        One of `schema.SPLITS`.

    Raises
    ------
    UserError
        There is no such split, or its file is missing.
    """
    if name not in SPLITS:
        raise UserError(f"no split {name!r}; allowed: {', '.join(SPLITS)}{nearest(name, list(SPLITS))}")
    path = Path(folder) / f"{name}.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is missing; prepare the task's texts again")
    return [TextExample.from_dict(row) for row in read_jsonl(path)]
