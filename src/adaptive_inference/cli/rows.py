"""Texts to answer, from a table, lines of text or JSON lines, each with the line that it stands at. Loads no torch."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from adaptive_inference.data.local import Table, read_table, reader_of
from adaptive_inference.errors import UserError, nearest

_SEPARATORS = ",;\t|"
#: What a column's name looks like in a header, and names that columns of texts and labels often have.
_NAME, _OFTEN = re.compile(r"[\w.-]{1,40}"), {"text", "label", "sentence"}


class Reads(Protocol):
    """What a task reads: a `Schema`, or a `TextSchema`."""

    @property
    def task(self) -> str:
        """Its name."""

    @property
    def text(self) -> tuple[str, ...]:
        """Names of its text columns."""


@dataclass(frozen=True)
class Row:
    """The text or texts of one answer.

    Attributes
    ----------
    line
        Of the input, from 1, at which it begins; of a Parquet file the number of the row.
    texts
        One, or the two of a pair.
    """

    line: int
    texts: tuple[str, ...]


@dataclass
class Rows:
    """What is to be answered, read as it is asked for.

    Attributes
    ----------
    found
        The rows.
    origin
        What a message calls them.
    total
        How many there are; None: not known before all are read.
    blank
        Rows of a table that were left out, for they hold no text.
    """

    found: Iterator[Row] = field(repr=False)
    origin: str
    total: int | None = None
    blank: int = 0


@contextlib.contextmanager
def open_rows(file: Path | None, columns: Sequence[str] | None, schema: Reads) -> Iterator[Rows]:
    """Read a file by its ending, or standard input: one text, or one JSON object, per line.

    Blank lines, and rows of a CSV or TSV whose texts are all blank, are left out: there is nothing to answer.

    Parameters
    ----------
    file
        A table where its ending says so; None: standard input.
    columns
        Of the texts; None: those that the model was trained on.
    schema
        Of the model.

    Raises
    ------
    UserError
        The input cannot be read, a column is not there, or nothing is there to answer.
    """
    if columns is not None and len(columns) != len(schema.text):
        raise UserError(
            f"--column is given {len(columns)} times, but task {schema.task} reads {len(schema.text)} texts "
            f"({', '.join(schema.text)}); give it once for each"
        )
    if file is None:
        if sys.stdin.isatty():
            print("reading texts from the terminal, one per line; end with Ctrl-D", file=sys.stderr)
        yield Rows(_from_lines(sys.stdin.buffer, columns, schema), "standard input")
    elif reader_of(file) is None:
        with _open(file) as stream:
            yield Rows(_from_lines(stream, columns, schema), str(file))
    else:
        table = open_table(file)
        rows = table_rows(table, columns, schema)
        kept = [row for row in rows if has_text(row, table)]
        yield Rows(iter(kept), table.origin, len(kept), len(rows) - len(kept))


def open_table(file: Path) -> Table:
    """Read a table, or say why it cannot be read."""
    try:
        table = read_table(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    if any("\0" in name for name in table.columns):
        raise UserError(f"{file} is no text (it holds zero bytes); save it as UTF-8, e.g. as CSV")
    if not table.rows:
        header = f"only a header ({', '.join(table.columns)})" if table.columns else "nothing"
        raise UserError(f"{file} holds {header}, no rows")
    return table


def table_rows(table: Table, columns: Sequence[str] | None, schema: Reads) -> list[Row]:
    """Return the texts of all rows of a table, the blank ones too.

    Raises
    ------
    UserError
        A column is not there, or a text is no string.
    """
    names = text_columns(table, columns, schema)
    lines = table.lines or range(1, len(table.rows) + 1)
    what = "line" if table.lines else "row"
    return [
        Row(line, _texts(row, names, f"{table.origin}, {what} {line}", table.blank_is_null))
        for line, row in zip(lines, table.rows, strict=True)
    ]


def has_text(row: Row, table: Table) -> bool:
    """Whether there is something to answer; of a table that knows null, a blank text is meant."""
    return not table.blank_is_null or any(text.strip() for text in row.texts)


def text_columns(table: Table, columns: Sequence[str] | None, schema: Reads) -> Sequence[str]:
    """Return which columns of a table hold the texts, or say which there are."""
    names = _names(columns, schema, table.columns)
    for name in names:
        if name not in table.columns:
            raise UserError(no_column(table, name, "--column"))
    return names


def no_column(table: Table, name: str, option: str) -> str:
    """Return what to tell of a column that a table lacks."""
    known = list(table.columns)
    hint = nearest(name, known)
    if len(known) == 1 and any(mark in known[0] for mark in _SEPARATORS):
        hint = "; is another separator used? Save the file with commas"
    first = " (its first line)" if table.blank_is_null else ""
    return (
        f"{table.origin} has no column {name!r}; name the right one with {option}; its columns{first}: "
        f"{', '.join(known)}{hint}"
    )


def _names(columns: Sequence[str] | None, schema: Reads, there: Sequence[str]) -> Sequence[str]:
    """Return the keys of the texts: those asked for, else the model's own, else ``text`` for a task of one text."""
    if columns is not None:
        return columns
    own = schema.text
    return ("text",) if len(own) == 1 and own[0] not in there and "text" in there else own


