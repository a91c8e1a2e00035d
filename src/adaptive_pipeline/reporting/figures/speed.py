"""Quality against speed: curves with seed bands, operating points, the full model and the static baselines."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from adaptive_inference.calibration.operating_point import static_layers
from adaptive_pipeline.reporting.choice import Choice
from adaptive_pipeline.reporting.figures.shown import shown_rule
from adaptive_pipeline.reporting.figures.style import canvas, colour, legend, marker, rule_colours, save
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.measures import SPEEDS, Measure
from adaptive_pipeline.reporting.names import method_key, method_name, rule_key, rule_name
from adaptive_pipeline.reporting.statistics.curve_area import Band, band

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 5  #: side by side, then a new line


def draw_speed(results: Results, choice: Choice, folder: Path, stem: str) -> list[str]:
    """Draw quality against each speed-up that was measured, all of them side by side, and the rules of each method."""
    plot = SpeedPlot(results, choice)
    others = plot.rows[plot.rows.method != "full"]
    speeds = [speed for speed in SPEEDS if others[speed.name].notna().any()]
    names = []
    for speed in speeds:
        with canvas(6.2, 3.7) as (figure, (axes,)):
            plot.draw(axes, speed)
            axes.set_title(results.title, loc="left")
            legend(axes, columns=3)
            names.append(save(figure, folder, f"{stem}-quality_{speed.stem}"))
    if len(speeds) > 1:
        with canvas(3.55 * len(speeds), 3.3, 1, len(speeds), sharey=True) as (figure, panels):
            for index, (axes, speed) in enumerate(zip(panels, speeds, strict=True)):
                plot.draw(axes, speed, words=index == 0)
                axes.set_ylabel(axes.get_ylabel() if index == 0 else "")
            legend(panels[0], columns=4 if len(speeds) > 2 else 3)
            names.append(save(figure, folder, f"{stem}-overview"))
    return names + _draw_rules(plot, folder, f"{stem}-rules")


class SpeedPlot:
    """What is drawn of one task and backbone: each method with one rule, plus the recommended row."""

    def __init__(self, results: Results, choice: Choice) -> None:
        self.results, self.rows, self.choice = results, (rows := results.main), choice
        measured = rows[(rows.method == "full") & rows.quality_mean.notna()]
        self.full = next(measured.itertuples(), None)
        others = {method for method in rows.method if method != "full" and static_layers(method) is None}
        self.methods = sorted(others, key=method_key)

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

    def draw(self, axes: Axes, speed: Measure, words: bool = True) -> None:
        """Draw one panel; ``words``: with the labels that one panel of a row of them is enough for."""
        self._draw_goal(axes, speed, words)
        static = self._drawable(speed, [static_layers(method) is not None for method in self.rows.method])
        if len(static):
            axes.plot(
                static.x, static.y, marker="s", markersize=4.5, markerfacecolor="white", color=colour("static"),
                linestyle=":", linewidth=1.1, zorder=2, label=method_name("static"),
            )  # fmt: skip
        for method in self.methods:
            self._draw_method(axes, method, speed)
        if self.full is not None and pd.notna(quality_at(self.full, speed)):
            axes.plot(
                1.0, quality_at(self.full, speed), "*", color="black", markersize=12, label=method_name("full"), zorder=6,
                linestyle="none",
            )  # fmt: skip
        self._ring(axes, speed)
        axes.set_xlabel(speed.axis + self._timed_seeds(speed))
        axes.set_ylabel(f"{self.results.metric}, evaluation split")
        axes.margins(x=0.04, y=0.06)

    def _drawable(self, speed: Measure, which: Any) -> pd.DataFrame:
        """Return the rows that have a place in a panel, from slow to fast, with their place ``x``, ``y``."""
        rows = self.rows[which]
        rows = rows.assign(x=rows[speed.name], y=quality_at(rows, speed))
        return rows[rows.x.notna() & rows.y.notna()].sort_values("x", kind="stable")

    def _timed_seeds(self, speed: Measure) -> str:
        """Name the seeds of a panel that shows some of them alone."""
        timed, seeds = self.results.params.evaluation.timed_seeds, self.results.params.seeds
        if speed.among != "timed" or not timed or len(timed) == len(seeds):
            return ""
        return f", seed{'s' if len(timed) > 1 else ''} {', '.join(map(str, timed))}"

    def _draw_goal(self, axes: Axes, speed: Measure, words: bool) -> None:
        quality = math.nan if self.full is None else quality_at(self.full, speed)
        if pd.isna(quality):
            return
        loss = self.results.params.goal.max_loss
        level = quality - loss / 100
        axes.axhline(level, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        if words:
            axes.annotate(
                f"full − {loss:g} {'point' if loss == 1 else 'points'}", (1.0, level), xycoords=("axes fraction", "data"),
                xytext=(0, 2.5), textcoords="offset points", ha="right", va="bottom", fontsize=7.5, color="#777777",
            )  # fmt: skip

    def _draw_method(self, axes: Axes, method: str, speed: Measure) -> None:
        rule = self.rule(method)
        points = self._drawable(speed, (self.rows.method == method) & (self.rows.rule == rule))
        curve = self.curve(method, rule, speed.name)
        style = {"color": colour(method), "zorder": 4}
        if curve is not None:
            axes.plot(curve.speedup, curve.mean, **style)
            _fill(axes, curve, colour(method), alpha=0.16, zorder=2)
        if len(points):
            axes.errorbar(
                points.x, points.y,
                xerr=_intervals(points) if speed.among == "timed" else None,
                yerr=_spreads(points, speed) if curve is None else None,
                marker=marker(method), markersize=5.5, markeredgecolor="white", markeredgewidth=0.7, elinewidth=0.9,
                linestyle="none" if curve is not None else "-", linewidth=0.7, **style,
            )  # fmt: skip
        if len(points) or curve is not None:
            name = f"{method_name(method)} ({rule_name(rule)})"
            axes.plot(
                [], [], marker=marker(method), markersize=5.5, markeredgecolor="white", label=name, **style
            )

    def _ring(self, axes: Axes, speed: Measure) -> None:
        row = self.choice.row
        if not self.choice.faster or pd.isna(getattr(row, speed.name)) or pd.isna(quality_at(row, speed)):
            return
        axes.plot(
            getattr(row, speed.name), quality_at(row, speed), "o", markersize=12, markerfacecolor="none", linestyle="none",
            markeredgecolor="black", markeredgewidth=1.1, zorder=7, label="Recommended",
        )  # fmt: skip


def quality_at(row: Any, speed: Measure) -> Any:
    """Return the quality that belongs to a speed-up: wall-clock is that of the timed seeds, which may be fewer."""
    return row.timed_quality if speed.among == "timed" else row.quality_mean


def _fill(axes: Axes, curve: Band, colour: str, **look: Any) -> None:
    """Draw one standard deviation over seeds around a curve."""
    if curve.std is not None:
        low, high = curve.mean - curve.std, curve.mean + curve.std
        axes.fill_between(curve.speedup, low, high, color=colour, linewidth=0, **look)


def _spreads(rows: pd.DataFrame, speed: Measure) -> pd.Series:
    """Return the spread over seeds, 0 where those shown are not all."""
    whole = speed.among != "timed" or rows.timed_seeds == rows.seeds
    return rows.quality_std.where(whole, 0.0).fillna(0.0)


def _intervals(rows: pd.DataFrame) -> list[pd.Series]:
    """Return the lengths below and above of the wall-clock intervals, 0 where a row has none."""
    sides = (rows.wallclock_speedup - rows.wallclock_low, rows.wallclock_high - rows.wallclock_speedup)
    return [side.fillna(0.0).clip(lower=0.0) for side in sides]


def _draw_rules(plot: SpeedPlot, folder: Path, name: str) -> list[str]:
    """Draw the rules of each method that is run with several of them, against the goal's currency."""
    speed = next(measure for measure in SPEEDS if measure.stem == plot.results.cost)
    curves: Mapping[str, Mapping[str, Band]] = {
        method: {
            rule: curve
            for rule in sorted(plot.results.params.method(method).rule_names, key=rule_key)
            if (curve := plot.curve(method, rule, speed.name)) is not None
        }
        for method in plot.methods
    }
    curves = {method: rules for method, rules in curves.items() if len(rules) > 1}
    if not curves:
        return []
    colours = rule_colours({rule for rules in curves.values() for rule in rules})
    columns = min(len(curves), PANELS)
    lines = math.ceil(len(curves) / columns)
    size = 3.4 * columns, 0.4 + 2.7 * lines
    with canvas(*size, lines, columns, sharey=True, sharex=True) as (figure, panels):
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        drawn: set[str] = set()
        for axes, (method, rules) in zip(panels, curves.items(), strict=False):
            for rule, curve in rules.items():
                label = None if rule in drawn else rule_name(rule)
                line = ":" if rule == "oracle" else "-"
                axes.plot(curve.speedup, curve.mean, line, color=colours[rule], linewidth=1.4, label=label)
                _fill(axes, curve, colours[rule], alpha=0.12)
                drawn.add(rule)
            axes.set_title(method_name(method), loc="left")
            axes.xaxis.set_tick_params(labelbottom=True)  # a panel may have none below it
        for axes in panels[len(curves) - columns : len(curves)]:  # the lowest panel of each column
            axes.set_xlabel(speed.axis)  # a supxlabel would lie below an outside legend
        for axes in panels[::columns]:
            axes.set_ylabel(f"{plot.results.metric}, evaluation split")
        figure.legend(loc="outside lower center", ncols=min(len(drawn), 2 * columns), handlelength=1.8)
        return [save(figure, folder, name)]
