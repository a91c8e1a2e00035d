"""What the params check of `generation` beyond its own keys: names, and that it fits beside the classifiers; no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sized

from adaptive_inference.settings.generation import Generation
from adaptive_pipeline.grid import TextGrid, as_name


def whole_or_empty(axes: Mapping[str, Sized]) -> bool:
    """Return whether the axes of a grid are filled.

    Raises
    ------
    ValueError
        Some are, and others are not.
    """
    empty = [name for name, axis in axes.items() if not len(axis)]
    if empty and len(empty) < len(axes):
        raise ValueError(
            f"{', '.join(empty)} are empty while others are not: fill {', '.join(axes)}, or none"
        )
    return not empty


def check_generation(generation: Generation, grid: TextGrid, taken: Collection[str]) -> None:
    """Refuse names that cannot be folders, that classifiers have, or that would make two cells one.

    Parameters
    ----------
    taken
        Names of the classifiers' tasks and backbones, which lie in the same folder.

    Raises
    ------
    ValueError
        Names what to rename.
    """
    for axis in ("tasks", "models", "trainings", "methods"):
        for name in getattr(generation, axis):
            as_name(name)
            if axis in ("tasks", "models") and name in taken:
                raise ValueError(
                    f"generation.{axis}: {name!r} is the name of a task or backbone of the classifiers too, and both "
                    "write below runs/; rename one"
                )
    grid.check_names()
