"""Names that files give: an exit rule or an objective is found by the name of its file, and nothing lists them."""

from __future__ import annotations

from pathlib import Path


def module_names(folder: str) -> list[str]:
    """Return the names that files of a package folder give (``base`` and private files aside)."""
    here = Path(__file__).parent / folder
    return sorted(f.stem for f in here.glob("*.py") if not f.stem.startswith("_") and f.stem != "base")
