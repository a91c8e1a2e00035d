"""The four splits of a text task: sources and targets, generated or made from the columns of a table.

Splits are drawn as the classifiers' are: the evaluation split from its own file, or carved with a fixed stream; the others
from the seed; rows of one source, or of one value of the column `together`, stay together.
"""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

from adaptive_inference.data import transduction
from adaptive_inference.data.carving import carve, enough, enough_to_train, subset
from adaptive_inference.data.cells import read_text
from adaptive_inference.data.hub import read_hub
from adaptive_inference.data.local import Table, data_file, read_table
from adaptive_inference.errors import UserError, nearest
from adaptive_inference.settings.generation import TextTask
from adaptive_inference.tasks.text_schema import TextExample, TextSchema

#: Rows of a generated task whose params name no number.
GENERATED_ROWS = 6000


def make_text_splits(
    name: str, task: TextTask, folder: Path, seed: int
) -> tuple[TextSchema, dict[str, list[TextExample]]]:
    """Return the schema and the four splits of a text task for one seed.

    Parameters
    ----------
    name
        Key of the task.
    task
        Its params.
    folder
        The data folder, for local files.
    seed
        Draws development, calibration and training rows; of a generated task, their words too.

    Raises
    ------
    UserError
        Whatever makes the data unusable; the message names file, row and column.
    """
    generated = task.source == "generated"
    origin, rest, evaluation = _generate(task, seed) if generated else _read(task, folder)
    if evaluation is None:
        wanted = _evaluation_rows(task, len(rest))
        enough(origin, len(rest) - wanted)
        evaluation, rest = carve(rest, wanted, Random("evaluation"))
    enough(origin, len(rest))
    random = Random(f"splits {seed}")
    rows = len(rest)
    development, rest = carve(rest, min(task.development_rows, rows // 10), random)
    calibration, rest = carve(rest, min(task.calibration_rows, rows // 5), random)
    train = subset(rest, task.train_rows, random, f"generation.tasks.{name}.train_rows")
    splits = {
        "train": train,
        "development": development,
        "calibration": calibration,
        "evaluation": evaluation,
    }
    for split, examples in splits.items():
        if not examples:
            raise UserError(
                f"generation.tasks.{name}: the {split} split of {origin} is empty (its rows repeat too few distinct "
                "sources); give more rows"
            )
    known = transduction.DIFFICULTIES if generated else None
    schema = TextSchema(name, task.metric, task.max_source, task.max_target, known, task.source_text)
    return schema, splits


def check_text_task(name: str, task: TextTask, folder: Path) -> None:
    """Refuse a task whose splits cannot be made, as far as is known without a network; a generated one writes no row.

    Raises
    ------
    UserError
        As `make_text_splits`.
    """
    if task.source == "local":
        make_text_splits(name, task, folder, 0)
    elif task.source == "generated":
        rows = task.rows or GENERATED_ROWS
        rest = rows - _evaluation_rows(task, rows)
        enough(f"the generated task {name!r} of {rows} rows", rest)
        left = rest - min(task.development_rows, rest // 10) - min(task.calibration_rows, rest // 5)
        enough_to_train(f"generation.tasks.{name}.train_rows", task.train_rows, left)


def text_files(task: TextTask, folder: Path) -> dict[str, Path]:
    """Return the files that a task reads, by role; none unless its source is local."""
    names = {"train": task.train, "evaluation": task.evaluation}
    return {role: data_file(folder, name) for role, name in names.items() if name and task.source == "local"}


def _evaluation_rows(task: TextTask, rows: int) -> int:
    return rows // 5 if task.evaluation_rows is None else task.evaluation_rows


def _generate(task: TextTask, seed: int) -> tuple[str, list[TextExample], list[TextExample]]:
    """Write the evaluation rows from a fixed stream, the others from the seed; no source is in both."""
    rows = task.rows or GENERATED_ROWS
    origin = f"the generated text task of {rows} rows"
    wanted = _evaluation_rows(task, rows)
    enough(origin, rows - wanted)
    evaluation = transduction.generate(wanted, "evaluation")
    seen = {example.source for example in evaluation}
    return origin, transduction.generate(rows - wanted, f"train {seed}", seen), evaluation


def _read(task: TextTask, folder: Path) -> tuple[str, list[TextExample], list[TextExample] | None]:
    train = _table(task, folder, "train", task.train or "")
    evaluation = _table(task, folder, "evaluation", task.evaluation) if task.evaluation else None
    rows = _examples(train, task)
    return train.origin, rows, None if evaluation is None else _examples(evaluation, task)


def _table(task: TextTask, folder: Path, role: str, where: str) -> Table:
    if task.source == "local":
        table = read_table(data_file(folder, where), origin=f"{folder.name}/{where}")
    else:
        table = read_hub(task.hub_id or "", task.hub_config, task.revision or "", where, None)
    if not table.rows:
        raise UserError(f"{table.origin}, the {role} split, has no rows; give another file or split")
    return table


def _examples(table: Table, task: TextTask) -> list[TextExample]:
    holders = _holders(table)
    examples = []
    for position in range(len(table.rows)):
        references: tuple[str, ...] = ()
        if task.references is not None:
            references = _references(table, position, task.references, holders)
        group = None
        if task.together is not None:
            group = read_text(
                _cell(table, position, task.together, holders), table, position, task.together
            ).strip()
        examples.append(
            TextExample(
                position,
                _fill(task.source_text or "", table, position, holders),
                _fill(task.target_text or "", table, position, holders, first=True),
                references,
                group=group,
            )
        )
    return examples


def _holders(table: Table) -> dict[str, str | None]:
    """Return for each name that a template may use the column that holds it inside, or None for a column of its own.

    Hub sets keep pairs and answers in columns of objects: ``{"translation": {"de": ..., "en": ...}}`` has the names
    ``translation``, ``de`` and ``en``. A name that two such columns have is left out.
    """
    inner: dict[str, set[str]] = {}
    for row in table.rows:
        for column, value in row.items():
            if isinstance(value, dict):
                for key in value:
                    inner.setdefault(key, set()).add(column)
    alone = {key: next(iter(columns)) for key, columns in inner.items() if len(columns) == 1}
    return {**alone, **dict.fromkeys(table.columns)}


def _cell(table: Table, position: int, name: str, holders: dict[str, str | None]) -> object:
    if name not in holders:
        raise UserError(
            f"{table.origin} has no column {name!r}; name the right ones in `source_text`, `target_text`, `references` and "
            f"`together`; its columns: {', '.join(holders)}{nearest(name, list(holders))}"
        )
    row = table.rows[position]
    holder = holders[name]
    if holder is None:
        return row.get(name)
    held = row.get(holder)
    return held.get(name) if isinstance(held, dict) else None


def _fill(
    template: str, table: Table, position: int, holders: dict[str, str | None], first: bool = False
) -> str:
    """Put a row's cells into the braces; with ``first`` a list of answers stands for its first."""

    def text(found: re.Match[str]) -> str:
        name = found.group(1)
        cell = _cell(table, position, name, holders)
        if first and isinstance(cell, (list, tuple)):
            if not cell:
                raise UserError(
                    f"{table.origin}, row {position}: {name!r} lists no answer; give one or drop the row"
                )
            cell = cell[0]
        return read_text(cell, table, position, name)

    filled = re.sub(r"{(\w+)}", text, template).strip()
    if not filled:
        raise UserError(
            f"{table.origin}, row {position}: {template!r} gives an empty text; fill or drop the row"
        )
    return filled


def _references(table: Table, position: int, name: str, holders: dict[str, str | None]) -> tuple[str, ...]:
    cell = _cell(table, position, name, holders)
    answers = list(cell) if isinstance(cell, (list, tuple)) else [cell]
    texts = [read_text(answer, table, position, name).strip() for answer in answers]
    if not texts:
        raise UserError(
            f"{table.origin}, row {position}: {name!r} lists no reference; give one or drop the row"
        )
    return tuple(dict.fromkeys(texts))
