"""Published numbers beside ours: paper, ours, and how the two settings differ."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.aggregate import Row
from adaptive_pipeline.reporting.collect import Results
from adaptive_pipeline.reporting.names import method_name, point_name, rule_name
from adaptive_pipeline.reporting.published import MARKS, Published, load_published
from adaptive_pipeline.reporting.tables import csv_text

COLUMNS = [
    "task",
    "backbone",
    "method",
    "paper",
    "table",
    "paper_method",
    "paper_backbone",
    "paper_split",
    "paper_metric",
    "metric_certainty",
    "paper_quality",
    "certainty",
    "paper_speedup",
    "rule",
    "operating_point",
    "seeds",
    "metric",
    "quality_mean",
    "quality_std",
    "layers_speedup",
    "weights",
    "evaluation",
    "train_rows",
    "setting",
    "paper_source",
    "paper_note",
]


@dataclass(frozen=True)
class Pair:
    """A published cell, the row of ours that stands beside it, and our setting."""

    published: Published
    row: Row
    weights: str
    evaluation: str
    train_rows: int | None  #: the fewest over the seeds; None where no record tells
    setting: str  #: how the settings differ, ``not comparable: ...`` where that forbids a comparison


def side_by_side(
    results: Results, rows: Sequence[Row], published: Sequence[Published] | None = None
) -> list[Pair]:
    """Return what papers say about the tasks and methods of a run, each with our nearest row.

    A task is matched by its key (``sst-2`` is ``sst2``; generated tasks match nothing), a method by its key. Of our
    operating points the one is taken whose layers speed-up is nearest to the published one, among those of the paper's
    rule if it was run. Backbones need not match: the setting says so.

    Parameters
    ----------
    published
        Default: all papers of `load_published`.
    """
    cells = load_published() if published is None else published
    return [pair for here in _groups(results, rows) for pair in _pairs(results, here, cells)]


def _groups(results: Results, rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield the measured rows of one task, backbone and method at a time, in table order."""
    for task, backbone in results.pairs():
        if results.params.task(task).source == "generated":
            continue
        here = [row for row in rows if (row.task, row.backbone) == (task, backbone)]
        usable = [row for row in here if row.quality_mean is not None and row.attainable]
        for method in dict.fromkeys(row.method for row in usable):
            yield [row for row in usable if row.method == method]


def _pairs(results: Results, rows: Sequence[Row], cells: Sequence[Published]) -> Iterator[Pair]:
    first, params = rows[0], results.params
    task = params.task(first.task)
    train_rows = min(
        (
            record.details["splits"]["train"]["rows"]
            for record in results.data
            if (record.cell.task, record.cell.backbone) == (first.task, first.backbone)
        ),
        default=None,
    )
    for cell in cells:
        if cell.unit == "percent" and cell.task == task_key(first.task) and cell.key == first.method:
            row = _nearest(rows, cell)
            yield Pair(
                published=cell,
                row=row,
                weights=_weights(params, first.backbone),
                evaluation=task.evaluation or "carved from train",
                train_rows=train_rows,
                setting=_setting(params, cell, row),
            )


def task_key(name: str) -> str:
    """Return the key under which papers' tasks are kept: ``SST-2`` and ``sst_2`` are ``sst2``."""
    return re.sub(r"[-_]", "", name).lower()


def _nearest(rows: Sequence[Row], cell: Published) -> Row:
    own = [row for row in rows if _rule(row) == cell.rule] or rows
    wanted = cell.speedup or 1.0
    return min(own, key=lambda row: abs(math.log((row.layers_speedup or math.inf) / wanted)))


def _rule(row: Row) -> str:
    return row.rule.partition("(")[0]  # a rule's options stand in brackets


def _weights(params: Params, backbone: str) -> str:
    return PurePath(params.backbone(backbone).weights).name  # never the folder that it was loaded from


def _setting(params: Params, cell: Published, row: Row) -> str:
    task, weights = params.task(row.task), _weights(params, row.backbone)
    other: list[str] = []  # what forbids a comparison
    care: list[str] = []  # what a reader should know
    if weights.lower() != cell.backbone.lower() and not weights.lower().startswith(
        f"{cell.backbone.lower()}-"
    ):
        other.append(f"backbone {row.backbone} ({weights}), not {cell.backbone}")
    if cell.split != _split(task.evaluation):
        other.append(f"{task.evaluation or 'rows carved from train'}, not GLUE {cell.split}")
    if task.train_rows is not None:
        other.append(f"{task.train_rows} training rows, not all")
    if cell.metric not in (None, row.metric):
        other.append(f"{row.metric}, not {cell.metric}")
    care.append("development and calibration rows are carved from train")
    if cell.metric is None:
        care.append("the paper's metric is not told")
    if cell.certainty != "certain":
        care.append(f"the paper's cell is {'inferred' if cell.certainty == 'likely' else 'a guess'}")
    if cell.rule not in (None, _rule(row)):
        care.append(f"rule {row.rule}, not {cell.rule}")
    told = "; ".join([*other, *care])
    return f"not comparable: {told}" if other else told


