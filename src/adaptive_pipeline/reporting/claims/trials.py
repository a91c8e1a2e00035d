"""How a claim is tested on one task and backbone: exits alone, operating points of equal speed, gradients, kept tokens.

Each trial is asked with the results of one task and backbone. It answers with an `Effect`, or with the reason why there is
none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from adaptive_inference.evaluation.explained import ALL_LAYERS
from adaptive_inference.evaluation.statistics import LEVEL
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.reporting.breakdowns import exit_points
from adaptive_pipeline.reporting.claims.verdict import FAR, SLACK, Effect
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.measures import mean, std
from adaptive_pipeline.reporting.names import rule_name
from adaptive_pipeline.reporting.statistics.answers import Answers, answer_key, collect_answers
from adaptive_pipeline.reporting.statistics.paired import (
    Difference,
    Scored,
    paired_bootstrap,
    resample_quality,
)

RESAMPLES = 2000  # of an interval; no p-value is read off
#: What the exits of a cell answered: layer -> class of each row.
ExitAnswers = Mapping[int, Sequence[int]]


@dataclass(frozen=True)
class Exits:
    """Exits of two methods, each answering all rows alone: the mean over those that both have, or the first of them."""

    method: str
    other: str
    first: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        """What a run must hold."""
        return self.method, self.other

    def measure(self, results: Results) -> Effect | str:
        """Return the difference, paired by row and seed where each exit's answers were kept, else with a bound."""
        points = exit_points(results)
        sides = [points[points.method == method] for method in self.methods]
        seeds, layers = (sorted(set(sides[0][name]) & set(sides[1][name])) for name in ("seed", "exit_layer"))
        layers = layers[:1] if self.first else layers
        if not seeds or not layers:
            return "they share no exit on any seed"
        answers = collect_answers(results)
        kept = [_exit_answers(results, method, seeds) for method in self.methods]
        rows = _rows(results)
        if answers is not None and all(kept):
            scored = _score(
                results, answers, [item[layer] for side in kept for item in side for layer in layers]
            )
            difference = _over_layers(scored, len(seeds), len(layers))
        elif results.points.metric.iloc[0] == "accuracy":
            qualities = [
                side.pivot(index="seed", columns="exit_layer", values="quality").loc[seeds, layers]
                for side in sides
            ]
            difference = bounded(*(frame.to_numpy() for frame in qualities), rows)
        else:
            return "its exits' answers were not kept, and only accuracy has an interval without them"
        return _effect(difference, rows, _exit_words(layers), paired=answers is not None and all(kept))


