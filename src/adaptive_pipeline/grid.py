"""Which cells there are: the only place that crosses tasks, models, methods and seeds.

A `Grid` is one such product. Classification has one (`Params.grid`). Generation has a `TextGrid` beside it, with trainings
that several methods share; the two are never crossed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from adaptive_inference.errors import UserError

#: Stages that train methods, in the order of the graph.
TRAINING_STAGES = (
    "train_sweet",
    "train_leebert",
    "train_multi_model",
    "train_adapler",
    "train_adapler_exits",
)


def as_name(name: str) -> str:
    """Return the name of a task, a backbone, a method ... as it is, or refuse it.

    It becomes a folder, a part of a stage's name and a word of its command: nothing but letters, digits, _ and -.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UserError(
            f"the name {name!r} becomes a folder: letters, digits, _ and - only; no dot, no path separator"
        )
    return name


Name = Annotated[str, AfterValidator(as_name)]


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    ``method`` is empty for stages that serve all methods; of scores of tokens, which do too, it is their kind. Of a text
    cell, ``backbone`` is the model, and ``method`` that of a training is the training's name.
    """

    task: str
    backbone: str
    seed: int
    method: str = ""

    @property
    def name(self) -> str:
        """Return e.g. ``sst2-minilm-sweet-0``, as DVC names the stage."""
        return "-".join(
            str(part) for part in (self.task, self.backbone, self.method, self.seed) if part != ""
        )

    def folder(self, root: Path) -> Path:
        """Return where the cell's stages write, below ``root`` (the ``runs`` folder)."""
        folder = root / self.task / self.backbone / f"seed{self.seed}"
        return folder / self.method if self.method else folder


@dataclass(frozen=True)
class Grid:
    """A product of axes, each in the order of the params."""

    tasks: tuple[str, ...]
    backbones: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]

    def cells(self) -> Iterator[Cell]:
        """Return all cells, the last axis (methods) fastest."""
        return (Cell(*point) for point in product(self.tasks, self.backbones, self.seeds, self.methods))

    def __contains__(self, cell: Cell) -> bool:
        """Return whether the grid asks for a cell, or for one that serves all methods."""
        asked = cell.task in self.tasks and cell.backbone in self.backbones and cell.seed in self.seeds
        return asked and cell.method in ("", *self.methods)

    def check_names(self) -> None:
        """Refuse two cells of one name: DVC would silently keep one of them.

        Raises
        ------
        UserError
            ``a-b`` with ``c`` and ``a`` with ``b-c`` are both ``a-b-c``.
        """
        refuse_twice(self.cells(), "a task, backbone or method")


@dataclass(frozen=True)
class TextGrid:
    """The grid of tasks that write text: methods are crossed like the trainings that they share."""

    tasks: tuple[str, ...]
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    trainings: tuple[str, ...]
    methods: tuple[str, ...]

    def cells(self) -> Iterator[Cell]:
        """Return a cell for every method, the last axis (methods) fastest."""
        return self._crossed(self.methods)

    def trained(self) -> Iterator[Cell]:
        """Return a cell for every training."""
        return self._crossed(self.trainings)

    def has(self, cell: Cell, *, training: bool = False) -> bool:
        """Return whether the grid asks for a method's cell (or a training's), or for one that serves all of them."""
        names = self.trainings if training else self.methods
        asked = cell.task in self.tasks and cell.backbone in self.models and cell.seed in self.seeds
        return asked and cell.method in ("", *names)

    def check_names(self) -> None:
        """Refuse two cells of one name, as `Grid.check_names` does.

        Raises
        ------
        UserError
            Names them.
        """
        refuse_twice(self.cells(), "a task, model or method of `generation`")
        refuse_twice(self.trained(), "a task, model or training of `generation`")

    def _crossed(self, methods: tuple[str, ...]) -> Iterator[Cell]:
        return (Cell(*point) for point in product(self.tasks, self.models, self.seeds, methods))


def refuse_twice(cells: Iterable[Cell], what: str) -> None:
    """Refuse two cells of one name, since DVC would silently keep one of them; ``what`` is to be renamed."""
    count = Counter(cell.name for cell in cells)
    twice = sorted(name for name, times in count.items() if times > 1)
    if twice:
        raise UserError(f"two cells would be named {', '.join(twice[:4])}; rename {what}")
