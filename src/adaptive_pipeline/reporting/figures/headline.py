"""The figure that one decides by: quality against measured speed around the goal; and, below it, the wide views."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from adaptive_pipeline.reporting.choice import Choice
from adaptive_pipeline.reporting.figures.labels import Label, height_for, label_beside
from adaptive_pipeline.reporting.figures.rules import draw_rules
from adaptive_pipeline.reporting.figures.speed import Series, SpeedPlot
from adaptive_pipeline.reporting.figures.style import canvas, colour, drawing, marker, save
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.measures import Measure
from adaptive_pipeline.reporting.names import method_name, rule_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ZOOM = 4.0  #: points of quality below the goal that are shown
WIDTH = 9.0  #: inches; the letters are still read where a page shows it at 900 pixels
SIGNS = "star: full model, ring: recommended, dashes: goal"
STRIP = 0.2  #: share of the panel's height that is kept for words above the best point


def draw_speed(results: Results, choice: Choice, folder: Path, stem: str) -> list[str]:
    """Draw the headline, the wide view in each currency, both together, and the rules of each method."""
    plot = SpeedPlot(results, choice)
    zoomed = _headline_speed(plot)
    names = []
    if zoomed is not None:
        with canvas(WIDTH, _height(plot)) as (figure, (axes,)):
            draw_headline(plot, axes, zoomed)
            names.append(save(figure, folder, f"{stem}-headline"))
    for speed in plot.speeds:
        labels = plot.labels(speed)
        with canvas(7.6, height_for(len(labels), 3.7)) as (figure, (axes,)):
            plot.draw(axes, speed)
            axes.set_title(f"{results.title}; {SIGNS}", loc="left")
            label_beside(axes, labels)
            names.append(save(figure, folder, f"{stem}-quality_{speed.stem}"))
    if plot.speeds:
        names.append(_draw_overview(plot, zoomed, folder, f"{stem}-overview"))
    return names + draw_rules(plot, folder, f"{stem}-rules")


def _headline_speed(plot: SpeedPlot) -> Measure | None:
    """Return the currency of the headline: measured time, or that of the goal where the full model was not timed."""
    by = {speed.stem: speed for speed in plot.speeds}
    wanted = (by.get(stem) for stem in ("wallclock", plot.results.cost))
    return next((speed for speed in wanted if speed and not math.isnan(plot.full_quality(speed))), None)


def _draw_overview(plot: SpeedPlot, zoomed: Measure | None, folder: Path, name: str) -> str:
    """Draw the headline, if there is one, above the wide views."""
    top, low = 0.0 if zoomed is None else _height(plot), 2.5
    with drawing(WIDTH, top + low) as figure:
        parts = figure.subfigures(
            2 if top else 1, 1, squeeze=False, height_ratios=[top, low][-2 if top else -1 :]
        )[:, 0]
        panels = parts[-1].subplots(1, len(plot.speeds), sharey=True, squeeze=False)[0]
        for index, (axes, speed) in enumerate(zip(panels, plot.speeds, strict=True)):
            plot.draw(axes, speed)
            axes.set_xlabel(textwrap.fill(axes.get_xlabel(), 38), fontsize=8)
            axes.set_ylabel(plot.results.metric if index == 0 else "")
        words = "The wide view" if top else plot.results.title
        parts[-1].suptitle(f"{words}; {SIGNS}", x=0.01, ha="left", fontsize=9.5)
        if zoomed is not None:
            draw_headline(plot, parts[0].subplots(), zoomed)
        return save(figure, folder, name)


# ---- the headline ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """What part of a panel is shown: qualities and speed-ups."""

    low: float
    high: float
    slow: float
    fast: float

    def holds(self, x: float, y: float) -> bool:
        """Whether a point is in view."""
        return self.slow <= x <= self.fast and self.low <= y <= self.high


def draw_headline(plot: SpeedPlot, axes: Axes, speed: Measure) -> None:
    """Draw the panel around the goal, with names beside it, the Pareto line and the recommended model."""
    front = pareto(_candidates(plot, speed))
    series = plot.series(speed)
    window = _window(plot, speed, series, front)
    series = _with_front(
        series, front[[window.holds(x, y) for x, y in zip(front.x, front.y, strict=True)]], plot
    )
    plot.draw(axes, speed, series)
    _draw_front(axes, front)
    _zoom(axes, window)
    loss = plot.results.params.goal.max_loss
    level = plot.full_quality(speed) - loss / 100
    axes.annotate(
        f"goal: loses {loss:g} {'point' if loss == 1 else 'points'}", (0.0, level), xycoords=("axes fraction", "data"),
        xytext=(3, 2), textcoords="offset points", va="bottom", fontsize=7.5, color="#666666",
    )  # fmt: skip
    _name_full(axes, plot, speed)
    _name_recommended(axes, plot, speed, window)
    _add_milliseconds(axes, plot, speed)
    axes.set_title(f"{plot.results.title}: from {ZOOM:g} points below the goal up", loc="left")
    note = " ".join(filter(None, [plot.rule_note, _bars(speed), "Grey line: nothing measured beats it."]))
    axes.figure.supxlabel(textwrap.fill(note, 125), x=0.01, ha="left", fontsize=8)
    label_beside(axes, _labels(plot, speed, series, window))


def _bars(speed: Measure) -> str:
    return "Bars: 95 % intervals of the timing." if speed.among == "timed" else ""


def _height(plot: SpeedPlot) -> float:
    return 0.9 + height_for(len(plot.methods) + 3, 3.3)  # more: the second axis and the notes


def _candidates(plot: SpeedPlot, speed: Measure) -> pd.DataFrame:
    """Return every row that could be used: all rules but those that look at the labels."""
    return plot.drawable(speed, plot.rows.attainable.astype(bool))


def pareto(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows (places ``x``, ``y``) that no other beats in quality and speed, from slow to fast."""
    ranked = rows.sort_values(["x", "y"], ascending=False, kind="stable")
    best = ranked.y.cummax().shift(fill_value=-math.inf)
    return ranked[ranked.y > best][::-1]


