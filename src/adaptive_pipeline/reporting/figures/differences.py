"""Forest plot of the paired differences: who is better than a reference at an equal budget, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.reporting.figures.style import canvas, colour, save
from adaptive_pipeline.reporting.frame import PAIR
from adaptive_pipeline.reporting.names import method_name
from adaptive_pipeline.reporting.statistics.comparisons import STANDING_REFERENCES, TESTABLE_SEEDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The panel of pairs that the params ask for (``methods.NAME.references``).
PAIRS = ""
#: A panel is as wide as its longest label and the plot beside it.
PLOT_INCHES, CHARACTER_INCHES = 2.4, 0.07


def draw_differences(comparisons: pd.DataFrame, folder: Path) -> list[str]:
    """Write ``TASK-BACKBONE-differences`` where there are comparisons; return the names.

    A panel for each standing reference, and one for the pairs that the params ask for.
    """
    names = []
    for (task, backbone), here in comparisons.groupby(PAIR, sort=False):
        standing = here.reference.where(here.reference.isin(STANDING_REFERENCES), PAIRS)
        panels = {name: here[standing == name] for name in (*STANDING_REFERENCES, PAIRS)}
        panels = {name: items for name, items in panels.items() if len(items)}
        lines = {name: _lines(items, name) for name, items in panels.items()}
        longest = max(map(len, lines.values()))
        widths = [
            PLOT_INCHES + CHARACTER_INCHES * max(len(text) for text, _ in found) for found in lines.values()
        ]
        options = {"gridspec_kw": {"width_ratios": widths}}
        with canvas(sum(widths), 1.3 + 0.21 * longest, 1, len(panels), **options) as (figure, axes):
            for axis, (reference, found) in zip(axes, lines.items(), strict=True):
                _draw(axis, found)
                axis.set_ylim(longest - 0.4, -0.6)  # the table's order, from above; equally dense
                against = "of the two" if reference == PAIRS else f"to {method_name(reference).lower()}"
                axis.set_xlabel(f"difference {against}, {metric_name(here.metric.iloc[0])}")
            axes[0].set_title(f"{task}, {backbone}", loc="left")
            figure.supxlabel(_caption(here), fontsize=8)
            names.append(save(figure, folder, f"{task}-{backbone}-differences"))
    return names


def _lines(items: pd.DataFrame, panel: str) -> list[tuple[str, Any]]:
    """Return the lines of a panel: text, and the comparison; None for the goal, which heads its comparisons."""
    found: list[tuple[str, Any]] = []
    for goal, own in items.groupby("goal", sort=False):
        found.append((f"{goal.words}:", None))
        found += [(_label(item, panel), item) for item in own.itertuples()]
    return found


def _label(item: Any, panel: str) -> str:
    other = f" − {method_name(item.reference)}" if panel == PAIRS else ""  # noqa: RUF001
    return f"{method_name(item.method)}{other}"


def _draw(axes: Axes, lines: Sequence[tuple[str, Any]]) -> None:
    for place, (_, item) in enumerate(lines):
        if item is None:
            continue
        axes.hlines(
            place, item.difference_low, item.difference_high, color=colour(item.method), linewidth=1.6
        )
        axes.plot(
            item.difference_mean, place, "o", markersize=6, markeredgecolor=colour(item.method),
            markerfacecolor=colour(item.method) if item.significant else "white",
        )  # fmt: skip
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [text for text, _ in lines])
    for tick, (_, item) in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("normal" if item else "bold")
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(visible=False, axis="y")


def _caption(items: pd.DataFrame) -> str:
    seeds = " or ".join(map(str, sorted({*items.seeds})))
    one = items.iloc[0]
    tested = f"filled: significant (Holm, {one.comparisons} comparisons)"
    return (
        f"{one.rows} rows, seeds: {seeds}; bar: 95 % interval, not corrected; "
        f"{tested if one.comparisons else f'not tested below {TESTABLE_SEEDS} seeds'}"
    )
