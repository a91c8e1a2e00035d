"""Which cells there are: the only place that crosses tasks, backbones, methods and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """One point of the grid. ``method`` is empty for stages that serve all methods."""

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
