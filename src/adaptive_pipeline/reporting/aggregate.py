"""From the points of single seeds to one row per method, rule and operating point, with spread over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from adaptive_pipeline.reporting.collect import Point, Results

TOLERANCE = 1e-9  #: rounding of a difference of two fractions, when it is held against the goal


@dataclass(frozen=True)
class Row:
    """One line of the main table: means over ``seeds`` seeds; None where nothing was measured.

    A seed on which no threshold reached the goal has no figures: it is no part of the means, and
    ``qualifying_seeds`` ("2/3") says so.
    """

    task: str
    backbone: str
    method: str
    rule: str
    operating_point: str
    threshold: float | None
    seeds: int
    metric: str
    quality_mean: float | None
    quality_std: float | None
    layers_speedup: float | None
    flops_speedup: float | None
    wallclock_speedup: float | None
    quality_low: float | None
    quality_high: float | None
    wallclock_low: float | None
    wallclock_high: float | None
    exit_share: Mapping[int, float]
    quality_difference: float | None
    added_parameters: int | None
    training_seconds: float | None
    machine: str
    qualifying_seeds: str
    layers_speedup_std: float | None
    timed_seeds: int | None
    timed_quality: float | None
    timed_layers_speedup: float | None
    # below: not in the table, read by the recommendation
    attainable: bool
    calibration_quality: float | None
    calibration_difference: float | None
    calibration_speedup: float | None
    points: tuple[Point, ...]  #: those with figures
    evaluated: int  #: seeds, with and without figures


def aggregate(results: Results) -> list[Row]:
    """Return the rows of the main table, in table order."""
    groups: dict[tuple[str, ...], list[Point]] = {}
    full: dict[tuple[str, str, int], Point] = {}
    for point in results.points:  # already in table order
        cell = point.cell
        key = (cell.task, cell.backbone, point.method, point.rule, point.operating_point)
        groups.setdefault(key, []).append(point)
        if point.method == "full":
            full.setdefault((cell.task, cell.backbone, cell.seed), point)
    return [_row(key, points, full) for key, points in groups.items()]


def _row(key: tuple[str, ...], every: list[Point], full: Mapping[tuple[str, str, int], Point]) -> Row:
    task, backbone, method, rule, operating_point = key
    points = [point for point in every if point.measured]
    timed = [point for point in points if point.wallclock]
    baselines = [full.get((task, backbone, point.cell.seed)) for point in points]

    def over(read: Callable[[Point], Any]) -> list[Any]:
        return [read(point) for point in points]

    def against_full(read: Callable[[Point], float | None]) -> float | None:
        """Mean over the seeds that have a full model of the difference to it (paired by seed)."""
        pairs = [(read(point), read(base)) for point, base in zip(points, baselines, strict=True) if base]
        return mean(None if a is None or b is None else a - b for a, b in pairs)

    return Row(
        task=task,
        backbone=backbone,
        method=method,
        rule=rule,
        operating_point=operating_point,
        threshold=mean(over(lambda p: p.threshold)),
        seeds=len(points),
        metric=every[0].metric,
        quality_mean=mean(over(lambda p: p.quality)),
        quality_std=spread(over(lambda p: p.quality)),
        layers_speedup=mean(over(lambda p: p.layers_speedup)),
        flops_speedup=mean(over(lambda p: p.flops_speedup)),
        wallclock_speedup=mean(point.wallclock["wallclock_speedup"] for point in timed),
        quality_low=_extreme(min, over(lambda p: p.quality_low)),
        quality_high=_extreme(max, over(lambda p: p.quality_high)),
        wallclock_low=_extreme(min, [point.wallclock.get("wallclock_low") for point in timed]),
        wallclock_high=_extreme(max, [point.wallclock.get("wallclock_high") for point in timed]),
        exit_share=exit_share(points),
        quality_difference=against_full(lambda p: p.quality),
        added_parameters=every[0].added_parameters,
        training_seconds=mean(point.training_seconds for point in every),
        machine=" | ".join(sorted({point.machine for point in timed})),
        qualifying_seeds=f"{sum(point.qualifies for point in every)}/{len(every)}",
        layers_speedup_std=spread(over(lambda p: p.layers_speedup)),
        timed_seeds=len(timed) or None,
        timed_quality=mean(point.quality for point in timed),
        timed_layers_speedup=mean(point.layers_speedup for point in timed),
        attainable=all(point.attainable for point in every),
        calibration_quality=mean(over(lambda p: p.calibration_quality)),
        calibration_difference=against_full(lambda p: p.calibration_quality),
        calibration_speedup=mean(over(lambda p: p.calibration_speedup)),
        points=tuple(points),
        evaluated=len(every),
    )


def shown_rule(named: Iterable[str], reached: Mapping[tuple[str, str], int]) -> str | None:
    """Return the rule that stands for a method in figures that have room for one.

    ``reached`` holds the seeds on which a rule reached a goal on the calibration split, by (rule, operating point). The rule
    that reached the most speed-ups; where none did, the most goals; of equals the first ``named`` in the params. A bound
    on the loss alone must not decide: there a slow point counts. None where no named rule was run.
    """
    speeds = {key: seeds for key, seeds in reached.items() if seeds and key[1].startswith("min_speedup_")}
    counts = {rule: 0 for rule, _ in reached}
    for (rule, _), seeds in (speeds or reached).items():
        counts[rule] += seeds
    return max((rule for rule in named if rule in counts), key=lambda rule: counts[rule], default=None)


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean, or None where there is no value or one of them could not be measured."""
    numbers = list(values)
    return fmean(numbers) if numbers and None not in numbers else None


def spread(values: Iterable[float | None]) -> float | None:
    """Return the sample standard deviation (n - 1), or None for fewer than two values."""
    numbers = list(values)
    return stdev(numbers) if len(numbers) > 1 and None not in numbers else None


def _extreme(pick: Callable[[list[float]], float], values: list[float | None]) -> float | None:
    """Return the outer end of the seeds' intervals, None where one seed has none."""
    return pick(values) if values and None not in values else None  # type: ignore[arg-type]


def exit_share(points: Iterable[Point]) -> dict[int, float]:
    """Return the share of evaluation rows that left after each layer, all seeds pooled."""
    counts: dict[int, int] = {}
    for point in points:
        for layer, count in point.exit_counts.items():
            counts[layer] = counts.get(layer, 0) + count
    total = sum(counts.values())
    return {layer: count / total for layer, count in sorted(counts.items())} if total else {}