def _with_front(series: Sequence[Series], front: pd.DataFrame, plot: SpeedPlot) -> list[Series]:
    """Add what stands on the front under another rule than the one that stands for its method."""
    found = {(one.method, one.rule): one for one in series}
    for (method, rule), points in front.groupby(["method", "rule"], sort=False):
        if method not in plot.rules or rule == plot.rules[method]:
            continue
        usual = found.get((method, plot.rules[method]))
        if usual is not None and rule in plot.same[usual.rule]:  # points of the same curve
            both = pd.concat([usual.points, points]).sort_values("x", kind="stable")
            found[method, usual.rule] = replace(usual, points=both)
        else:
            found[method, rule] = Series(method, rule, points, named=True)
    return list(found.values())


def _window(plot: SpeedPlot, speed: Measure, series: Sequence[Series], front: pd.DataFrame) -> Window:
    """Return what is shown: from `ZOOM` points below the goal up, less where nothing lies.

    The full and the recommended model are always in view, and so is all that is better: it is what one would rather take.
    """
    full, points = plot.full_quality(speed), plot.results.params.goal.max_loss / 100
    must = [(1.0, full)]
    if (found := plot.recommended(speed)) is not None:
        must.append((found[1], found[0].quality))
    low = min(full - points - ZOOM / 100, *(y for _, y in must))
    every = [place for one in series for place in one.places]
    every += [place for rows in (plot.static(speed), front) for place in zip(rows.x, rows.y, strict=True)]
    near = np.array([*must, *(place for place in every if low <= place[1])])
    bottom, top = min(near[:, 1].min(), full - points), near[:, 1].max()
    pad = 0.06 * max(top - bottom, 0.005)
    aside = 0.05 * max(np.ptp(near[:, 0]), 0.1)
    return Window(bottom - pad, top + pad, near[:, 0].min() - aside, near[:, 0].max() + aside)


