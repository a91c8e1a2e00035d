"""The four splits of a task.

The evaluation split comes from its own file, or is carved from train with a fixed stream: it is the same for every
seed. Development, calibration and the training subset are drawn from the seed, the same for all methods. Rows of one
text stay together, so that no carved split shares a text with another; documents are cut into chunks afterwards, so
that all chunks of one are in one split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from adaptive_inference.data import generated
from adaptive_inference.data.carving import carve, enough, enough_to_train, subset
from adaptive_inference.data.cells import read_text
from adaptive_inference.data.chunks import chunk_splits
from adaptive_inference.data.hub import read_hub
from adaptive_inference.data.labels import class_names, read_classes, read_scores, refuse_one_class
from adaptive_inference.data.local import Table, data_file, read_table
from adaptive_inference.data.rationales import read_rationale
from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import Generated, Task
from adaptive_inference.tasks.schema import Example, Schema, Split


@dataclass(frozen=True)
class Source:
    """All rows of a task: what the splits are carved from, and the evaluation split where it is given."""

    schema: Schema
    train: Split
    evaluation: Split | None
    origin: str


def data_files(task: Task, folder: Path) -> dict[str, Path]:
    """Return the files that a task reads, by role; none unless its source is local."""
    names = {"train": task.train, "evaluation": task.evaluation}
    return {role: data_file(folder, name) for role, name in names.items() if name and task.source == "local"}


def make_splits(name: str, task: Task, folder: Path, seed: int) -> tuple[Schema, dict[str, Split]]:
    """Return the schema and the four splits of a task for one seed.

    Parameters
    ----------
    name
        Key of the task.
    task
        Its params.
    folder
        The data folder, for local files.
    seed
        Draws development, calibration and training rows.

    Raises
    ------
    UserError
        Whatever makes the data unusable; the message names file, row and column.
    """
    source = _generated(name, task, seed) if task.source == "generated" else _read(name, task, folder)
    rest, evaluation = list(source.train), source.evaluation
    if evaluation is None:
        wanted = len(rest) // 5 if task.evaluation_rows is None else task.evaluation_rows
        enough(source.origin, len(rest) - wanted)
        carved, rest = carve(rest, wanted, Random("evaluation"))
        evaluation = Split(carved)
    enough(source.origin, len(rest))
    random = Random(f"splits {seed}")
    rows = len(rest)
    development, rest = carve(rest, min(task.development_rows, rows // 10), random)
    calibration, rest = carve(rest, min(task.calibration_rows, rows // 5), random)
    train = subset(rest, task.train_rows, random, f"tasks.{name}.train_rows")
    splits = {
        "train": Split(train),
        "development": Split(development),
        "calibration": Split(calibration),
        "evaluation": evaluation,
    }
    if task.chunk is not None:
        splits = chunk_splits(splits, source.train, source.evaluation, task.chunk)
    for split, examples in splits.items():
        if not examples:
            raise UserError(
                f"tasks.{name}: the {split} split of {source.origin} is empty (its rows repeat the texts of too few "
                "distinct ones); give more rows"
            )
    # Scores that are all equal have no correlation: any epoch, and any exit, would do as well as another.
    # With one class alone, many metrics are 0 at every threshold, and every threshold would meet the goal.
    checked = splits if source.schema.labels is None else ("train", "calibration", "evaluation")
    for split in checked:
        refuse_one_class(splits[split].labels, source.schema.labels, f"tasks.{name}: the {split} split")
    return source.schema, splits


def most_calibration_rows(task: Task, folder: Path) -> int:
    """Return how many calibration rows `make_splits` may carve, cutting nothing; for hub tasks what is asked for.

    A carve may fall short of it where texts repeat.
    """
    rest = _rows_beside_evaluation(task, folder)
    return task.calibration_rows if rest is None else max(0, min(task.calibration_rows, rest // 5))


def most_training_rows(task: Task, folder: Path) -> int | None:
    """Return how many training rows `make_splits` leaves, cutting nothing; None for a hub task that does not limit them.

    Where a task is cut into chunks this counts documents.
    """
    if task.train_rows is not None:
        return task.train_rows
    rest = _rows_beside_evaluation(task, folder)
    if rest is None:
        return None
    return max(0, rest - min(task.development_rows, rest // 10) - min(task.calibration_rows, rest // 5))


def check_generated_rows(name: str, task: Task) -> None:
    """Refuse a generated task whose rows are too few for the splits that are asked of it; no row is generated.

    Raises
    ------
    UserError
        Names the rows that are left and those that are needed.
    """
    asked = task.generated or Generated()
    enough(f"the generated task {name!r} of {asked.rows} rows", asked.rows - asked.evaluation_rows)
    all_left = task.model_copy(update={"train_rows": None})
    enough_to_train(f"tasks.{name}.train_rows", task.train_rows, most_training_rows(all_left, Path()) or 0)


def _rows_beside_evaluation(task: Task, folder: Path) -> int | None:
    if task.source == "hub":
        return None
    if task.source == "generated":
        asked = task.generated or Generated()
        return asked.rows - asked.evaluation_rows
    rows = len(_table(task, folder, "train", task.train or "").rows)
    if task.evaluation is None:
        rows -= rows // 5 if task.evaluation_rows is None else task.evaluation_rows
    return rows


def _generated(name: str, task: Task, seed: int) -> Source:
    """Draw the evaluation sentences from a fixed stream, the others from the seed; no sentence is in both."""
    asked = task.generated or Generated()
    evaluation = generated.generate(asked.evaluation_rows, "evaluation", asked.label_noise)
    seen = {example.texts[0] for example in evaluation}
    rest = generated.generate(asked.rows - asked.evaluation_rows, f"train {seed}", asked.label_noise, seen)
    labels = tuple(task.labels or generated.LABELS)
    schema = _schema(name, task, labels, label_noise=asked.label_noise, tiers=generated.TIERS)
    return Source(schema, rest, evaluation, f"the generated task {name!r}")


def _read(name: str, task: Task, folder: Path) -> Source:
    train = _table(task, folder, "train", task.train or "")
    evaluation = _table(task, folder, "evaluation", task.evaluation) if task.evaluation else None
    labels: tuple[str, ...] | None = None
    if task.kind == "classification":
        labels = tuple(task.labels) if task.labels else class_names(train, task.label)
    schema = _schema(name, task, labels)
    rows = _examples(train, task, labels)
    refuse_one_class([example.label for example in rows], labels, train.origin)
    return Source(schema, rows, _examples(evaluation, task, labels) if evaluation else None, train.origin)


def _table(task: Task, folder: Path, role: str, where: str) -> Table:
    if task.source == "local":
        table = read_table(data_file(folder, where), origin=f"{folder.name}/{where}")
    else:
        named = task.label if task.kind == "classification" else None
        table = read_hub(task.hub_id or "", task.hub_config, task.revision or "", where, named)
    if not table.rows:
        raise UserError(f"{table.origin}, the {role} split, has no rows; give another file or split")
    table.require([*task.text, task.label, *([task.rationale.column] if task.rationale else [])])
    return table


def _examples(table: Table, task: Task, labels: tuple[str, ...] | None) -> Split:
    values = read_scores(table, task.label) if labels is None else read_classes(table, task.label, labels)
    return Split(_example(table, task, position, value) for position, value in enumerate(values))


def _example(table: Table, task: Task, position: int, label: int | float) -> Example:
    row = table.rows[position]
    texts = [read_text(row.get(column), table, position, column) for column in task.text]
    rationale = None
    if task.rationale is not None:
        where = f"{table.origin}, row {position}"
        texts[0], rationale = read_rationale(row.get(task.rationale.column), texts[0], task.rationale, where)
    return Example(id=position, texts=tuple(texts), label=label, rationale=rationale)


def _schema(name: str, task: Task, labels: tuple[str, ...] | None, **known: object) -> Schema:
    return Schema(name, task.kind, labels, task.metric, task.max_length, tuple(task.text), **known)  # type: ignore[arg-type]
