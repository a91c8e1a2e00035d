"""Pieces of Markdown tables."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Iterable


def table_line(cells: Iterable[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"


def number(value: float | None, form: str) -> str:
    """Return a formatted number, empty where nothing was measured."""
    return "" if value is None else format(value, form).replace("-", "−")


def spread_text(mean: float | None, std: float | None) -> str:
    """Return ``mean ± std``, without the spread where there is none."""
    return number(mean, ".4f") + (f" ± {std:.4f}" if std is not None else "")