def _zoom(axes: Axes, window: Window) -> None:
    strip = (window.high - window.low) * STRIP / (1 - STRIP)
    axes.set(xlim=(window.slow, window.fast), ylim=(window.low, window.high + strip))


def _draw_front(axes: Axes, front: pd.DataFrame) -> None:
    """Draw the Pareto line as steps: a faster model is also one that is fast enough."""
    axes.plot(
        front.x, front.y, drawstyle="steps-pre", color="#9a9a9a", linewidth=4.0, alpha=0.35, zorder=1.2,
        solid_joinstyle="round",
    )  # fmt: skip


def _name_full(axes: Axes, plot: SpeedPlot, speed: Measure) -> None:
    time = plot.full_milliseconds if speed.among == "timed" else None
    words = method_name("full") + (f", {time:.3g} ms" if time else "")
    axes.annotate(
        words,
        (1.0, plot.full_quality(speed)),
        xytext=(-4, 8),
        textcoords="offset points",
        fontsize=8,
        va="bottom",
    )


def _name_recommended(axes: Axes, plot: SpeedPlot, speed: Measure, window: Window) -> None:
    """Name the recommended model at the top of the panel, with a line down to its ring; or say why there is none."""
    found = plot.recommended(speed)
    if found is None and not plot.known:
        return
    if found is None:
        what = "the full model" if plot.marked is None else f"{_marked_name(plot)} (not timed)"
        axes.annotate(
            f"recommended: {what}", (0.99, 0.985), xycoords="axes fraction", ha="right", va="top", fontsize=8.5,
            fontweight="bold",
        )  # fmt: skip
        return
    marked, x = found
    time = f", {marked.milliseconds:.3g} ms" if speed.among == "timed" and marked.milliseconds else ""
    side = min(2, int(3 * (x - window.slow) / (window.fast - window.slow)))
    axes.annotate(
        f"recommended, {x:.2f}×{time}:\n{_marked_name(plot)}", (x, marked.quality), xytext=(x, 0.985),
        textcoords=("data", "axes fraction"), ha=("left", "center", "right")[side], va="top", fontsize=8.5,
        fontweight="bold",
        arrowprops={
            "arrowstyle": "-", "linewidth": 0.7, "color": "black", "shrinkA": 0, "shrinkB": 7, "relpos": (side / 2, 0),
        },
    )  # fmt: skip


def _marked_name(plot: SpeedPlot) -> str:
    marked = plot.marked
    assert marked is not None
    rule = "" if marked.rule == "fixed" else f", {rule_name(marked.rule)}"
    seed = f", seed {marked.seed}" if len(plot.results.params.seeds) > 1 else ""
    return method_name(marked.method) + rule + seed


def _add_milliseconds(axes: Axes, plot: SpeedPlot, speed: Measure) -> None:
    """Add a second axis: what a speed-up is in time, where the full model's is known."""
    time = plot.full_milliseconds
    if speed.among != "timed" or time is None:
        return

    # A round number of milliseconds would crowd at the slow end: each tick of the speed-up says its own.
    second = axes.secondary_xaxis("top")
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high and tick > 0]
    second.set_xticks(ticks, [f"{time / tick:.3g}" for tick in ticks])
    second.set_xlabel("about this many milliseconds per text", fontsize=8)
    second.tick_params(labelsize=8)
    second.grid(visible=False)


def _labels(plot: SpeedPlot, speed: Measure, series: Sequence[Series], window: Window) -> list[Label]:
    """Return the names beside the panel: of what is in view at its fast end, of the rest with where it lies."""
    found = []
    for one in series:
        look = colour(one.method), marker(one.method)
        inside = [place for place in one.places if window.holds(*place)]
        if inside:
            found.append(Label(one.name, *look, inside[-1]))
        else:
            x, y = one.places[0]
            found.append(Label(f"{one.name} ↓ {y:.3f} at {x:.2f}×", *look, None))
    static = plot.static(speed)
    places = [place for place in zip(static.x, static.y, strict=True) if window.holds(*place)]
    if places:
        found.append(Label(method_name("static"), colour("static"), "s", places[-1]))
    return found
