"""Whole curves of methods and rules in one number each: mean quality over a common range of cost, and ELUE scores."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.reporting.aggregate import mean, spread
from adaptive_pipeline.reporting.collect import CellFiles, Point, Results
from adaptive_pipeline.reporting.curve_area import (
    SHARES,
    CostCurve,
    area_under,
    at_shares,
    common_range,
    cost_curve,
    elue_score,
)
from adaptive_pipeline.reporting.markdown import number, spread_text, table_line
from adaptive_pipeline.reporting.names import method_key, method_name, rule_key, rule_name, static_layers
from adaptive_pipeline.reporting.tables import csv_text

COSTS = ("layers", "flops")
STATIC = "static"  #: the first K layers for every K of a run, one family with one curve
#: Columns of ``areas.csv``.
COLUMNS = [
    "task",
    "backbone",
    "method",
    "rule",
    "seeds",
    "metric",
    "layers_low",
    "layers_high",
    "area_layers_mean",
    "area_layers_std",
    "flops_low",
    "flops_high",
    "area_flops_mean",
    "area_flops_std",
    "elue_mean",
    "elue_std",
    "elue_baseline",
    "elue_points",
    "elue_excluded",
]


#: Share of the other baseline's range of costs that the static family must cover to go first.
SPAN = 0.9


@dataclass(frozen=True)
class SeedCurves:
    """The curves of one method and rule on one seed, by cost (`COSTS`); None where that cost was not measured."""

    method: str
    rule: str
    seed: int
    curves: Mapping[str, CostCurve | None]


def area_rows(results: Results) -> list[dict[str, Any]]:
    """Return the rows of ``areas.csv``: every rule of every method that has a curve, and the static family."""
    return [row for task, backbone in results.pairs() for row in _pair_rows(results, task, backbone)]


def _pair_rows(results: Results, task: str, backbone: str) -> list[dict[str, Any]]:
    cells = [files for files in results.cells if (files.cell.task, files.cell.backbone) == (task, backbone)]
    points = [p for p in results.points if (p.cell.task, p.cell.backbone) == (task, backbone)]
    curves = [*_static_curves(points), *_rule_curves(cells, points)]
    name, baselines = _baseline(curves, cells)
    shown = [
        item for item in curves if item.method != STATIC or name == STATIC
    ]  # a narrow one would cut all others
    ranges = {cost: _range(shown, cost) for cost in COSTS}
    groups: dict[tuple[str, str], list[SeedCurves]] = {}
    for item in sorted(curves, key=lambda c: (method_key(c.method), rule_key(c.rule), c.seed)):
        groups.setdefault((item.method, item.rule), []).append(item)
    rows = []
    for (method, rule), members in groups.items():
        row: dict[str, Any] = {"task": task, "backbone": backbone, "method": method, "rule": rule}
        row |= {"seeds": len(members), "metric": points[0].metric}
        for cost in COSTS:
            low, high = ranges[cost] or (None, None)
            areas = [_area(member.curves[cost], ranges[cost]) for member in members]
            row |= {f"{cost}_low": low, f"{cost}_high": high}
            row |= {f"area_{cost}_mean": mean(areas), f"area_{cost}_std": spread(areas)}
        rows.append(row | _elue(members, name, baselines))
    return rows


def _rule_curves(cells: Iterable[CellFiles], points: Iterable[Point]) -> list[SeedCurves]:
    """Return the curves of rules that can be followed, those with one cost left out: a point has no area."""
    bounds = {(p.method, p.rule) for p in points if not p.attainable}
    found = [
        SeedCurves(files.cell.method, rule, files.cell.seed, _curves(body))
        for files in cells
        for rule, body in files.curves.items()
        if (files.cell.method, rule) not in bounds
    ]
    return [item for item in found if _wide(item)]


def _static_curves(points: Iterable[Point]) -> list[SeedCurves]:
    """Return the curve of the first-K-layers models of each seed."""
    seeds: dict[int, list[Point]] = {}
    for point in points:
        if static_layers(point.method) is not None and point.measured:
            seeds.setdefault(point.cell.seed, []).append(point)
    names = ("quality", "layers_speedup", "flops_speedup")
    found = [
        SeedCurves(STATIC, "fixed", seed, _curves({n: [getattr(p, n) for p in own] for n in names}))
        for seed, own in seeds.items()
    ]
    return [item for item in found if _wide(item)]


def _curves(body: Mapping[str, Sequence[float | None]]) -> dict[str, CostCurve | None]:
    quality = body["quality"]
    missing = [None] * len(quality)
    return {cost: cost_curve(body.get(f"{cost}_speedup") or missing, quality) for cost in COSTS}


def _wide(item: SeedCurves) -> bool:
    layers = item.curves["layers"]
    return layers is not None and len(layers.cost) > 1


def _range(curves: Iterable[SeedCurves], cost: str) -> tuple[float, float] | None:
    """Return the costs that every curve of the table covers, on every seed."""
    return common_range([curve for item in curves if (curve := item.curves[cost]) is not None])


def _area(curve: CostCurve | None, shared: tuple[float, float] | None) -> float | None:
    return None if curve is None or shared is None else area_under(curve, *shared)


def _baseline(
    curves: Iterable[SeedCurves], cells: Iterable[CellFiles]
) -> tuple[str | None, dict[int, CostCurve]]:
    """Return ELUE's baseline and its name: the static family of each seed, or the exits of early exit, each forced.

    The static family goes first unless it spans less than `SPAN` of the costs that the exits do.
    """
    static = {item.seed: item.curves["flops"] for item in curves if item.method == STATIC}
    forced = {
        files.cell.seed: cost_curve(
            [item.get("flops_speedup") for item in files.evaluation.details.get("exits") or []],
            [item["quality"] for item in files.evaluation.details.get("exits") or []],
        )
        for files in cells
        if files.cell.method == "early_exit"
    }
    usable = {
        name: {seed: curve for seed, curve in found.items() if curve is not None and len(curve.cost) > 1}
        for name, found in ((STATIC, static), ("early_exit exits", forced))
    }
    spans = {
        name: min(float(np.ptp(curve.cost)) for curve in found.values())
        for name, found in usable.items()
        if found
    }
    if not spans:
        return None, {}
    best = next(name for name, span in spans.items() if span >= SPAN * max(spans.values()))
    return best, usable[best]


def _elue(
    members: Sequence[SeedCurves], name: str | None, baselines: Mapping[int, CostCurve]
) -> dict[str, Any]:
    """Return the columns of the score; empty unless every seed has a baseline and points within it."""
    pairs = [(member.curves["flops"], baselines.get(member.seed)) for member in members]
    scores = [
        elue_score(at_shares(curve), baseline)
        for curve, baseline in pairs
        if curve is not None and baseline is not None
    ]
    values = [score.score for score in scores] + [None] * (len(pairs) - len(scores))
    return {
        "elue_mean": mean(values),
        "elue_std": spread(values),
        "elue_baseline": name,
        "elue_points": sum(score.used for score in scores) if scores else None,
        "elue_excluded": sum(score.excluded for score in scores) if scores else None,
    }


def areas_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return ``areas.csv`` from the rows of `area_rows`."""
    return csv_text(COLUMNS, rows)


