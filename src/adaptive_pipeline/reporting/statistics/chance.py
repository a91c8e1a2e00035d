"""Whether the full model is shown to have learned its task: better, on the evaluation split, than one answer for all texts.

Where it is not, "within a point of the full model" asks nothing of a method, and the fastest one is recommended.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adaptive_inference.tasks.quality import quality
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.statistics.answers import collect_answers
from adaptive_pipeline.reporting.statistics.paired import paired_bootstrap, resample_quality

RESAMPLES = 2000  # of an interval; no p-value is read off


@dataclass(frozen=True)
class Chance:
    """The full model minus the best constant answer of a task."""

    metric: str
    answer: str  #: the class's name; empty where constant answers do not differ in quality
    constant: float  #: quality of the best constant answer
    full: float  #: quality of the full model, mean over seeds
    low: float  #: of the 95 % interval of the difference, rows and seeds drawn again
    high: float
    rows: int
    seeds: int


def against_chance(results: Results) -> Chance | None:
    """Return the full model beside the best constant answer, if the interval of the difference reaches down to 0.

    Of one task and backbone. None where the full model is surely better, and where the records keep no answers.
    """
    answers = collect_answers(results)
    full_sets = [found for key, found in answers.sets.items() if key[0] == "full"] if answers else []
    if answers is None or not full_sets:
        return None
    metric = results.points.metric.iloc[0]
    labels, classes, seeds = answers.labels, answers.num_classes, len(full_sets)
    best, constant = best_constant(metric, labels, classes)
    scored = resample_quality(metric, np.array([*full_sets, constant]), labels, classes, RESAMPLES)
    full = scored.of(range(seeds))
    difference = paired_bootstrap(full, scored.of([seeds] * seeds))
    if difference.low > 0:
        return None
    answer = "" if best is None else _class_name(results, best)
    means = float(scored.quality[-1]), float(full.quality.mean())
    return Chance(metric, answer, *means, difference.low, difference.high, len(labels), seeds)


def best_constant(metric: str, labels: np.ndarray, num_classes: int) -> tuple[int | None, np.ndarray]:
    """Return the class that scores best when every row gets it, and these answers ``(N,)``.

    None for the class where none is better than another: correlations and Matthews' are 0 for each.
    """
    answers = np.broadcast_to(np.arange(max(num_classes, 1))[:, None], (max(num_classes, 1), len(labels)))
    scores = np.asarray(quality(metric, answers, labels, num_classes))
    best = int(scores.argmax())
    return (best if np.ptp(scores) > 0 else None), answers[best]


def _class_name(results: Results, index: int) -> str:
    """Return a class's name as `prepare_data` recorded it."""
    names = results.data[0].task_schema.get("labels") or []
    return names[index] if index < len(names) else f"class {index}"
