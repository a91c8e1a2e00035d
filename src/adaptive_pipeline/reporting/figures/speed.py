"""Quality against speed: what is drawn of a task and backbone, and the wide view of it in each currency."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd

from adaptive_inference.calibration.operating_point import static_layers
from adaptive_pipeline.reporting.choice import Choice, Marked
from adaptive_pipeline.reporting.figures.coincide import joined_name, same_rules
from adaptive_pipeline.reporting.figures.labels import Label
from adaptive_pipeline.reporting.figures.shown import shown_rule
from adaptive_pipeline.reporting.figures.style import band_legible, colour, marker
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.measures import SPEEDS, Measure
from adaptive_pipeline.reporting.names import method_key, method_name, rule_key, rule_name
from adaptive_pipeline.reporting.statistics.curve_area import Band, band

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Series:
    """A method under one rule, in one currency.

    Attributes
    ----------
    points
        Rows of the main table from slow to fast, with their place ``x``, ``y``.
    curve
        Over all thresholds; None where only points were measured.
    """

    method: str
    rule: str
    points: pd.DataFrame
    curve: Band | None = None
    named: bool = False  #: whether its rule must be told

    @property
    def places(self) -> list[tuple[float, float]]:
        """All that is drawn, from slow to fast."""
        if self.curve is not None:
            return list(zip(self.curve.speedup, self.curve.mean, strict=True))
        return list(zip(self.points.x, self.points.y, strict=True))

    @property
    def name(self) -> str:
        """How it is shown."""
        return method_name(self.method) + (f", {rule_name(self.rule)}" if self.named else "")


class SpeedPlot:
    """What is drawn of one task and backbone: each method with one rule, plus the recommended model."""

    def __init__(self, results: Results, choice: Choice) -> None:
        rows = results.main[
            [goal.kind != "nothing_removed" for goal in results.main.goal]
        ]  # an overhead, no offer
        self.results, self.rows, self.marked = results, rows, choice.marked
        self.known = choice.known
        measured = rows[(rows.method == "full") & rows.quality_mean.notna()]
        self.full = next(measured.itertuples(), None)
        others = {method for method in rows.method if method != "full" and static_layers(method) is None}
        self.methods = sorted(others, key=method_key)
        self.rules = {method: self.rule(method) for method in self.methods}

    # ---- what is there -----------------------------------------------------------------------------------------------

    @cached_property
    def speeds(self) -> list[Measure]:
        """The currencies in which something but the full model was measured."""
        others = self.rows[self.rows.method != "full"]
        return [speed for speed in SPEEDS if others[speed.name].notna().any()]

    @cached_property
    def same(self) -> dict[str, tuple[str, ...]]:
        """Rule -> the rules that are one with it."""
        return same_rules(self.results)

    @cached_property
    def usual(self) -> str:
        """The rule that stands for most methods."""
        counts = Counter(rule for rule in self.rules.values() if rule != "fixed")
        return min(counts, key=lambda rule: (-counts[rule], rule_key(rule)), default="fixed")

    @property
    def rule_note(self) -> str:
        """One sentence on the rules; empty where there is none to tell of."""
        same = self._unnamed
        if same == ("fixed",):
            return ""
        return f"Exit rule, where none is named: {joined_name(same)}{' (one and the same here)' * (len(same) > 1)}."

    @property
    def _unnamed(self) -> tuple[str, ...]:
        """The rules that are not named beside a method: the usual one, and those that are one with it."""
        return self.same.get(self.usual, (self.usual,))

    def rule(self, method: str) -> str:
        """Return the attainable rule that stands for the method; see `shown_rule`."""
        own = self.rows[(self.rows.method == method) & self.rows.attainable]
        reached = dict(zip(zip(own.rule, own.goal, strict=True), own.seeds, strict=True))
        return shown_rule(self.results.params.method(method).rule_names, reached) or "fixed"

    def curve(self, method: str, rule: str, speed: str) -> Band | None:
        """Return a method's curve over seeds; None for wall-clock, which is measured at operating points only."""
        cells = [cell for cell in self.results.cells if cell.method == method]
        found = [self.results.curves(cell).get(rule, {}) for cell in cells]
        curves = [curve for curve in found if speed in curve]
        return band([curve[speed] for curve in curves], [curve["quality"] for curve in curves])

    def series(self, speed: Measure) -> list[Series]:
        """Return each method under the rule that stands for it, where it was measured."""
        found = []
        for method, rule in self.rules.items():
            points = self.drawable(speed, (self.rows.method == method) & (self.rows.rule == rule))
            curve = self.curve(method, rule, speed.name)
            if len(points) or curve is not None:
                found.append(Series(method, rule, points, curve, rule not in (*self._unnamed, "fixed")))
        return found

    def drawable(self, speed: Measure, which: Any) -> pd.DataFrame:
        """Return the rows that have a place in a panel, from slow to fast, with their place ``x``, ``y``."""
        rows = self.rows[which]
        rows = rows.assign(x=rows[speed.name], y=quality_at(rows, speed))
        return rows[rows.x.notna() & rows.y.notna()].sort_values("x", kind="stable")

    def static(self, speed: Measure) -> pd.DataFrame:
        """Return the first K layers, as `drawable`."""
        return self.drawable(speed, [static_layers(method) is not None for method in self.rows.method])

    def full_quality(self, speed: Measure) -> float:
        """Return the full model's quality in the seeds of a currency; NaN where it has none."""
        return math.nan if self.full is None else float(quality_at(self.full, speed))

    @cached_property
    def full_milliseconds(self) -> float | None:
        """The full model's time for a text at batch 1, median; None where it has none, or machines differ."""
        cells = [cell for cell in self.results.cells if cell.method == "full"]
        timings = [self.results.runs.companion("evaluate_batch1", cell, "timings") for cell in cells]
        found = [
            row["median_ms"] for one in timings for row in one.get("rows", ()) if row["method"] == "full"
        ]
        return median(found) if found and len(self.results.machines) == 1 else None

    def recommended(self, speed: Measure) -> tuple[Marked, float] | None:
        """Return the recommended model and its speed-up; None where it has none in this currency."""
        value = getattr(self.marked, speed.name, None)
        return None if self.marked is None or value is None else (self.marked, value)

    def timed_seeds(self, speed: Measure) -> str:
        """Name the seeds of a panel that shows some of them alone."""
        timed, seeds = self.results.params.evaluation.timed_seeds, self.results.params.seeds
        if speed.among != "timed" or not timed or len(timed) == len(seeds):
            return ""
        return f", seed{'s' if len(timed) > 1 else ''} {', '.join(map(str, timed))}"

    # ---- drawing -----------------------------------------------------------------------------------------------------

    def draw(self, axes: Axes, speed: Measure, series: Sequence[Series] | None = None) -> None:
        """Draw one panel, without names beside it."""
        series = self.series(speed) if series is None else series
        self._draw_goal(axes, speed)
        static = self.static(speed)
        axes.plot(
            static.x, static.y, marker="s", markersize=4.5, markerfacecolor="white", color=colour("static"),
            linestyle=":", linewidth=1.1, zorder=2,
        )  # fmt: skip
        for one in series:
            _draw_series(axes, one, speed, len(series))
        if not math.isnan(self.full_quality(speed)):
            axes.plot(1.0, self.full_quality(speed), "*", color="black", markersize=12, zorder=6)
        self._ring(axes, speed)
        axes.set_xlabel(speed.axis + self.timed_seeds(speed))
        axes.set_ylabel(f"{self.results.metric}, evaluation split")
        axes.margins(x=0.04, y=0.06)

    def labels(self, speed: Measure) -> list[Label]:
        """Return the names that stand beside a wide panel, at the fast end of each line."""
        found = [
            Label(one.name, colour(one.method), marker(one.method), one.places[-1])
            for one in self.series(speed)
        ]
        static = self.static(speed)
        if len(static):
            end = static.iloc[-1]
            found.append(Label(method_name("static"), colour("static"), "s", (end.x, end.y)))
        return found

    def _draw_goal(self, axes: Axes, speed: Measure) -> None:
        quality, loss = self.full_quality(speed), self.results.params.goal.max_loss
        if not math.isnan(quality):
            axes.axhline(
                quality - loss / 100, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1
            )

    def _ring(self, axes: Axes, speed: Measure) -> None:
        """Mark the recommended model: its own point, and a ring below all points, so that it hides none."""
        found = self.recommended(speed)
        if found is None:
            return
        marked, x = found
        axes.plot(
            x, marked.quality, "o", markersize=13, markerfacecolor="none", markeredgecolor="black", markeredgewidth=1.4,
            zorder=3.5,
        )  # fmt: skip
        axes.plot(
            x, marked.quality, marker(marked.method), markersize=5.5, color=colour(marked.method),
            markeredgecolor="white", markeredgewidth=0.7, zorder=4,
        )  # fmt: skip


