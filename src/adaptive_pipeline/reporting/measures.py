"""What is reported: a measure is a row of data, with the average that makes one figure of several seeds.

A new measure is one line of `MEASURES` (and, if no stage records it yet, a field of its record): it is a column of
``main.csv`` and of `main_frame`, with a ``header`` also of the readable tables, with an ``axis`` also a figure.
"""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal, get_args

import pandas as pd

# ---- averages --------------------------------------------------------------------------------------------------------

NO_SPREAD = 1e-12  #: a deviation below it is that of equal values


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def mean(values: Iterable[float | None]) -> float:
    """Return the mean, NaN where there is no value or one of them is missing (pandas would skip it)."""
    numbers = _numbers(values)
    return fmean(numbers) if numbers else math.nan


def std(values: Iterable[float | None]) -> float:
    """Return the sample standard deviation (n - 1), NaN for fewer than two values; 0 where rounding alone parts them."""
    numbers = _numbers(values)
    if len(numbers) < 2 or any(map(math.isnan, numbers)):
        return math.nan
    spread = stdev(numbers)
    return spread if spread >= NO_SPREAD else 0.0


def lowest(values: pd.Series) -> float:
    """Return the least value, NaN where one is missing."""
    return values.min(skipna=False)


def highest(values: pd.Series) -> float:
    """Return the greatest value, NaN where one is missing."""
    return values.max(skipna=False)


def first(values: pd.Series) -> Any:
    """Return the value that all have."""
    return values.iloc[0]


def joined(values: Iterable[str]) -> str:
    """Return the different names, in order; empty ones left out."""
    return " | ".join(sorted(set(values) - {""}))


def _number(values: pd.Series) -> float:
    return len(values) or math.nan


def _met(values: pd.Series) -> str:
    return f"{values.sum()}/{len(values)}"


def exit_share(counts: Iterable[dict[str, int]]) -> dict[int, float]:
    """Return the share of rows that left after each layer, all seeds pooled."""
    pooled: Counter[str] = Counter()
    for one in counts:
        pooled.update(one)
    total = pooled.total()
    return {int(layer): pooled[layer] / total for layer in sorted(pooled, key=int)} if total else {}


# ---- measures --------------------------------------------------------------------------------------------------------

#: Which of a row's points count: all that were evaluated; those with figures (a goal that no threshold reaches has
#: none); those whose seed was timed; those whose seed has a full model.
Among = Literal["evaluated", "measured", "timed", "with_full"]
#: In the order in which readable tables have them.
Unit = Literal["fraction", "times", "milliseconds", ""]
UNITS: tuple[Unit, ...] = get_args(Unit)


@dataclass(frozen=True)
class Measure:
    """One figure of a method at an operating point.

    Attributes
    ----------
    name, source
        Column of the main table, and of the points of single seeds.
    average
        From a row's points to its figure.
    among
        The points that count.
    unit, header, form
        In readable tables: kind of number, heading (empty: not shown) and format.
    axis
        Name along an axis (empty: no figure).
    later
        Older records lack it: its column is there only where some row has it, and stands behind all others.
    """

    name: str
    source: str
    average: Callable[[pd.Series], Any]
    among: Among = "measured"
    unit: Unit = ""
    header: str = ""
    form: str = ""
    axis: str = ""
    later: bool = False

    @property
    def stem(self) -> str:
        """What a speed-up is counted in: ``layers``, ``flops``, ``wallclock``."""
        return self.name.removesuffix("_speedup")


