"""Published results as data: one YAML file per paper, tables as printed, read into one row per cell.

What the papers leave open stays open here: a cell whose place in its table had to be inferred or guessed is flagged, and so
is a metric that is not named. Values are kept as printed; `Published.value` converts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from adaptive_inference.errors import UserError
from adaptive_inference.settings.base import Section
from adaptive_pipeline.params.messages import explain
from adaptive_pipeline.params.yaml_file import read_yaml

Certainty = Literal["certain", "likely", "guess"]
MetricCertainty = Literal["stated", "convention", "inferred", "unspecified"]
Unit = Literal["percent", "minutes", "parameters"]
Split = Literal["dev", "test", "none"]

#: How a doubtful cell is marked in a table.
MARKS: dict[Certainty, str] = {"certain": "", "likely": " (?)", "guess": " (??)"}

_NUMBER = re.compile(r"\+?(\d+(?:\.\d+)?)([kM]?)")


@dataclass(frozen=True)
class Published:
    """One cell of a published table; None where the paper does not tell."""

    paper: str
    table: str
    source: str  #: the text through which it was read
    citation: str
    backbone: str
    split: Split
    method: str  #: the paper's name
    key: str | None  #: our key of the method
    rule: str | None  #: our key of the exit rule that the paper used
    task: str
    metric: str | None
    metric_certainty: MetricCertainty  #: ``convention``: presumed, GLUE's metric of the task
    printed: str
    unit: Unit
    speedup: float | None  #: of the row
    parameters: str | None  #: of the row, as printed
    starred: bool  #: marked as significant
    certainty: Certainty  #: whether the value belongs where it stands: ``likely`` is inferred
    note: str  #: what is odd about, or needed to read, the row; empty: nothing
    table_note: str
    paper_note: str

    @property
    def value(self) -> float:
        """A fraction for percent, a count for parameters, minutes for minutes."""
        number, suffix = _parse(self.printed)
        if self.unit == "percent":
            return round(number / 100, 6)  # printed digits only: 91.8 / 100 is not 0.918 in binary
        return number * {"": 1.0, "k": 1e3, "M": 1e6}[suffix]


def _parse(printed: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(printed)
    if match is None:
        raise ValueError(f"value {printed!r} is no number; write 57.4, +2.3, 12M or +18k")
    return float(match[1]), match[2]


class _Metric(Section):
    metric: str | None
    certainty: MetricCertainty


class _Row(Section):
    method: str
    key: str | None = None
    rule: str | None = None
    parameters: str | None = None
    speedup: float | None = None
    values: list[float | str]
    uncertain: dict[str, Literal["likely", "guess"]] = Field({})
    starred: list[str] = Field([])
    note: str = ""


class _Table(Section):
    table: str
    backbone: str
    split: Split
    unit: Unit
    columns: list[str]
    metrics: dict[str, _Metric] = Field({})
    note: str = ""
    rows: list[_Row]

    @model_validator(mode="after")
    def _rectangular(self) -> _Table:
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(
                    f"row {row.method!r} has {len(row.values)} values for {len(self.columns)} columns"
                )
            for name in (*row.uncertain, *row.starred):
                if name not in self.columns:
                    raise ValueError(f"row {row.method!r} flags {name!r}; columns: {', '.join(self.columns)}")
            for value in row.values:
                _parse(str(value))
        return self


class _Paper(Section):
    paper: str
    citation: str
    source: str
    note: str
    metrics: dict[str, _Metric]
    tables: list[_Table]

    @model_validator(mode="after")
    def _every_column_has_a_metric(self) -> _Paper:
        for table in self.tables:
            for name in table.columns:
                if name not in table.metrics and name not in self.metrics:
                    raise ValueError(
                        f"table {table.table!r}: no metric of column {name!r}; add it to `metrics`"
                    )
        return self


def load_published() -> list[Published]:
    """Return every cell of every paper, in the order of the files, tables, rows and columns."""
    return [cell for path in sorted(Path(__file__).parent.glob("*.yaml")) for cell in read_paper(path)]


def read_paper(path: Path) -> list[Published]:
    """Read the tables of one paper.

    Raises
    ------
    UserError
        A key is unknown, missing or repeated, a row does not fit its columns, or a value is not allowed.
    """
    try:
        paper = _Paper.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError("\n".join(explain(item, path.name, _Paper) for item in error.errors())) from error
    return list(_cells(paper))


def _cells(paper: _Paper) -> Iterator[Published]:
    of_paper = paper.model_dump(include={"paper", "source", "citation"}) | {"paper_note": paper.note}
    for table in paper.tables:
        of_table = table.model_dump(include={"table", "backbone", "split", "unit"}) | {
            "table_note": table.note
        }
        metrics = paper.metrics | table.metrics
        for row in table.rows:
            of_row = row.model_dump(exclude={"values", "uncertain", "starred"})
            for task, value in zip(table.columns, row.values, strict=True):
                yield Published(
                    **of_paper, **of_table, **of_row, task=task, printed=str(value), metric=metrics[task].metric,
                    metric_certainty=metrics[task].certainty, starred=task in row.starred,
                    certainty=row.uncertain.get(task, "certain"),
                )  # fmt: skip