def _texts(row: Mapping[str, Any], names: Sequence[str], where: str, blank_is_null: bool) -> tuple[str, ...]:
    texts = []
    for name in names:
        if name not in row:
            given = ", ".join(row) or "none"
            raise UserError(f"{where} has no key {name!r} (keys: {given}){nearest(name, list(row))}")
        text = "" if row[name] is None and blank_is_null else row[name]
        if not isinstance(text, str):
            shown = json.dumps(text, default=repr)
            raise UserError(f"{where}: {name!r} is {shown:.200}, not a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: {name!r} holds half a character ({error.reason})") from error
        texts.append(text)
    return tuple(texts)


# ---- lines -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    """Open as bytes: text is decoded line by line, so that a bad byte is told with its line."""
    try:
        stream = file.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    with stream:
        yield stream


def _from_lines(lines: IO[bytes], columns: Sequence[str] | None, schema: Reads) -> Iterator[Row]:
    """Yield a row per line; the first line decides whether lines are JSON objects."""
    as_json: bool | None = None
    numbered = enumerate(lines, 1)
    for number, raw in numbered:
        line = _decoded(raw, number)
        if not line.strip():
            continue
        found = line.lstrip().startswith("{") and _object(line) is not None
        if as_json is None:
            as_json = found
            if not as_json:
                _check_first(line, number, columns, schema)
                if _is_header(line, schema):
                    _check_alone(line, number, numbered)
        if not as_json and (found or line.lstrip().startswith('{"')):
            raise UserError(
                f"line {number} {'is' if found else 'looks like'} a JSON object, "
                + ("but the lines before it are plain text" if found else "but cannot be read as one")
                + "; give one JSON object per line, or plain text alone"
            )
        yield Row(number, _from_object(line, number, columns, schema) if as_json else (line,))


def _decoded(raw: bytes, number: int) -> str:
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"line {number} is not UTF-8 ({error.reason}); convert the input to UTF-8, save a spreadsheet as CSV"
        ) from error
    if "\0" in line:
        raise UserError(f"line {number} is no text (it holds a zero byte); convert the input to UTF-8")
    return line


def _check_first(line: str, number: int, columns: Sequence[str] | None, schema: Reads) -> None:
    """Refuse lines of plain text that are none."""
    if len(schema.text) > 1:
        raise UserError(
            f"line {number} is plain text, but task {schema.task} reads {len(schema.text)} texts; give one JSON "
            f"object per line with the keys {', '.join(schema.text)}, or a file that ends in .csv or .tsv"
        )
    if columns is not None:
        raise UserError(
            f"--column {columns[0]} names a column of a table, but line {number} is plain text; give a file that ends in "
            ".csv, .tsv, .jsonl or .parquet, or JSON lines"
        )
    if line.strip() == "[" or line.lstrip().startswith("[{"):
        raise UserError(
            f"line {number} begins a JSON array; give one JSON object per line (a .jsonl file), or a table"
        )


def _is_header(line: str, schema: Reads) -> bool:
    """Whether each cell looks like a column's name, and one is a name that is known."""
    cells = [cell.strip('"') for cell in line.strip().split(max(_SEPARATORS, key=line.count))]
    known = _OFTEN.union(name.casefold() for name in schema.text)
    looks = all(_NAME.fullmatch(cell) or cell.casefold() in known for cell in cells)
    return looks and any(cell.casefold() in known for cell in cells)


def _check_alone(line: str, number: int, after: Iterator[tuple[int, bytes]]) -> None:
    """Refuse a table's header, whose rows would be answered as texts; alone, it may be a text."""
    told = f"line {number} ({line:.80}) looks like a table's header"
    if any(raw.strip() for _, raw in after):
        raise UserError(
            f"{told}; give the file's name, which must end in .csv or .tsv, or take that line away"
        )
    print(f"warning: {told}; it is answered as a text, for nothing follows it", file=sys.stderr)


def _object(line: str) -> dict[str, Any] | None:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _from_object(line: str, number: int, columns: Sequence[str] | None, schema: Reads) -> tuple[str, ...]:
    body = _object(line)
    if body is None:
        raise UserError(f"line {number} is no JSON object, but the lines before it are; one object per line")
    return _texts(body, _names(columns, schema, list(body)), f"line {number}", blank_is_null=False)
