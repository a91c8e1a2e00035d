"""Area under quality over blocks waited for per token: a method's whole grid of thresholds in one number."""

from __future__ import annotations

import pandas as pd

from adaptive_pipeline.reporting.statistics.curve_area import area_under, common_range, cost_curve

#: What methods share whose areas compare.
_TOGETHER = ["task", "model", "seed"]


def quality_areas(grid: pd.DataFrame) -> dict[tuple[str, str, int, str], float]:
    """Return the area of each task, model, seed and method whose grid is a curve on the reported split.

    Cost is blocks run one after another per token, the full model's at 1: it stands for the latency at batch 1, and is
    known for every threshold of a grid on every machine. The area is the mean quality over the costs that all methods cover,
    so that areas compare within a task, model and seed. A method of one point has none, nor has any where the costs do
    not overlap.

    Parameters
    ----------
    grid
        `TextResults.grid`.
    """
    found = {}
    for key, rows in grid[grid.split == "evaluation"].groupby(_TOGETHER, sort=False):
        curves = {
            method: curve
            for method, own in rows.groupby("method", sort=False)
            if (curve := cost_curve(own.calls_speedup, own.quality)) is not None and len(curve.cost) > 1
        }
        reached = common_range([*curves.values()])
        for method, curve in curves.items() if reached else ():
            if (area := area_under(curve, *reached)) is not None:
                found[*key, method] = area
    return found
