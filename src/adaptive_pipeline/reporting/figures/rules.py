"""The exit rules of each method against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from adaptive_pipeline.reporting.figures.coincide import joined_name
from adaptive_pipeline.reporting.figures.speed import SpeedPlot, draw_band
from adaptive_pipeline.reporting.figures.style import canvas, rule_colours, save
from adaptive_pipeline.reporting.measures import SPEEDS
from adaptive_pipeline.reporting.names import method_name, rule_key
from adaptive_pipeline.reporting.statistics.curve_area import Band

PANELS = 4  #: side by side, then a new line


def draw_rules(plot: SpeedPlot, folder: Path, name: str) -> list[str]:
    """Draw the rules of each method that has two that differ, against the goal's currency; rules that are one, once."""
    speed = next(measure for measure in SPEEDS if measure.stem == plot.results.cost)
    curves = {method: _curves(plot, method, speed.name) for method in plot.methods}
    curves = {method: rules for method, rules in curves.items() if len(rules) > 1}
    if not curves:
        return []
    groups = sorted(
        {group for rules in curves.values() for group in rules}, key=lambda group: rule_key(group[0])
    )
    colours = rule_colours(group[0] for group in groups)
    columns = min(len(curves), PANELS)
    lines = math.ceil(len(curves) / columns)
    size = max(5.0, 2.75 * columns), 0.6 + 2.2 * lines + 0.2 * math.ceil(len(groups) / columns)
    with canvas(*size, lines, columns, sharey=True, sharex=True) as (figure, panels):
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        for axes, (method, rules) in zip(panels, curves.items(), strict=False):
            for group, curve in rules.items():
                line = ":" if group[0] == "oracle" else "-"
                axes.plot(curve.speedup, curve.mean, line, color=colours[group[0]], linewidth=1.4)
                draw_band(axes, curve, colours[group[0]], len(rules))
            axes.set_title(method_name(method), loc="left")
            axes.xaxis.set_tick_params(labelbottom=True)  # a panel may have none below it
        for axes in panels[len(curves) - columns : len(curves)]:  # the lowest panel of each column
            axes.set_xlabel(speed.axis, fontsize=8.5)  # a supxlabel would lie below an outside legend
        for axes in panels[::columns]:
            axes.set_ylabel(f"{plot.results.metric}, evaluation")
        handles = [
            panels[0].plot([], [], ":" if group[0] == "oracle" else "-", color=colours[group[0]])[0]
            for group in groups
        ]
        figure.legend(
            handles, list(map(joined_name, groups)), loc="outside lower center", ncols=min(len(groups), 2 * columns),
            handlelength=1.8,
        )  # fmt: skip
        return [save(figure, folder, name)]


def _curves(plot: SpeedPlot, method: str, speed: str) -> Mapping[tuple[str, ...], Band]:
    """Return the method's rules, those that are one together, and their curve: that of the first which it runs."""
    found: dict[tuple[str, ...], Band] = {}
    for rule in sorted(plot.results.params.method(method).rule_names, key=rule_key):
        group = plot.same.get(rule, (rule,))
        if group not in found and (curve := plot.curve(method, rule, speed)) is not None:
            found[group] = curve
    return found
