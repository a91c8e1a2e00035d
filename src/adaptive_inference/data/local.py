"""Tables from files: JSONL, CSV, TSV (plain or gzipped) and Parquet.

The standard library reads all but Parquet: it takes "NA" and "null" for the words that they are, where data-frame
readers make missing values of them.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from adaptive_inference.errors import UserError, nearest

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows as a source gives them, values untouched."""

    origin: str  #: what a message calls it: a path below the data folder, or a hub id and split
    columns: tuple[str, ...]
    rows: list[Row]
    label_names: tuple[str, ...] | None = None  #: names of integer classes, where the source knows them
    blank_is_null: bool = False  #: a delimited file cannot tell null from the empty text; both are None here
    lines: tuple[int, ...] | None = (
        None  #: of the file, from 1, at which each row begins; None: it has no lines
    )

    def require(self, columns: list[str]) -> None:
        """Refuse a table that lacks a column."""
        for column in columns:
            if column not in self.columns:
                hint = ""
                if len(self.columns) == 1 and any(mark in self.columns[0] for mark in ";\t|"):
                    hint = "; its header is one single column: is another separator used? Save it with commas"
                raise UserError(
                    f"{self.origin} has no column {column!r}; name the right ones in `text`, `label` and `rationale`; "
                    f"its columns: {', '.join(self.columns)}{hint or nearest(column, list(self.columns))}"
                )


def data_file(folder: Path, name: str) -> Path:
    """Return the path of a data file, or say why it cannot be one.

    The data folder is what DVC watches, so a file elsewhere could change unseen; and DVC does not look inside linked
    folders, so only files may be links.

    Raises
    ------
    UserError
        The path leaves the folder, passes through a linked folder, or there is no such file.
    """
    relative = Path(name)
    place = f"{folder.name}/"
    if relative.is_absolute() or ".." in relative.parts:
        raise UserError(
            f"{name!r} lies outside {place}; put the file into {place} or link it there (`ln -s FILE {place}`) and "
            f"name it relative to {place}: changes elsewhere would go unseen"
        )
    path = folder
    for part in relative.parts[:-1]:
        path = path / part
        if path.is_symlink():
            raise UserError(
                f"{path} is a linked folder, inside which DVC does not look; make a real folder and put or link the "
                f"files into it: `rm {path} && mkdir {path} && ln -s SOURCE/* {path}/`"
            )
    path = folder / relative
    if path.is_file():
        return path
    if path.is_symlink():
        raise UserError(f"{path} is a link to {path.readlink()}, where no file is; mend the link")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one file in it")
    found = sorted(
        f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file() and reader_of(f)
    )
    raise UserError(
        f"no file {path}; put or link it into {place}; files there: {', '.join(found[:20]) or 'none'}"
        f"{nearest(name, found)}"
    )


def read_table(path: Path, origin: str | None = None) -> Table:
    """Read a file by its ending.

    Raises
    ------
    UserError
        The ending is unknown, or the file cannot be read as what it says it is (with the line).
    """
    origin = origin or str(path)
    reader = reader_of(path)
    if reader is None:
        raise UserError(
            f"{origin}: unknown ending; allowed: {', '.join(_READERS)} and .gz of the text formats"
        )
    try:
        return reader(path, origin)
    except UnicodeDecodeError as error:
        raise UserError(f"{origin} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{origin} is no whole gzip file ({error}); copy it again") from error


def reader_of(path: Path) -> Callable[[Path, str], Table] | None:
    """Return the reader for a file's ending, or None."""
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    return None if ending == ".parquet" and path.suffix == ".gz" else _READERS.get(ending)


def _open(path: Path) -> TextIO:
    # newline="": the csv module and JSON strings see line ends as they are; utf-8-sig drops a spreadsheet's BOM
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")  # type: ignore[return-value]
    return path.open(encoding="utf-8-sig", newline="")


def _read_jsonl(path: Path, origin: str) -> Table:
    rows: list[Row] = []
    lines: list[int] = []
    columns: dict[str, None] = {}
    with _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{origin}, line {number}: no JSON ({error}); write one JSON object per line"
                ) from error
            if not isinstance(row, dict):
                raise UserError(f"{origin}, line {number}: no JSON object; write one object per line")
            columns.update(dict.fromkeys(row))
            rows.append(row)
            lines.append(number)
    return Table(origin, tuple(columns), rows, lines=tuple(lines))


def _read_csv(path: Path, origin: str) -> Table:
    """Comma separated, quotes as spreadsheets write them."""
    with _open(path) as stream:
        return _delimited(csv.reader(stream, strict=True), origin)


def _read_tsv(path: Path, origin: str) -> Table:
    """Tab separated as in GLUE: a quote is an ordinary character."""
    with _open(path) as stream:
        return _delimited(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE), origin)


def _delimited(reader: Any, origin: str) -> Table:
    csv.field_size_limit(2**31 - 1)
    rows: list[Row] = []
    lines: list[int] = []
    header: list[str] | None = None
    for line, cells in _cells(reader, origin):
        if header is None:
            header = [cell.strip() for cell in cells]
            if len(set(header)) != len(header):
                raise UserError(f"{origin}: the header {', '.join(header)} names a column twice; rename one")
        elif len(cells) != len(header):
            raise UserError(
                f"{origin}, line {reader.line_num}: {len(cells)} cells where the header has {len(header)}; "
                "put texts that hold the separator into double quotes (CSV), or use JSONL"
            )
        else:
            rows.append({key: cell if cell != "" else None for key, cell in zip(header, cells, strict=True)})
            lines.append(line)
    return Table(origin, tuple(header or ()), rows, blank_is_null=True, lines=tuple(lines))


def _cells(reader: Any, origin: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not blank, with the line at which it begins: quotes may hold line ends."""
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{origin}, line {reader.line_num}: cannot be read ({error}); check its quotes"
        ) from error


def _read_parquet(path: Path, origin: str) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise UserError(f"{origin} cannot be read as Parquet ({error}); write it again") from error
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise UserError(f"{origin} has the column {', '.join(map(repr, twice))} twice; rename one")
    return Table(origin, tuple(table.column_names), table.to_pylist())


_READERS: dict[str, Callable[[Path, str], Table]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
