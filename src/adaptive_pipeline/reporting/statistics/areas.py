"""Whole curves of methods and rules in one number each: mean quality over a common range of cost, and ELUE scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from adaptive_inference.calibration.operating_point import COST_WORDS, static_layers
from adaptive_pipeline.reporting.breakdowns import exit_points
from adaptive_pipeline.reporting.frame import PAIR, Results
from adaptive_pipeline.reporting.measures import mean, std
from adaptive_pipeline.reporting.names import method_key, rule_key
from adaptive_pipeline.reporting.statistics.curve_area import (
    CostCurve,
    area_under,
    at_shares,
    common_range,
    cost_curve,
    elue_score,
)

COSTS = tuple(COST_WORDS)
STATIC = "static"  #: the first K layers for every K of a run, one family with one curve
EXITS = "early_exit exits"
#: Columns of ``areas.csv``.
COLUMNS = [
    "task", "backbone", "method", "rule", "seeds", "metric",
    "layers_low", "layers_high", "area_layers_mean", "area_layers_std",
    "flops_low", "flops_high", "area_flops_mean", "area_flops_std",
    "elue_mean", "elue_std", "elue_baseline", "elue_points", "elue_excluded",
]  # fmt: skip
#: Share of the other baseline's range of costs that the static family must cover to go first.
SPAN = 0.9


def areas(results: Results) -> pd.DataFrame:
    """Return the rows of ``areas.csv``: every rule of every method that has a curve, and the static family."""
    rows = [row for one in results.each for row in _pair_rows(one)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _pair_rows(results: Results) -> Iterator[dict[str, Any]]:
    curves = [*_static_curves(results), *_rule_curves(results)]
    # those of one cost are left out: a point has no area
    curves = [row for row in curves if (curve := row[results.cost]) is not None and len(curve.cost) > 1]
    name, baselines = _baseline(results, curves)
    shown = [
        row for row in curves if row["method"] != STATIC or name == STATIC
    ]  # a narrow one would cut all others
    ranges = {cost: common_range([row[cost] for row in shown if row[cost] is not None]) for cost in COSTS}
    frame = pd.DataFrame(curves, columns=["method", "rule", "seed", *COSTS])
    for (method, rule), members in frame.groupby(["method", "rule"], sort=False):
        row = dict(zip(PAIR, results.pair, strict=True)) | {"method": method, "rule": rule}
        row |= {"seeds": len(members), "metric": results.points.metric.iloc[0]}
        for cost in COSTS:
            low, high = ranges[cost] or (math.nan, math.nan)
            found = [area_under(curve, low, high) if curve else None for curve in members[cost]]
            row |= {f"{cost}_low": low, f"{cost}_high": high}
            row |= {f"area_{cost}_mean": mean(found), f"area_{cost}_std": std(found)}
        yield row | _elue([baselines.get(seed) for seed in members.seed], members.flops, name)


def _rule_curves(results: Results) -> list[dict[str, Any]]:
    """Return the curves of rules that can be followed, in table order."""
    points = results.points[~results.points.attainable]
    bounds = set(zip(points.method, points.rule, strict=True))
    found = [
        _curves(cell.method, rule, cell.seed, body)
        for cell in results.cells
        for rule, body in results.curves(cell).items()
        if (cell.method, rule) not in bounds
    ]
    return sorted(found, key=lambda row: (method_key(row["method"]), rule_key(row["rule"]), row["seed"]))


def _static_curves(results: Results) -> list[dict[str, Any]]:
    """Return the curve of the first-K-layers models of each seed."""
    points = results.points[results.points.measured]
    points = points[[static_layers(method) is not None for method in points.method]]
    return [_curves(STATIC, "fixed", seed, own) for seed, own in points.groupby("seed")]


def _curves(method: str, rule: str, seed: int, body: Any) -> dict[str, Any]:
    """Return one method, rule and seed with its curve by each cost, None where that cost was not measured."""
    row: dict[str, Any] = {"method": method, "rule": rule, "seed": seed}
    speedups = {cost: body.get(f"{cost}_speedup") for cost in COSTS}
    return row | {
        cost: None if speedup is None else cost_curve(speedup, body["quality"])
        for cost, speedup in speedups.items()
    }


def _baseline(
    results: Results, curves: Sequence[Mapping[str, Any]]
) -> tuple[str | None, dict[int, CostCurve]]:
    """Return ELUE's baseline and its name: the static family of each seed, or the exits of early exit, each forced.

    The static family goes first unless it spans less than `SPAN` of the costs that the exits do.
    """
    exits = exit_points(results)
    exits = exits[exits.method == "early_exit"]
    found = {
        STATIC: {row["seed"]: row["flops"] for row in curves if row["method"] == STATIC},
        EXITS: {seed: cost_curve(own.flops_speedup, own.quality) for seed, own in exits.groupby("seed")},
    }
    usable = {
        name: {seed: curve for seed, curve in seeds.items() if curve is not None and len(curve.cost) > 1}
        for name, seeds in found.items()
    }
    spans = {
        name: min(float(np.ptp(curve.cost)) for curve in seeds.values())
        for name, seeds in usable.items()
        if seeds
    }
    if not spans:
        return None, {}
    best = next(name for name, span in spans.items() if span >= SPAN * max(spans.values()))
    return best, usable[best]


def _elue(
    baselines: Iterable[CostCurve | None], curves: Iterable[CostCurve | None], name: str | None
) -> dict[str, Any]:
    """Return the columns of the score; empty unless every seed has a baseline and points within it."""
    scores = [
        elue_score(at_shares(curve), baseline) if curve and baseline else None
        for curve, baseline in zip(curves, baselines, strict=True)
    ]
    values = [score.score if score else math.nan for score in scores]
    known = [score for score in scores if score]
    return {
        "elue_mean": mean(values),
        "elue_std": std(values),
        "elue_baseline": name,
        "elue_points": sum(score.used for score in known) if known else None,
        "elue_excluded": sum(score.excluded for score in known) if known else None,
    }
