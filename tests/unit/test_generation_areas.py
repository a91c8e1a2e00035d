"""The area under a decoding method's quality over its cost."""

from __future__ import annotations

import pandas as pd
import pytest

from adaptive_pipeline.reporting.generation.areas import quality_areas

COLUMNS = ["task", "model", "seed", "split", "method", "calls_speedup", "quality"]


def grid(**methods):
    rows = [
        ("t", "m", 0, split, method, 1 / cost, quality)
        for split, lift in (("calibration", 0.1), ("evaluation", 0.0))
        for method, points in methods.items()
        for cost, quality in [(cost, quality + lift) for cost, quality in points]
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_areas_are_mean_qualities_over_the_costs_that_all_curves_cover():
    found = quality_areas(
        grid(free=[(0.2, 0.0), (1.0, 0.8)], verify=[(0.6, 0.8), (1.0, 0.8)], full=[(1.0, 0.8)])
    )
    # from 0.6 to 1.0 the line of `free` climbs from 0.4 to 0.8
    assert found == {("t", "m", 0, "free"): pytest.approx(0.6), ("t", "m", 0, "verify"): pytest.approx(0.8)}


def test_points_and_curves_that_do_not_overlap_have_no_area():
    assert quality_areas(grid(full=[(1.0, 0.8)])) == {}
    assert quality_areas(grid(free=[(0.2, 0.1), (0.4, 0.2)], calm=[(0.6, 0.1), (1.0, 0.2)])) == {}
    assert quality_areas(pd.DataFrame([], columns=COLUMNS)) == {}