def _exit_words(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"exit {layers[0]}"
    every = len(layers) > 3 and layers[-1] - layers[0] == len(layers) - 1
    return f"exits {layers[0]} to {layers[-1]}" if every else f"exits {', '.join(map(str, layers))}"


def _exit_answers(results: Results, method: str, seeds: Sequence[int]) -> list[ExitAnswers]:
    """Return the kept answers of a method's exits, one per seed; none where a seed's were not kept."""
    task, backbone = results.pair
    cells = [Cell(task, backbone, seed, method) for seed in seeds]
    bodies = [results.runs.companion("evaluate_batch1", cell, "exit_answers") for cell in cells]
    if not all(bodies):
        return []
    return [dict(zip(body["exits"], body["classes"], strict=True)) for body in bodies]


def _over_layers(scored: Scored, seeds: int, layers: int) -> Difference:
    """Return the paired difference of the means over L exits, of sets in the order of sides, S seeds, exits."""
    quality = scored.quality.reshape(2, seeds, layers).mean(-1)
    resampled = scored.resampled.reshape(2, seeds, layers, -1).mean(2)
    return paired_bootstrap(*(Scored(quality[side], resampled[side]) for side in (0, 1)))


def bounded(first: np.ndarray, second: np.ndarray, rows: int) -> Difference:
    """Return the difference of two mean accuracies whose answers are not known, with an interval that is too wide.

    Of one exit the rows' standard error is the binomial one. A mean's is at most the mean of its exits', and a difference's
    at most the root of the sum of squares, since what is hard for one model is hard for the other. The seeds' spread is
    added to it with Student's factor.

    Parameters
    ----------
    first, second
        Accuracy by seed and exit, ``(S, L)``.
    rows
        That each was measured on.
    """
    from scipy.special import ndtri, stdtrit

    seeds, tail = len(first), (1 + LEVEL) / 2
    difference = first.mean(1) - second.mean(1)
    errors = [np.sqrt(side * (1 - side) / rows).mean() for side in (first, second)]
    spread = std(difference)
    squares = (ndtri(tail) * math.hypot(*errors)) ** 2
    if seeds > 1:
        squares += (stdtrit(seeds - 1, tail) * spread) ** 2 / seeds
    middle, half = float(difference.mean()), math.sqrt(squares)
    return Difference(middle, spread, middle - half, middle + half, math.nan, seeds)


@dataclass(frozen=True)
class Speed:
    """The speed that a claim is about, in times fewer layers than the full model, and what still speaks of it."""

    near: float
    least: float
    most: float

    def covers(self, speedup: float) -> bool:
        """Return whether a speed-up, which may be NaN, speaks of the claim."""
        return self.least <= speedup <= self.most

    def distance(self, speedup: float) -> float:
        """Return how far a speed-up is from the claim's."""
        return abs(math.log(speedup / self.near))


@dataclass(frozen=True)
class Points:
    """Operating points of two methods, under a rule each, that run about equally fast.

    Of the points that calibration chose for the goals of a run, the two that were equally fast on the calibration rows
    (within `SLACK`; else the closest, up to a factor of `FAR`), and of these those nearest to the speed of the claim.
    """

    method: str
    rule: str
    other: str
    other_rule: str
    speed: Speed

    @property
    def methods(self) -> tuple[str, ...]:
        """What a run must hold."""
        return self.method, self.other

    def measure(self, results: Results) -> Effect | str:
        """Return the difference of the two points' qualities, paired by row and seed."""
        sides = _points(results, self.method, self.rule), _points(results, self.other, self.other_rule)
        if not all(sides):
            return "no point of one of the rules was chosen"
        answers = collect_answers(results)
        if answers is None:
            return "no answers were kept"
        pairs = [pair for pair in product(*sides) if self._fit(*pair) and answers.shared_seeds(*pair)]
        if not pairs:
            return "calibration chose no two points that are equally fast and of the speed in question"
        a, b = min(pairs, key=lambda pair: self._distance(*pair))
        rules = dict.fromkeys(rule_name(rule) for rule in (self.rule, self.other_rule))
        return _compare(results, answers, a, b, " against ".join(rules))

    def _fit(self, a: Any, b: Any) -> bool:
        return _apart(a, b) <= FAR and all(
            self.speed.covers(row.calibration_layers_speedup) for row in (a, b)
        )

    def _distance(self, a: Any, b: Any) -> tuple[float, float]:
        middle = math.sqrt(a.calibration_layers_speedup * b.calibration_layers_speedup)
        return max(_apart(a, b), 1 / (1 - SLACK)), self.speed.distance(middle)


def _apart(a: Any, b: Any) -> float:
    """Return the factor between the speeds of two points on the rows that they were chosen on."""
    slower, faster = sorted([a.calibration_layers_speedup, b.calibration_layers_speedup])
    return faster / slower


@dataclass(frozen=True)
class AgainstFull:
    """The operating point of a method under a rule that is nearest to a speed, against the full model at full depth."""

    method: str
    rule: str
    speed: Speed

    @property
    def methods(self) -> tuple[str, ...]:
        """What a run must hold."""
        return self.method, "full"

    def measure(self, results: Results) -> Effect | str:
        """Return the difference of the point's quality from the full model's, paired by row and seed."""
        answers, points = collect_answers(results), _points(results, self.method, self.rule)
        points = [row for row in points if self.speed.covers(row.calibration_layers_speedup)]
        if answers is None or not points:
            return "calibration chose no point of the speed in question"
        full = next(row for row in results.main.itertuples() if row.method == "full")
        points = [row for row in points if answers.shared_seeds(row, full)]
        if not points:
            return "no point of the speed in question shares a seed with the full model"
        point = min(points, key=lambda row: self.speed.distance(row.calibration_layers_speedup))
        effect = _compare(results, answers, point, full, rule_name(self.rule))
        return replace(effect, speed_matters=False)


def _points(results: Results, method: str, rule: str) -> list[Any]:
    """Return the rows of the main table that calibration chose for a goal, and found a threshold for."""
    found = [row for row in results.main.itertuples() if (row.method, row.rule) == (method, rule)]
    return [row for row in found if row.goal.kind in ("min_speedup", "max_loss") and row.seeds]


def _compare(results: Results, answers: Answers, a: Any, b: Any, words: str) -> Effect:
    """Return the effect of two rows of the main table on the seeds that both have."""
    seeds = answers.shared_seeds(a, b)
    scored = _score(
        results, answers, [answers.sets[answer_key(row, seed)] for row in (a, b) for seed in seeds]
    )
    difference = paired_bootstrap(*(scored.of(range(k * len(seeds), (k + 1) * len(seeds))) for k in (0, 1)))
    points = (results.of_row(row) for row in (a, b))
    first, second = (mean(found[found.seed.isin(seeds)].layers_speedup) for found in points)
    return _effect(difference, len(answers.labels), words, speedups=(first, second))


@dataclass(frozen=True)
class Gradients:
    """The cosine between two exits' gradients: the mean over pairs of exits and the layers that they share."""

    method: str

    @property
    def methods(self) -> tuple[str, ...]:
        """What a run must hold."""
        return (self.method,)

    def measure(self, results: Results) -> Effect | str:
        """Return the mean cosine with Student's interval over seeds; of one seed there is none."""
        from scipy.special import stdtrit

        found = [
            results.training(cell).gradient_conflict for cell in results.cells if cell.method == self.method
        ]
        if not any(found):
            return "no gradients were recorded"
        known = [[row.mean_cosine for row in rows if row.mean_cosine is not None] for rows in found]
        known = [cosines for cosines in known if cosines]
        if not known:
            return "no recorded gradients have a cosine"
        values = [np.mean(cosines) for cosines in known]
        seeds, spread, middle = len(values), std(values), mean(values)
        half = math.nan
        if seeds > 1:
            half = float(stdtrit(seeds - 1, (1 + LEVEL) / 2)) * spread / math.sqrt(seeds)
        layers = len(known[0])
        return Effect(middle, middle - half, middle + half, spread, seeds, 0, f"{layers} layers")


@dataclass(frozen=True)
class FalsePositives:
    """The false-positive rate of the tokens that a method keeps, less that of as many tokens by another kind of scores.

    Of rows with a rationale: the share of the other words' tokens that are kept, the mean over all layers and rows.
    """

    method: str
    kind: str

    @property
    def methods(self) -> tuple[str, ...]:
        """What a run must hold."""
        return (self.method,)

    def measure(self, results: Results) -> Effect | str:
        """Return the mean over seeds; its interval is the rows', and over seeds Student's with it."""
        from scipy.special import stdtrit

        rows = [
            row
            for cell in results.cells
            if cell.method == self.method
            for row in results.explained(cell)
            if (row.kind, row.layer) == (self.kind, ALL_LAYERS) and row.fpr_difference is not None
        ]
        if not rows:
            return "no kept tokens were held against rationales"
        values = [row.fpr_difference for row in rows]
        seeds, spread, middle = len(values), std(values), mean(values)
        half = mean((row.fpr_high - row.fpr_low) / 2 if row.fpr_low is not None else None for row in rows)
        if seeds > 1:
            half = math.hypot(half, float(stdtrit(seeds - 1, (1 + LEVEL) / 2)) * spread / math.sqrt(seeds))
        return Effect(
            middle, middle - half, middle + half, spread, seeds, rows[0].rationales, "false-positive rates"
        )


def _rows(results: Results) -> int:
    return int(results.data[0].splits["evaluation"]["rows"])


def _score(results: Results, answers: Answers, sets: Sequence[Sequence[float]]) -> Scored:
    metric = results.points.metric.iloc[0]
    return resample_quality(metric, np.array(sets), answers.labels, answers.num_classes, RESAMPLES)


def _effect(difference: Difference, rows: int, of: str, **more: Any) -> Effect:
    spread = math.nan if difference.std is None else difference.std
    ends = difference.low, difference.high
    return Effect(difference.mean, *ends, spread, difference.seeds, rows, of, **more)
