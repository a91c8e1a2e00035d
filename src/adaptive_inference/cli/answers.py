"""How answers are written: JSON lines, CSV or TSV. Loads no torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from adaptive_inference.tasks.schema import Schema

if TYPE_CHECKING:
    from adaptive_inference.serving.prediction import Prediction

Writer = Callable[[int, "Prediction"], None]


def writer(form: str, schema: Schema, out: TextIO) -> Writer:
    """Return what writes one answer with its line.

    Parameters
    ----------
    form
        ``jsonl``, ``csv`` or ``tsv``; a table has one row per answer, and no probabilities but the label's own.
    schema
        Of the model.
    out
        Where to write; a table's header is written with its first answer.
    """
    if form == "jsonl":
        return lambda line, answer: print(
            json.dumps(_fields(line, answer, schema), ensure_ascii=False), file=out
        )
    # a tab in a label is escaped, for TSV has no quotes
    dialect: dict[str, Any] = {"lineterminator": "\n"}
    if form == "tsv":
        dialect |= {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None, "escapechar": "\\"}
    table, begun = csv.writer(out, **dialect), False

    def write(line: int, answer: Prediction) -> None:
        nonlocal begun
        body = _fields(line, answer, schema)
        body.pop("probabilities", None)
        body["cut"] = "yes" if answer.cut else "no"
        if answer.survivors is not None:
            body["survivors"] = " ".join(map(str, answer.survivors))
        if not begun:
            table.writerow(body)
            begun = True
        table.writerow(body.values())

    return write


def _fields(line: int, answer: Prediction, schema: Schema) -> dict[str, Any]:
    told: dict[str, Any] = {"line": line}
    if answer.probabilities is None or schema.labels is None:
        told["score"] = round(answer.label, 6)
    else:
        row = [round(float(value), 6) for value in answer.probabilities]
        told |= {"label": answer.label, "probability": max(row)}
        told["probabilities"] = dict(zip(schema.labels, row, strict=True))
    told |= {"exit_layer": answer.exit_layer, "cut": answer.cut, "flops": answer.flops}
    return told if answer.survivors is None else told | {"survivors": answer.survivors}
