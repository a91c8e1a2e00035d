"""Texts from the cells of a table."""

from __future__ import annotations

from adaptive_inference.data.local import Table
from adaptive_inference.errors import UserError


def read_text(value: object, table: Table, position: int, column: str) -> str:
    """Return a cell as a text.

    Raises
    ------
    UserError
        It is null, no text or number, or holds half a character; the message names the row and the column.
    """
    where = f"{table.origin}, row {position}: the text in column {column!r}"
    if value is None:
        raise UserError(f"{where} is null; fill or drop the row")
    if isinstance(value, (list, tuple)):
        raise UserError(
            f"{where} is a list: token-classification tasks are not supported; join the words to one text"
        )
    if isinstance(value, float) and value != value:
        raise UserError(f"{where} is null (NaN); fill or drop the row")
    if not isinstance(value, (str, int, float)):
        raise UserError(f"{where} is a {type(value).__name__}, not a text; name another column")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds half a character ({error.reason}); mend or drop the row") from error
    return text
