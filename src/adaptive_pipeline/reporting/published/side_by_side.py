"""Published numbers beside ours: paper, ours, and how the two settings differ."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

import pandas as pd

from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.frame import PAIR, Results
from adaptive_pipeline.reporting.measures import CELL, KEY
from adaptive_pipeline.reporting.names import method_name, rule_name
from adaptive_pipeline.reporting.published.papers import MARKS, Published, load_published
from adaptive_pipeline.reporting.text.markdown import counted, notes_list, number, spread_text, table

#: Our side of a pair, from the main table.
OURS = ("seeds", "metric", "quality_mean", "quality_std", "layers_speedup")
#: Columns of ``published.csv``; qualities are fractions, as everywhere.
COLUMNS = [
    *CELL, "paper", "table", "paper_method", "paper_backbone", "paper_split", "paper_metric", "metric_certainty",
    "paper_quality", "certainty", "paper_speedup", "rule", "operating_point", *OURS, "weights", "evaluation", "train_rows",
    "setting", "paper_source", "paper_note",
]  # fmt: skip


def side_by_side(results: Results, published: Sequence[Published] | None = None) -> pd.DataFrame:
    """Return what papers say about the tasks and methods of a run, each with our nearest row.

    A task is matched by its key (``sst-2`` is ``sst2``; generated tasks match nothing), a method by its key. Of our
    operating points the one is taken whose layers speed-up is nearest to the published one, among those of the paper's
    rule if it was run. Backbones need not match: the setting says so.

    Parameters
    ----------
    published
        Default: all papers of `load_published`.

    Returns
    -------
    DataFrame
        `COLUMNS` and ``cell``, the `Published`, and ``goal``; ``setting`` tells how the settings differ, ``not comparable:
        ...`` where that forbids a comparison.
    """
    cells = load_published() if published is None else published
    usable = results.main[results.main.quality_mean.notna() & results.main.attainable]
    found = [
        _pair(results, own, cell)
        for (task, _, method), own in usable.groupby(CELL, sort=False)
        if results.params.task(task).source != "generated"
        for cell in cells
        if cell.unit == "percent" and cell.task == task_key(task) and cell.key == method
    ]
    return pd.DataFrame(found, columns=[*COLUMNS, "cell", "goal"])


def _pair(results: Results, rows: pd.DataFrame, cell: Published) -> dict[str, Any]:
    row = _nearest(rows, cell)
    trained_on = [
        record.splits["train"]["rows"]
        for record in results.data
        if (record.cell.task, record.cell.backbone) == (row.task, row.backbone)
    ]
    theirs = {name: getattr(cell, name) for name in ("paper", "table", "metric_certainty", "certainty")}
    theirs |= {
        f"paper_{name}": getattr(cell, name) for name in ("method", "backbone", "split", "metric", "speedup")
    }
    return (
        {name: getattr(row, name) for name in (*KEY, "goal", *OURS)}
        | theirs
        | {
            "cell": cell,
            "paper_quality": cell.value,
            "weights": _weights(results.params, row.backbone),
            "evaluation": results.params.task(row.task).evaluation or "carved from train",
            "train_rows": min(trained_on, default=None),
            "setting": _setting(results.params, cell, row),
            "paper_source": f"{cell.citation}; {cell.source}",
            "paper_note": " ".join(filter(None, (cell.note, cell.table_note))),
        }
    )


def task_key(name: str) -> str:
    """Return the key under which papers' tasks are kept: ``SST-2`` and ``sst_2`` are ``sst2``."""
    return re.sub(r"[-_]", "", name).lower()


def _nearest(rows: pd.DataFrame, cell: Published) -> Any:
    own = [row for row in rows.itertuples() if _rule(row) == cell.rule] or list(rows.itertuples())
    return min(own, key=lambda row: abs(math.log(row.layers_speedup / (cell.speedup or 1.0))))


def _rule(row: Any) -> str:
    return row.rule.partition("(")[0]  # a rule's options stand in brackets


def _weights(params: Params, backbone: str) -> str:
    return PurePath(params.backbone(backbone).weights).name  # never the folder that it was loaded from


def _setting(params: Params, cell: Published, row: Any) -> str:
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


HEADERS = (
    "Method", "Published in", "Backbone, split", "Paper", "Paper ×", "Ours", "Layers ×", "Ours at", "Setting"
)  # fmt: skip


def published_markdown(pairs: pd.DataFrame) -> str:
    """Return ``published.md``: one table per task and backbone, then what the papers leave open."""
    lines = ["# Published numbers beside ours", ""]
    for (task, backbone), here in pairs.groupby(PAIR, sort=False):
        one = here.iloc[0]
        trained = "" if pd.isna(one.train_rows) else f", {one.train_rows} training rows"
        lines += [f"## {task}, {backbone}", ""]
        lines += [f"Ours: {one.weights}, {metric_name(one.metric)} on {one.evaluation}{trained}.", ""]
        lines += [*table("lllrrrrll", HEADERS, map(_cells, here.itertuples())), ""]
    return "\n".join([*lines, *notes_list(_notes(list(pairs.cell)))])


def _cells(row: Any) -> list[str]:
    cell = row.cell
    return [
        method_name(row.method),
        f"{cell.paper}, {_place(cell)}: {cell.method}",
        f"{cell.backbone}, {cell.split}",
        f"{cell.value:.3f}{'*' if cell.starred else ''}{MARKS[cell.certainty]}",
        number(cell.speedup, ".2f"),
        spread_text(row.quality_mean, row.quality_std),
        number(row.layers_speedup, ".2f"),
        f"{rule_name(row.rule)}, {row.goal.words}, {counted(row.seeds, 'seed')}",
        row.setting,
    ]


def _place(cell: Published) -> str:
    return f"table {cell.table}" if cell.table.isdigit() else cell.table


def _notes(published: Sequence[Published]) -> Iterator[str]:
    yield (
        "Both as fractions, the paper's to its printed digits. Beside each published number stands our operating point of "
        "that method whose layers speed-up is nearest (of the paper's rule, where that was run); it was chosen on the "
        "calibration split, not here."
    )
    yield (
        "(?): the cell's place in its table was inferred; (??): it is a guess; *: the paper calls it significant. A metric "
        "that no paper names is GLUE's own of the task, where the task has one only."
    )
    for paper in dict.fromkeys(cell.paper for cell in published):
        cells = [cell for cell in published if cell.paper == paper]
        yield f"{paper}: {cells[0].citation}. Read from: {cells[0].source}. {cells[0].paper_note}"
        tables = dict.fromkeys((f"{_place(c)}, {c.split}", c.table_note) for c in cells)
        rows = dict.fromkeys((f"{_place(c)}, {c.split}, {c.method}", c.note) for c in cells)
        yield from (f"{paper}, {where}: {note}" for where, note in (*tables, *rows) if note)
