"""Whether the full model has learned its task: told apart, on the evaluation split, from one answer for every text.

Where it has not, every method stays "within a point" of it, the fastest one is recommended, and none was compared.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from adaptive_inference.evaluation.quality import quality
from adaptive_inference.exits.card_text import metric_name
from adaptive_inference.params_inputs import REGRESSION_METRICS
from adaptive_inference.reporting.aggregate import mean
from adaptive_inference.reporting.collect import CellFiles, Results


@dataclass(frozen=True)
class Chance:
    """The best constant answer of a task, beside the full model."""

    metric: str
    answer: str  #: the class's name, most common over seeds; empty for regression
    constant: float  #: quality of the best constant answer, mean over seeds
    full: float  #: quality of the full model, mean over seeds
    reached: int  #: seeds whose 95 % interval of the full model reaches down to the constant answer
    seeds: int

    @property
    def sentence(self) -> str:
        """What a reader has to know, in one sentence."""
        answer = f"always answering `{self.answer}`" if self.answer else "one answer for all texts"
        seeds = f" in {self.reached} of {self.seeds} seeds" if self.seeds > 1 else ""
        return (
            f"**The full model cannot be told apart from {answer}**{seeds} ({metric_name(self.metric)} {self.full:.4f} "
            f"against {self.constant:.4f}, within its 95 % interval): it has not learned this task, so nothing here "
            "says which method is better."
        )


def chance_warning(results: Results, task: str, backbone: str) -> Chance | None:
    """Return the comparison with the best constant answer if the full model of any seed does not pass it.

    None where it does in every seed, and where the evaluation's answers or intervals are not recorded.
    """
    here = [
        files
        for files in results.cells
        if (files.cell.task, files.cell.backbone, files.cell.method) == (task, backbone, "full")
    ]
    found, answers, reached = [], Counter(), 0
    for files in here:
        row = (files.evaluation.details.get("rows") or [{}])[0]
        if not files.predictions or row.get("quality_low") is None or row.get("quality") is None:
            continue
        answer, constant = best_constant(files, row["metric"])
        answers[answer] += 1
        found.append((row["metric"], constant, row["quality"]))
        reached += row["quality_low"] <= constant
    if not reached:
        return None
    best = answers.most_common(1)[0][0]
    return Chance(
        found[0][0],
        "" if best is None else _class_name(results, task, best),
        mean(constant for _, constant, _ in found) or 0.0,
        mean(full for *_, full in found) or 0.0,
        reached,
        len(found),
    )


def best_constant(files: CellFiles, metric: str) -> tuple[int | None, float]:
    """Return the class that scores best when every row of the evaluation split gets it, and its quality.

    A correlation with a constant is 0, whatever the constant: no class then.
    """
    if metric in REGRESSION_METRICS:
        return None, 0.0
    labels = np.asarray(files.predictions["labels"])
    classes = int(files.predictions["num_classes"])
    constants = np.broadcast_to(np.arange(classes)[:, None], (classes, len(labels)))
    scores = quality(metric, constants, labels, classes)
    best = int(np.argmax(scores))
    return best, float(scores[best])


def _class_name(results: Results, task: str, index: int) -> str:
    """Return a class's name as `prepare_data` recorded it."""
    schemas = (record.details.get("schema") or {} for record in results.data if record.cell.task == task)
    names = next((schema["labels"] for schema in schemas if schema.get("labels")), [])
    return names[index] if index < len(names) else f"class {index}"
