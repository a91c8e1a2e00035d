"""The CSV tables, to compute with. Nothing here is ever rounded to look better."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from adaptive_inference.calibration.operating_point import Cost
from adaptive_pipeline.reporting import breakdowns
from adaptive_pipeline.reporting.combined import exit_survivors
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.measures import CELL, KEY, MEASURES
from adaptive_pipeline.reporting.statistics.comparisons import COLUMNS as COMPARISON_COLUMNS

MAIN_COLUMNS = [*KEY, *(measure.name for measure in MEASURES if not measure.later)]
LATER_COLUMNS = [measure.name for measure in MEASURES if measure.later]
DIGITS = {"threshold": 9}  #: significant digits; else 6


def cell_text(value: Any, column: str = "") -> str:
    """Return a CSV cell: empty for what is missing, counts as integers, numbers to 6 digits (thresholds: 9)."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        text = f"{round(value, 12):.{DIGITS.get(column, 6)}g}"
        return "0" if text == "-0" else text
    if isinstance(value, Mapping):  # an exit distribution
        return " ".join(f"{layer}:{share:.3f}" for layer, share in value.items())
    return str(value)


def csv_text(frame: pd.DataFrame, columns: list[str] | None = None) -> str:
    """Return a CSV of a frame, or of the given columns in order."""
    columns, stream = columns or list(frame), io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in frame[columns].itertuples(index=False, name=None):
        writer.writerow([cell_text(value, name) for name, value in zip(columns, row, strict=True)])
    return stream.getvalue()


def main_csv(results: Results) -> str:
    """Return ``main.csv``; goals in another currency than layers are named."""
    currency = [] if results.cost == "layers" else ["goal_cost"]
    later = [name for name in LATER_COLUMNS if results.main[name].notna().any()]
    return csv_text(results.main.assign(goal_cost=results.cost), [*MAIN_COLUMNS, *currency, *later])


def comparisons_csv(comparisons: pd.DataFrame, cost: Cost = "layers") -> str:
    """Return ``comparisons.csv``; ``significant`` is true, false or empty (not tested), FLOPs where goals count them."""
    tested = zip(comparisons.significant, comparisons.not_tested, strict=True)
    shown = comparisons.assign(
        goal=[goal.name for goal in comparisons.goal],
        significant=["" if why else str(bool(found)).lower() for found, why in tested],
    )
    flops = [] if cost == "layers" else ["flops_speedup", "reference_flops_speedup"]
    return csv_text(shown, [*COMPARISON_COLUMNS, *flops])


def missing_csv(results: Results) -> str:
    """Return ``missing.csv``: the cells of the params' grid that no usable record covers, with the reason."""
    rows = [asdict(item.cell) | {"why": item.why} for item in results.missing]
    return csv_text(pd.DataFrame(rows, columns=[*CELL, "seed", "why"]))


def csv_tables(results: Results) -> dict[str, str]:
    """Return every CSV about the records: file name -> text; the second half only where there is something to say."""
    explaining = {
        "cost.csv": breakdowns.cost(results),
        "conflict.csv": breakdowns.conflict(results),
        "overthinking.csv": breakdowns.overthinking(results),
        "weights.csv": breakdowns.weights(results),
        "rationales.csv": breakdowns.rationales(results),
        "exit_survivors.csv": exit_survivors(results),
    }
    return {
        "main.csv": main_csv(results),
        "exits.csv": csv_text(breakdowns.exits(results)),
        "tiers.csv": csv_text(breakdowns.tiers(results)),
        "data.csv": csv_text(breakdowns.splits(results)),
        "calibration.csv": csv_text(breakdowns.calibration(results)),
        "missing.csv": missing_csv(results),
    } | {name: csv_text(frame) for name, frame in explaining.items() if not frame.empty}
