"""Quality against speed: curves with seed bands, operating points, the full model and the static baselines."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.reporting.aggregate import Row, shown_rule
from adaptive_pipeline.reporting.bands import Band, band
from adaptive_pipeline.reporting.collect import Results
from adaptive_pipeline.reporting.diagrams import draw_exit_quality, draw_exits, draw_reliability
from adaptive_pipeline.reporting.names import method_key, method_name, rule_key, rule_name, static_layers
from adaptive_pipeline.reporting.recommendation import Choice
from adaptive_pipeline.reporting.style import canvas, colour, marker, rule_colours, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Speed-up column -> (file name's end, axis label).
SPEEDS = {
    "layers_speedup": ("layers", "fewer layers than the full model (×)"),
    "flops_speedup": ("flops", "fewer FLOPs than the full model (×)"),
    "wallclock_speedup": ("wallclock", "faster than the full model, batch 1, measured (×)"),
}
PANELS = 5  #: side by side, then a new line


def draw_figures(results: Results, rows: Sequence[Row], choices: Sequence[Choice], folder: Path) -> list[str]:
    """Write every figure that has data, PNG and SVG, and return their names (``TASK-BACKBONE-KIND``)."""
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for task, backbone in results.pairs():
        here = [row for row in rows if (row.task, row.backbone) == (task, backbone)]
        choice = next((c for c in choices if (c.task, c.backbone) == (task, backbone)), None)
        plot = SpeedPlot(results, here, choice, task, backbone)
        stem = f"{task}-{backbone}"
        speeds = [
            speed
            for speed in SPEEDS
            if any(getattr(row, speed) is not None for row in here if row.method != "full")
        ]
        for speed in speeds:
            with canvas(6.2, 3.7) as (figure, (axes,)):
                plot.draw(axes, speed)
                axes.set_title(f"{task}, {backbone}", loc="left")
                legend(figure, axes, columns=3)
                save(figure, folder, f"{stem}-quality_{SPEEDS[speed][0]}")
            names.append(f"{stem}-quality_{SPEEDS[speed][0]}")
        if len(speeds) > 1:
            with canvas(3.55 * len(speeds), 3.3, 1, len(speeds), sharey=True) as (figure, panels):
                for index, (axes, speed) in enumerate(zip(panels, speeds, strict=True)):
                    plot.draw(axes, speed, words=index == 0)
                    axes.set_ylabel(axes.get_ylabel() if index == 0 else "")
                legend(figure, panels[0], columns=4 if len(speeds) > 2 else 3)
                save(figure, folder, f"{stem}-overview")
            names.append(f"{stem}-overview")
        names += _draw_rules(plot, folder, stem)
        names += draw_exit_quality(results, task, backbone, folder, f"{stem}-exit_quality")
        names += draw_exits(results, task, backbone, folder, f"{stem}-exits")
        names += draw_reliability(results, task, backbone, folder, f"{stem}-reliability")
    return names


class SpeedPlot:
    """What is drawn of one task and backbone: each method with one rule, plus the recommended row."""

    def __init__(
        self, results: Results, rows: Sequence[Row], choice: Choice | None, task: str, backbone: str
    ) -> None:
        self.results, self.rows, self.choice = results, rows, choice
        self.task, self.backbone = task, backbone
        self.full = next((row for row in rows if row.method == "full" and row.quality_mean is not None), None)
        self.methods = sorted(
            {row.method for row in rows if row.method != "full" and static_layers(row.method) is None},
            key=method_key,
        )

    def rule(self, method: str) -> str:
        """Return the attainable rule that stands for the method; see `shown_rule`."""
        reached = {
            (row.rule, row.operating_point): row.seeds
            for row in self.rows
            if row.method == method and row.attainable
        }
        return shown_rule(self.results.params.method(method).rules, reached) or "fixed"

    def curve(self, method: str, rule: str, speed: str) -> Band | None:
        """Return a method's curve over seeds; None for wall-clock, which is measured at operating points only."""
        curves = [
            files.curves[rule]
            for files in self.results.cells
            if (files.cell.task, files.cell.backbone, files.cell.method) == (self.task, self.backbone, method)
            and speed in files.curves.get(rule, {})
        ]
        return band([curve[speed] for curve in curves], [curve["quality"] for curve in curves])

    def draw(self, axes: Axes, speed: str, words: bool = True) -> None:
        """Draw one panel; ``words``: with the labels that one panel of a row of them is enough for."""
        self._draw_goal(axes, speed, words)
        self._draw_static(axes, speed)
        for method in self.methods:
            self._draw_method(axes, method, speed)
        if self.full is not None and quality_at(self.full, speed) is not None:
            axes.plot(
                1.0, quality_at(self.full, speed), "*", color="black", markersize=12, label=method_name("full"), zorder=6,
                linestyle="none",
            )  # fmt: skip
        self._ring(axes, speed)
        axes.set_xlabel(SPEEDS[speed][1] + self._timed_seeds(speed))
        axes.set_ylabel(f"{metric_name(self.rows[0].metric) if self.rows else 'quality'}, evaluation split")
        axes.margins(x=0.04, y=0.06)

    def _timed_seeds(self, speed: str) -> str:
        """Name the seeds of a panel that shows some of them alone."""
        timed, seeds = self.results.params.evaluation.timed_seeds, self.results.params.seeds
        if speed != "wallclock_speedup" or not timed or len(timed) == len(seeds):
            return ""
        return f", seed{'s' if len(timed) > 1 else ''} {', '.join(map(str, timed))}"

    def _draw_goal(self, axes: Axes, speed: str, words: bool) -> None:
        quality = None if self.full is None else quality_at(self.full, speed)
        if quality is None:
            return
        loss = self.results.params.goal.max_loss
        level = quality - loss / 100
        axes.axhline(level, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        if words:
            axes.annotate(
                f"full − {loss:g} {'point' if loss == 1 else 'points'}", (1.0, level), xycoords=("axes fraction", "data"),
                xytext=(0, 2.5), textcoords="offset points", ha="right", va="bottom", fontsize=7.5, color="#777777",
            )  # fmt: skip

    def _draw_static(self, axes: Axes, speed: str) -> None:
        rows = [
            row
            for row in self.rows
            if static_layers(row.method) is not None
            and getattr(row, speed) is not None
            and quality_at(row, speed) is not None
        ]
        if rows:
            rows.sort(key=lambda row: getattr(row, speed))
            axes.plot(
                [getattr(row, speed) for row in rows], [quality_at(row, speed) for row in rows], marker="s",
                markersize=4.5, markerfacecolor="white", color=colour("static"), linestyle=":", linewidth=1.1, zorder=2,
                label=method_name("static"),
            )  # fmt: skip

    def _draw_method(self, axes: Axes, method: str, speed: str) -> None:
        rule = self.rule(method)
        name = f"{method_name(method)} ({rule_name(rule)})"
        points = [
            row
            for row in self.rows
            if (row.method, row.rule) == (method, rule)
            and getattr(row, speed) is not None
            and quality_at(row, speed) is not None
        ]
        curve = self.curve(method, rule, speed)
        style = {"color": colour(method), "zorder": 4}
        if curve is not None:
            axes.plot(curve.speedup, curve.mean, **style)
            if curve.std is not None:
                axes.fill_between(
                    curve.speedup, curve.mean - curve.std, curve.mean + curve.std, color=colour(method), alpha=0.16,
                    linewidth=0, zorder=2,
                )  # fmt: skip
        points.sort(key=lambda row: getattr(row, speed))
        if points:
            axes.errorbar(
                [getattr(row, speed) for row in points], [quality_at(row, speed) for row in points],
                xerr=_intervals(points) if speed == "wallclock_speedup" else None,
                yerr=[_spread_at(row, speed) for row in points] if curve is None else None,
                marker=marker(method), markersize=5.5, markeredgecolor="white", markeredgewidth=0.7, elinewidth=0.9,
                linestyle="none" if curve is not None else "-", linewidth=0.7, **style,
            )  # fmt: skip
        if points or curve is not None:
            axes.plot(
                [], [], marker=marker(method), markersize=5.5, markeredgecolor="white", label=name, **style
            )

    def _ring(self, axes: Axes, speed: str) -> None:
        row = self.choice.row if self.choice and self.choice.faster else None
        if row is not None and getattr(row, speed) is not None and quality_at(row, speed) is not None:
            axes.plot(
                getattr(row, speed), quality_at(row, speed), "o", markersize=12, markerfacecolor="none", linestyle="none",
                markeredgecolor="black", markeredgewidth=1.1, zorder=7, label="Recommended",
            )  # fmt: skip


def quality_at(row: Row, speed: str) -> float | None:
    """Return the quality that belongs to a speed-up: wall-clock is that of the timed seeds, which may be fewer."""
    return row.timed_quality if speed == "wallclock_speedup" else row.quality_mean


def _spread_at(row: Row, speed: str) -> float:
    """Return the spread over seeds, 0 where those shown are not all."""
    fewer = speed == "wallclock_speedup" and row.timed_seeds != row.seeds
    return 0.0 if fewer else row.quality_std or 0.0


def _intervals(rows: Sequence[Row]) -> list[list[float]]:
    """Return the lengths below and above of the wall-clock intervals, 0 where a row has none."""
    below, above = [], []
    for row in rows:
        middle = row.wallclock_speedup or 0.0
        below.append(max(0.0, middle - (middle if row.wallclock_low is None else row.wallclock_low)))
        above.append(max(0.0, (middle if row.wallclock_high is None else row.wallclock_high) - middle))
    return [below, above]


def legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Put the legend below all panels, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(columns, len(handles)), handlelength=1.8
        )


