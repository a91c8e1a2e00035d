"""From a rationale column to positions of words, with every reason why that cannot be done."""

from __future__ import annotations

from typing import Any

from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import Rationale


def read_rationale(
    value: Any, text: str, rationale: Rationale, where: str
) -> tuple[str, tuple[int, ...] | None]:
    """Read one row's rationale.

    Parameters
    ----------
    value
        What the column holds: a list, or None where the rationale is not known.
    text
        Text whose words it counts.
    rationale
        Its column and form.
    where
        What a message calls the row.

    Returns
    -------
    str
        The text; with ``form: spans`` its white space is single spaces, so that positions count words split on spaces.
    tuple of int, or None
        Ascending positions of the words that carry the label; empty: no word does; None: not known.

    Raises
    ------
    UserError
        The column holds something else, or words that the text does not have.
    """
    if rationale.form == "spans":
        text = " ".join(text.split())
    if value is None:
        return text, None
    count = len(text.split(" "))
    where = f"{where}: the rationale in column {rationale.column!r}"
    if not isinstance(value, (list, tuple)):
        raise UserError(
            f"{where} is {value!r:.60}, no list; keep it as a list, in JSONL or Parquet (a CSV cell holds none)"
        )
    read = _from_mask if rationale.form == "mask" else _from_spans
    return text, read(value, count, where)


def _from_mask(mask: list[Any] | tuple[Any, ...], count: int, where: str) -> tuple[int, ...]:
    for bit in mask:
        if not _is_integer(bit) or bit not in (0, 1):
            raise UserError(
                f"{where} holds {bit!r:.60}; `form: mask` allows 0 and 1; mend the row, or use `form: spans` for pairs "
                "of positions"
            )
    if mask and len(mask) != count:
        raise UserError(
            f"{where} is a mask of {len(mask)}, but the text has {count} words, split on single spaces; give one 0 or "
            "1 per word ([]: no word carries the label, null: not known)"
        )
    return tuple(position for position, bit in enumerate(mask) if bit)


def _from_spans(spans: list[Any] | tuple[Any, ...], count: int, where: str) -> tuple[int, ...]:
    words: set[int] = set()
    for span in spans:
        if not isinstance(span, (list, tuple)) or len(span) != 2 or not all(map(_is_integer, span)):
            raise UserError(
                f"{where} holds {span!r:.60}; `form: spans` allows pairs [start, end) of word positions; mend the row, "
                "or use `form: mask` for one 0 or 1 per word"
            )
        start, end = span
        if not 0 <= start < end <= count:
            raise UserError(
                f"{where} has the span [{start}, {end}), but the text has {count} words, split on white space: "
                f"0 <= start < end <= {count} is allowed; mend the span or the text, or set the row's rationale to null"
            )
        words.update(range(start, end))
    return tuple(sorted(words))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