#: Columns of ``main.csv`` after the key. Never renamed or moved: later ones go to the end.
MEASURES = (
    Measure("threshold", "threshold", mean),
    Measure("seeds", "seed", len),
    Measure("metric", "metric", first, "evaluated"),
    Measure("quality_mean", "quality", mean, "measured", "fraction", "Quality", ".4f"),
    Measure("quality_std", "quality", std, "measured", "fraction", "± std", ".4f"),
    Measure(
        "layers_speedup", "layers_speedup", mean, "measured", "times", "Layers ×", ".2f",
        "fewer layers than the full model (×)",
    ),
    Measure(
        "flops_speedup", "flops_speedup", mean, "measured", "times", "FLOPs ×", ".2f",
        "fewer FLOPs than the full model (×)",
    ),
    Measure(
        "wallclock_speedup", "wallclock_speedup", mean, "timed", "times", "Wall-clock ×", ".2f",
        "faster than the full model, batch 1, measured (×)",
    ),
    Measure("quality_low", "quality_low", lowest),
    Measure("quality_high", "quality_high", highest),
    Measure("wallclock_low", "wallclock_low", lowest, "timed"),
    Measure("wallclock_high", "wallclock_high", highest, "timed"),
    Measure("exit_share", "exit_counts", exit_share),
    Measure("quality_difference", "quality_difference", mean, "with_full", "fraction", "Loss, points"),
    Measure("added_parameters", "added_parameters", first, "evaluated"),
    Measure("training_seconds", "training_seconds", mean, "evaluated"),
    Measure("machine", "machine", joined, "timed"),
    Measure("qualifying_seeds", "qualifies", _met, "evaluated"),
    Measure("layers_speedup_std", "layers_speedup", std),
    Measure("timed_seeds", "seed", _number, "timed"),
    Measure("timed_quality", "quality", mean, "timed"),
    Measure("timed_layers_speedup", "layers_speedup", mean, "timed"),
    Measure("milliseconds", "median_ms", mean, "timed", "milliseconds", "ms", ".1f"),
    Measure("full_milliseconds", "full_median_ms", mean, "timed"),
    Measure(
        "wallclock_speedup_batch16", "wallclock_speedup_batch16", mean, "timed", "times", "Wall-clock ×, batch 16", ".2f",
        later=True,
    )
)  # fmt: skip
#: Of the same rows, but in no table: what the comparisons and the table at the goal choose by.
CHOOSING = (
    Measure("goal", "goal", first, "evaluated"),
    Measure("evaluated", "seed", len, "evaluated"),
    Measure("attainable", "attainable", all, "evaluated"),
    Measure("in_seeds", "seed", tuple),
    Measure("calibration_quality", "calibration_quality", mean),
    Measure("calibration_layers_speedup", "calibration_layers_speedup", mean),
    Measure("calibration_flops_speedup", "calibration_flops_speedup", mean),
)
SPEEDS = tuple(measure for measure in MEASURES if measure.axis)

CELL = ["task", "backbone", "method"]
KEY = [*CELL, "rule", "operating_point"]


def main_frame(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the main table, in table order, from the points of single seeds (`frame.Results`)."""
    measures = (*MEASURES, *CHOOSING)
    rows = []
    for key, every in points.groupby(KEY, sort=False):
        among = {"evaluated": every}
        among |= {name: every[every[name]] for name in ("measured", "timed", "with_full")}
        figures = {m.name: m.average(among[m.among][m.source]) for m in measures}
        rows.append(dict(zip(KEY, key, strict=True)) | figures)
    return pd.DataFrame(rows, columns=[*KEY, *(measure.name for measure in measures)])


def over_seeds(
    frame: pd.DataFrame, by: list[str], averaged: Iterable[str], **carried: Callable[[pd.Series], Any] | str
) -> pd.DataFrame:
    """Return one row per key: the number of seeds, columns that are carried over by a function, and means with spread.

    Parameters
    ----------
    frame
        One row per key and seed.
    by, averaged
        Columns of the key, and of figures: ``NAME`` gives ``NAME_mean`` and ``NAME_std``.
    carried
        Column -> what makes one value of its seeds'.
    """
    how = {"seeds": (by[0], "size")} | {name: (name, function) for name, function in carried.items()}
    how |= {f"{name}_{average.__name__}": (name, average) for name in averaged for average in (mean, std)}
    if frame.empty:
        return pd.DataFrame(columns=[*by, *how])
    return frame.groupby(by, sort=False).agg(**how).reset_index()
