"""Submissions to the GLUE server: one TSV per task, for test files whose labels are withheld. Loads no torch.

File names, header and answers are those that nyu-mll's jiant and Keras' GLUE script write; the server itself was never
asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from adaptive_inference.data.local import Table
from adaptive_inference.errors import UserError, nearest
from adaptive_inference.tasks.schema import Schema

#: Columns that may hold the number of a row.
INDEX_COLUMNS = ("index", "idx")


@dataclass(frozen=True)
class GlueTask:
    """One file of a submission.

    Attributes
    ----------
    file
        Its name, as the server wants it.
    rows
        Rows of the official test set.
    classes
        Names of the classes in GLUE's order; None: a score from 0 to 5.
    words
        Whether the server wants the names themselves; else their numbers.
    columns
        Names under which the texts go around: the Hugging Face copy's, then those of GLUE's own files.
    """

    file: str
    rows: int
    classes: tuple[str, ...] | None
    words: bool
    columns: tuple[tuple[str, ...], ...]


_SENTENCE = (("sentence",),)
_PAIR = (("sentence1", "sentence2"),)
_INFERENCE = (("premise", "hypothesis"), *_PAIR)
_TWO = ("entailment", "not_entailment")
_THREE = ("entailment", "neutral", "contradiction")

#: Key of a task -> its file.
TASKS = {
    "cola": GlueTask("CoLA.tsv", 1063, ("unacceptable", "acceptable"), False, _SENTENCE),
    "sst2": GlueTask("SST-2.tsv", 1821, ("negative", "positive"), False, _SENTENCE),
    "mrpc": GlueTask(
        "MRPC.tsv", 1725, ("not_equivalent", "equivalent"), False, (*_PAIR, ("#1 String", "#2 String"))
    ),
    "stsb": GlueTask("STS-B.tsv", 1379, None, False, _PAIR),
    "qqp": GlueTask("QQP.tsv", 390965, ("not_duplicate", "duplicate"), False, (("question1", "question2"),)),
    "mnli-m": GlueTask("MNLI-m.tsv", 9796, _THREE, True, _INFERENCE),
    "mnli-mm": GlueTask("MNLI-mm.tsv", 9847, _THREE, True, _INFERENCE),
    "qnli": GlueTask("QNLI.tsv", 5463, _TWO, True, (("question", "sentence"),)),
    "rte": GlueTask("RTE.tsv", 3000, _TWO, True, _PAIR),
    "wnli": GlueTask("WNLI.tsv", 146, ("not_entailment", "entailment"), False, _PAIR),
    "ax": GlueTask("AX.tsv", 1104, _THREE, True, _INFERENCE),
}


def glue_task(name: str | None, schema: Schema) -> GlueTask:
    """Return the task of a submission, by its name (``rte``, ``SST-2``) or, without one, by that of the model's task.

    Raises
    ------
    UserError
        No task of GLUE is called so, or the model answers something else than the task asks.
    """
    keys = {re.sub(r"[-_]", "", key): key for key in TASKS}
    given = schema.task if name is None else name
    key = keys.get(re.sub(r"[-_]", "", given).lower())
    if key is None:
        hint = nearest(given.lower(), list(TASKS))
        what = f"no GLUE task {given!r}" if name else f"the model's task {given!r} names no GLUE task"
        raise UserError(f"{what}; name one with --glue-task: {', '.join(TASKS)}{hint}")
    task = TASKS[key]
    answers(task, schema)
    return task


def answers(task: GlueTask, schema: Schema) -> dict[str, str]:
    """Return the server's answer for each of the model's labels; an empty mapping for a score.

    Labels are matched by name, whatever their order. Labels that are the integers 0 to C - 1 count as GLUE's class
    numbers.

    Raises
    ------
    UserError
        The model answers something else than the task asks, or with labels that are not known here.
    """
    asked = "a score" if task.classes is None else f"{len(task.classes)} classes ({', '.join(task.classes)})"
    given = (
        "a score" if schema.labels is None else f"{len(schema.labels)} classes ({', '.join(schema.labels)})"
    )
    if (task.classes is None) != (schema.labels is None):
        raise UserError(f"{task.file} needs {asked}, but this model (task {schema.task}) answers {given}")
    if task.classes is None or schema.labels is None:
        return {}
    known = {name: position for position, name in enumerate(task.classes)}
    known |= {str(position): position for position in range(len(task.classes))}
    found = {label: known.get(re.sub(r"[-\s]+", "_", label.strip().lower())) for label in schema.labels}
    if sorted(found.values(), key=str) != list(range(len(task.classes))):
        raise UserError(
            f"{task.file} needs {asked}, which cannot be told from this model's {given}; use a model of that task, "
            f"trained with `labels: [{', '.join(task.classes)}]`"
        )
    return {label: task.classes[k] if task.words else str(k) for label, k in found.items() if k is not None}


def read_texts(table: Table, task: GlueTask, schema: Schema) -> list[list[str]]:
    """Return the texts of each row, in the order of a test file; its labels are not looked at.

    Columns are the model's own; where the file has none of these names, those under which GLUE gives the same texts. GLUE's
    own TSVs hold a few empty texts (QQP), which want an answer like any other.

    Raises
    ------
    UserError
        The file is empty, a column is missing, a text is null, or the rows are not numbered 0, 1, 2, ...
    """
    if not table.rows:
        raise UserError(f"{table.origin} holds no rows; give GLUE's test file")
    columns: Sequence[str] = schema.text
    if columns in task.columns:
        columns = next((names for names in task.columns if set(names) <= set(table.columns)), columns)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(
            f"{table.origin} has no column {missing[0]!r}, which the model reads; rename the right one; its columns: "
            f"{', '.join(table.columns)}{nearest(missing[0], list(table.columns))}"
        )
    index = next((name for name in INDEX_COLUMNS if name in table.columns), None)
    texts = []
    for position, row in enumerate(table.rows):
        if index is not None and str(row.get(index)).strip() != str(position):
            raise UserError(
                f"{table.origin}, row {position}: column {index!r} holds {row.get(index)!r}, expected {position}; the "
                "server wants rows 0, 1, 2, ... in order: give the test file as it was published, or drop the column"
            )
        given = ["" if row.get(name) is None and table.blank_is_null else row.get(name) for name in columns]
        for name, text in zip(columns, given, strict=True):
            if not isinstance(text, str):
                raise UserError(
                    f"{table.origin}, row {position}: the text in column {name!r} is {text!r}, not a string; "
                    "fill it, the server wants an answer to every row"
                )
        texts.append(given)
    return texts


def submission(task: GlueTask, schema: Schema, labels: Sequence[str | float]) -> str:
    """Return the TSV: ``index`` from 0 and ``prediction`` (a name, a class number, or a score clipped to 0 to 5).

    Parameters
    ----------
    labels
        The model's answers in the order of the rows: its label names, or scores for a regression task.
    """
    names = answers(task, schema)
    given = (_score(label) if task.classes is None else names[str(label)] for label in labels)
    lines = (f"{position}\t{answer}" for position, answer in enumerate(given))
    return "\n".join(["index\tprediction", *lines, ""])


def _score(value: str | float) -> str:
    if not math.isfinite(float(value)):
        raise UserError(f"the model answers {value}, which is no score; train it again")
    return f"{min(5.0, max(0.0, float(value))):.3f}"