# ---- for readers -----------------------------------------------------------------------------------------------------

HEADERS = ("Method", "Rule", "Seeds", "Area, layers", "Area, FLOPs", "ELUE", "± std", "Points", "Outside")
BASELINES = {
    STATIC: "the first-K-layers models of each seed",
    "early_exit exits": "the exits of early exit of each seed, every row forced to leave there",
    None: "none: the run has neither first-K-layers models nor FLOPs of early exit's exits",
}
NOTES = (
    "Area: quality over cost (share of the full model's layers or FLOPs, 1 / speed-up), as the mean over the range that "
    "every curve of the table covers on every seed; mean ± std over seeds, n − 1. The range depends on the methods of the "
    "run: areas compare within a table, not between tables.",
    f"ELUE: mean of (quality − the baseline's at equal FLOPs) over {len(SHARES)} evenly spaced shares of the full model's "
    "FLOPs, as far as the method's curve reaches. Points: how many, all seeds together; outside: how many lie outside the "
    "baseline's FLOPs, where the score is undefined, and are left out. A curve that reaches other costs has other points.",
    "A curve is measured at many thresholds on the evaluation split: it says what a method could do if the threshold "
    "were known; the operating points of main.md, chosen on calibration, say what it does.",
)  # fmt: skip


def areas_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``areas.md`` from the rows of ``areas.csv``."""
    lines = ["# Whole curves", ""]
    if not rows:
        return "\n".join([*lines, "No curve is there yet.", ""])
    for task, backbone in dict.fromkeys((row["task"], row["backbone"]) for row in rows):
        here = [row for row in rows if (row["task"], row["backbone"]) == (task, backbone)]
        lines += [f"## {task}, {backbone} ({metric_name(here[0]['metric'])})", ""]
        lines += [table_line(HEADERS), table_line(["---", "---", *["---:"] * (len(HEADERS) - 2)])]
        for row in here:
            cells = [method_name(row["method"]), rule_name(row["rule"]), str(row["seeds"])]
            cells += [spread_text(row[f"area_{cost}_mean"], row[f"area_{cost}_std"]) for cost in COSTS]
            cells += [number(row["elue_mean"], "+.4f"), number(row["elue_std"], ".4f")]
            cells += [
                "" if row[name] is None else str(row[name]) for name in ("elue_points", "elue_excluded")
            ]
            lines.append(table_line(cells))
        ranges = "; ".join(f"{cost} {_range_text(here[0], cost)}" for cost in COSTS)
        lines += ["", f"Range: {ranges}. ELUE's baseline: {BASELINES[here[0]['elue_baseline']]}.", ""]
    return "\n".join([*lines, "Notes", "", *(f"- {note}" for note in NOTES), ""])


def _range_text(row: Mapping[str, Any], cost: str) -> str:
    if row[f"{cost}_low"] is None:
        return "none in common"
    return f"{row[f'{cost}_low']:.3f} to {row[f'{cost}_high']:.3f}"