def _split(evaluation: str | None) -> str | None:
    """Return which split of GLUE a file or split name speaks of; None where rows were carved or nothing tells."""
    found = re.search(r"(?<![a-z])(dev|validation|test)", (evaluation or "").lower().rpartition("/")[2])
    return None if found is None else "test" if found[1] == "test" else "dev"


def published_csv(pairs: Sequence[Pair]) -> str:
    """Return ``published.csv``; qualities are fractions, as everywhere."""
    rows = (
        {
            "task": pair.row.task,
            "backbone": pair.row.backbone,
            "method": pair.row.method,
            "paper": pair.published.paper,
            "table": pair.published.table,
            "paper_method": pair.published.method,
            "paper_backbone": pair.published.backbone,
            "paper_split": pair.published.split,
            "paper_metric": pair.published.metric,
            "metric_certainty": pair.published.metric_certainty,
            "paper_quality": pair.published.value,
            "certainty": pair.published.certainty,
            "paper_speedup": pair.published.speedup,
            "rule": pair.row.rule,
            "operating_point": pair.row.operating_point,
            "seeds": pair.row.seeds,
            "metric": pair.row.metric,
            "quality_mean": pair.row.quality_mean,
            "quality_std": pair.row.quality_std,
            "layers_speedup": pair.row.layers_speedup,
            "weights": pair.weights,
            "evaluation": pair.evaluation,
            "train_rows": pair.train_rows,
            "setting": pair.setting,
            "paper_source": f"{pair.published.citation}; {pair.published.source}",
            "paper_note": " ".join(filter(None, (pair.published.note, pair.published.table_note))),
        }
        for pair in pairs
    )
    return csv_text(COLUMNS, rows)


HEADERS = (
    "Method",
    "Published in",
    "Backbone, split",
    "Paper",
    "Paper ×",
    "Ours",
    "Layers ×",
    "Ours at",
    "Setting",
)


def published_markdown(pairs: Sequence[Pair]) -> str:
    """Return ``published.md``: one table per task and backbone, then what the papers leave open."""
    lines = ["# Published numbers beside ours", ""]
    for task, backbone in dict.fromkeys((pair.row.task, pair.row.backbone) for pair in pairs):
        here = [pair for pair in pairs if (pair.row.task, pair.row.backbone) == (task, backbone)]
        one = here[0]
        trained = "" if one.train_rows is None else f", {one.train_rows} training rows"
        lines += [f"## {task}, {backbone}", ""]
        lines += [f"Ours: {one.weights}, {metric_name(one.row.metric)} on {one.evaluation}{trained}.", ""]
        lines += [_line(HEADERS), _line(["---", "---", "---", *["---:"] * 4, "---", "---"])]
        lines += [*(_line(_cells(pair)) for pair in here), ""]
    return "\n".join([*lines, "Notes", "", *(f"- {note}" for note in _notes(pairs)), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(pair: Pair) -> list[str]:
    cell, row = pair.published, pair.row
    spread = "" if row.quality_std is None else f" ± {row.quality_std:.4f}"
    seeds = f"{row.seeds} seed{'' if row.seeds == 1 else 's'}"
    return [
        method_name(row.method),
        f"{cell.paper}, {_place(cell)}: {cell.method}",
        f"{cell.backbone}, {cell.split}",
        f"{cell.value:.3f}{'*' if cell.starred else ''}{MARKS[cell.certainty]}",
        "" if cell.speedup is None else f"{cell.speedup:.2f}",
        f"{row.quality_mean:.4f}{spread}",
        "" if row.layers_speedup is None else f"{row.layers_speedup:.2f}",
        f"{rule_name(row.rule)}, {point_name(row.operating_point)}, {seeds}",
        pair.setting,
    ]


def _place(cell: Published) -> str:
    return f"table {cell.table}" if cell.table.isdigit() else cell.table


def _notes(pairs: Sequence[Pair]) -> Iterator[str]:
    yield (
        "Both as fractions, the paper's to its printed digits. Beside each published number stands our operating point of "
        "that method whose layers speed-up is nearest (of the paper's rule, where that was run); it was chosen on the "
        "calibration split, not here."
    )
    yield (
        "(?): the cell's place in its table was inferred; (??): it is a guess; *: the paper calls it significant. A metric "
        "that no paper names is GLUE's own of the task, where the task has one only."
    )
    for paper in dict.fromkeys(pair.published.paper for pair in pairs):
        cells = [pair.published for pair in pairs if pair.published.paper == paper]
        yield f"{paper}: {cells[0].citation}. Read from: {cells[0].source}. {cells[0].paper_note}"
        tables = dict.fromkeys((f"{_place(c)}, {c.split}", c.table_note) for c in cells)
        rows = dict.fromkeys((f"{_place(c)}, {c.split}, {c.method}", c.note) for c in cells)
        yield from (f"{paper}, {where}: {note}" for where, note in (*tables, *rows) if note)
