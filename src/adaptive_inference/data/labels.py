"""From a label column to class indices or scores, with every reason why that cannot be done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from adaptive_inference.data.local import Table
from adaptive_inference.errors import UserError, nearest

#: More classes than this in a file that names none is taken for a column of something else.
MAX_UNNAMED_CLASSES = 200


def read_scores(table: Table, column: str) -> list[float]:
    """Return the scores of a regression task; refuse what is no finite number."""
    scores = []
    for position, value in enumerate(_values(table, column)):
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = math.nan
        if not math.isfinite(score):
            raise UserError(
                f"{table.origin}, row {position}: score {value!r} in column {column!r} is no finite number; "
                "mend the row, or use `kind: classification` for classes"
            )
        scores.append(score)
    return scores


def class_names(table: Table, column: str) -> tuple[str, ...]:
    """Return the class names of a train table that come with it: given by its source, or its sorted distinct values."""
    if table.label_names is not None:
        return table.label_names
    values = [_key(value, table, position, column) for position, value in enumerate(_values(table, column))]
    distinct = set(values)
    if all(_is_integer(value) for value in distinct) and len(distinct) <= MAX_UNNAMED_CLASSES:
        if "-1" in distinct:
            raise UserError(
                f"{table.origin}: label -1 in column {column!r} marks a withheld label (GLUE test files); use a file "
                'with gold labels, or name -1 in `labels` (e.g. ["-1", "0", "1"]) if it is a class of yours'
            )
        return tuple(sorted(distinct, key=int))
    if len(distinct) > MAX_UNNAMED_CLASSES or all(_is_number(value) for value in distinct):
        raise UserError(
            f"{table.origin}: column {column!r} has {len(distinct)} distinct values ({_some(distinct)}), which look "
            "like no classes; name another `label` column, list `labels`, or use `kind: regression` for scores"
        )
    return tuple(sorted(distinct))


def read_classes(table: Table, column: str, names: Sequence[str]) -> list[int]:
    """Return class indices: values are names when all of them are, else indices into ``names``.

    Raises
    ------
    UserError
        A label is null, a list, withheld (-1) or out of range.
    """
    values = [_key(value, table, position, column) for position, value in enumerate(_values(table, column))]
    index = {name: position for position, name in enumerate(names)}
    if all(value in index for value in values):
        return [index[value] for value in values]
    # a column of integers indexes the names; with integers for names it must hold names throughout
    by_index = all(_is_integer(value) for value in values) and not all(_is_integer(name) for name in names)
    for position, value in enumerate(values):
        if value == "-1" and value not in index:
            raise UserError(
                f"{table.origin}, row {position}: label -1 marks a withheld label (GLUE test files), which cannot be "
                "scored or learnt; use a file with gold labels, e.g. GLUE's validation file"
            )
        inside = 0 <= int(value) < len(names) if by_index else value in index
        if not inside:
            if table.label_names is not None:
                raise UserError(
                    f"{table.origin}, row {position}: the dataset itself names class {value!r}, which `labels` lack; list "
                    f"its own names there, in any order, or leave `labels` out: {', '.join(table.label_names)}"
                )
            allowed = f"0 to {len(names) - 1} or " if by_index else ""
            raise UserError(
                f"{table.origin}, row {position}: label {value!r} in column {column!r} is out of range; mend the row or "
                f"`labels`; allowed: {allowed}{', '.join(names)}{nearest(value, list(names))}"
            )
    return [int(value) for value in values]


def refuse_one_class(labels: Sequence[int | float], names: Sequence[str] | None, what: str) -> None:
    """Refuse a split in which nothing can be told apart."""
    distinct = set(labels)
    if len(distinct) == 1:
        only = next(iter(distinct))
        shown = names[int(only)] if names is not None else only
        raise UserError(
            f"{what} holds one {'class' if names is not None else 'score'} only ({shown}); at least two are needed: "
            "check the `label` column, or give more rows"
        )


def _values(table: Table, column: str) -> list[Any]:
    values = [row.get(column) for row in table.rows]
    for position, value in enumerate(values):
        if isinstance(value, (list, tuple, dict)):
            raise UserError(
                f"{table.origin}, row {position}: column {column!r} holds {value!r:.60}: multi-label and "
                "token-classification tasks are not supported; use a column with one class or one score per row"
            )
        if value is None:
            raise UserError(
                f"{table.origin}, row {position}: the label in column {column!r} is null; fill or drop the row"
            )
    return values


def _key(value: Any, table: Table, position: int, column: str) -> str:
    """Return the text form under which a label is compared: 1, 1.0 and "1" are one class."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not value.is_integer():
            raise UserError(
                f"{table.origin}, row {position}: label {value!r} in column {column!r} is no class; use "
                "`kind: regression` for scores"
            )
        return str(int(value))
    return str(value).strip()


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _some(values: set[str]) -> str:
    return ", ".join(sorted(values)[:5]) + (", ..." if len(values) > 5 else "")
