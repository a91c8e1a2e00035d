"""What was answered to every evaluated row: what methods are compared by in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_pipeline.reporting.frame import Results, point_key

#: (method, rule, operating point, seed) -> index among the sets of answers.
Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Answers:
    """All answers of one task and backbone: every seed and method answered the same rows."""

    sets: dict[Key, list[float]]
    labels: np.ndarray
    num_classes: int

    def shared_seeds(self, *rows: Any) -> list[int]:
        """Return the seeds on which all rows of the main table have figures and answers."""
        seeds = sorted(set.intersection(*(set(row.in_seeds) for row in rows)))
        return [seed for seed in seeds if all(answer_key(row, seed) in self.sets for row in rows)]


def answer_key(row: Any, seed: int) -> Key:
    """Return what the answers of a row of the main table are found under."""
    return row.method, row.rule, row.operating_point, seed


def collect_answers(results: Results) -> Answers | None:
    """Collect the answers of all cells of one task and backbone, None where no record holds any.

    Raises
    ------
    UserError
        The records of one task answered different rows.
    """
    sets: dict[Key, list[float]] = {}
    first: Mapping[str, Any] = {}
    for cell in results.cells:
        body = results.runs.companion("evaluate_batch1", cell, "predictions")
        if not body:
            continue
        first = first or body
        if any(body[name] != first[name] for name in ("ids", "labels", "num_classes")):
            raise UserError(
                f"{cell.name} answered other evaluation rows than the cells before it: rows can only be compared in "
                "pairs when they are the same; run prepare_data and all after it again for this task"
            )
        sets |= {(*point_key(point), cell.seed): point["predictions"] for point in body["points"]}
    return Answers(sets, np.array(first["labels"]), first["num_classes"]) if first else None