def _draw_series(axes: Axes, one: Series, speed: Measure, lines: int) -> None:
    look = {"color": colour(one.method), "zorder": 4}
    if one.curve is not None:
        axes.plot(one.curve.speedup, one.curve.mean, linewidth=1.6 if lines <= 6 else 1.1, **look)
        draw_band(axes, one.curve, colour(one.method), lines)
    if len(one.points):
        timed = speed.among == "timed"
        bars = axes.errorbar(
            one.points.x, one.points.y, xerr=_intervals(one.points) if timed else None,
            marker=marker(one.method), markersize=5.5, markeredgecolor="white", markeredgewidth=0.7, elinewidth=0.8,
            linestyle="none" if one.curve is not None else "-", linewidth=0.7, **look,
        )  # fmt: skip
        for bar in bars[2]:
            bar.set(alpha=0.45, zorder=2.5)  # bars hide no points


def draw_band(axes: Axes, curve: Band, shade: str, lines: int) -> None:
    """Draw one standard deviation over seeds around a curve where it can be read."""
    if curve.std is not None and band_legible(curve.seeds, lines):
        low, high = curve.mean - curve.std, curve.mean + curve.std
        axes.fill_between(curve.speedup, low, high, color=shade, linewidth=0, alpha=0.14, zorder=2)


def quality_at(row: Any, speed: Measure) -> Any:
    """Return the quality that belongs to a speed-up: wall-clock is that of the timed seeds, which may be fewer."""
    return row.timed_quality if speed.among == "timed" else row.quality_mean


def _intervals(rows: pd.DataFrame) -> list[pd.Series]:
    """Return the lengths below and above of the wall-clock intervals, 0 where a row has none."""
    sides = (rows.wallclock_speedup - rows.wallclock_low, rows.wallclock_high - rows.wallclock_speedup)
    return [side.fillna(0.0).clip(lower=0.0) for side in sides]