def _draw_rules(plot: SpeedPlot, folder: Path, stem: str) -> list[str]:
    """Draw the rules of each method that is run with several of them."""
    curves = {
        method: {
            rule: curve
            for rule in sorted(plot.results.params.method(method).rules, key=rule_key)
            if (curve := plot.curve(method, rule, "layers_speedup")) is not None
        }
        for method in plot.methods
    }
    curves = {method: rules for method, rules in curves.items() if len(rules) > 1}
    if not curves:
        return []
    colours = rule_colours({rule for rules in curves.values() for rule in rules})
    columns = min(len(curves), PANELS)
    lines = math.ceil(len(curves) / columns)
    with canvas(3.4 * columns, 0.4 + 2.7 * lines, lines, columns, sharey=True, sharex=True) as (
        figure,
        panels,
    ):
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        drawn: set[str] = set()
        for axes, (method, rules) in zip(panels, curves.items(), strict=False):
            for rule, curve in rules.items():
                label = None if rule in drawn else rule_name(rule)
                line = ":" if rule == "oracle" else "-"
                axes.plot(curve.speedup, curve.mean, line, color=colours[rule], linewidth=1.4, label=label)
                if curve.std is not None:
                    axes.fill_between(
                        curve.speedup, curve.mean - curve.std, curve.mean + curve.std, color=colours[rule], alpha=0.12,
                        linewidth=0,
                    )  # fmt: skip
                drawn.add(rule)
            axes.set_title(method_name(method), loc="left")
            axes.xaxis.set_tick_params(labelbottom=True)  # a panel may have none below it
        for axes in panels[len(curves) - columns : len(curves)]:  # the lowest panel of each column
            axes.set_xlabel(SPEEDS["layers_speedup"][1])  # a supxlabel would lie below an outside legend
        for axes in panels[::columns]:
            axes.set_ylabel(f"{metric_name(plot.rows[0].metric)}, evaluation split")
        figure.legend(loc="outside lower center", ncols=min(len(drawn), 2 * columns), handlelength=1.8)
        save(figure, folder, f"{stem}-rules")
    return [f"{stem}-rules"]
