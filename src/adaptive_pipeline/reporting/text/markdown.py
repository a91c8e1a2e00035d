"""Pieces of Markdown: numbers and tables."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd


def number(value: float | None, form: str) -> str:
    """Return a formatted number, empty where nothing was measured."""
    return "" if pd.isna(value) else format(value, form).replace("-", "−")


def spread_text(mean: float, std: float, form: str = ".4f") -> str:
    """Return ``mean ± std``, without the spread where there is none."""
    return number(mean, form) + (f" ± {std:{form}}" if pd.notna(std) else "")


def interval_text(low: float, high: float, form: str = " ({})") -> str:
    """Return an interval of a ratio in a form that holds it, empty where there is none."""
    return "" if pd.isna(low) or pd.isna(high) else form.format(f"{low:.2f} to {high:.2f}")


def points_text(difference: float) -> str:
    """Return a difference from the full model (a fraction, negative: worse) as a loss in points; empty where unknown."""
    return number(0.0 if round(100 * difference, 2) == 0 else -100 * difference, ".2f")


def bold(cells: Iterable[str], yes: bool) -> list[str]:
    """Return a row's cells, in bold or as they are."""
    return [f"**{text}**" if yes and text else text for text in cells]


def folded(summary: str, lines: Iterable[str]) -> list[str]:
    """Return lines that a reader unfolds by a click on the summary, in plain words; GitHub and browsers know it."""
    return ["<details>", f"<summary>{summary}</summary>", "", *lines, "</details>", ""]


def counted(count: int, name: str) -> str:
    """Return e.g. ``1 seed``, ``2 seeds``."""
    return f"{count} {name}{'' if count == 1 else 's'}"


def table(sides: str, headers: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table.

    Parameters
    ----------
    sides
        A letter per column: ``l`` for words, ``r`` for numbers.
    headers, rows
        Cells of equal number.
    """
    rule = ["---:" if side == "r" else "---" for side in sides]
    return [f"| {' | '.join(cells)} |" for cells in (headers, rule, *rows)]


def notes_list(notes: Iterable[str]) -> list[str]:
    """Return the lines of the notes below a page's tables, none where there is nothing to note."""
    lines = [f"- {note}" for note in notes]
    return ["Notes", "", *lines, ""] if lines else []
