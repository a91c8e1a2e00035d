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
PLOT_INCHES, CHARACTER_INCHES = 2.6, 0.075


def draw_differences(comparisons: pd.DataFrame, folder: Path) -> list[str]:
    """Write ``TASK-BACKBONE-differences`` where there are comparisons; return the names.

    A panel for each standing reference, and one for the pairs that the params ask for.
    """
    names = []
    for (task, backbone), here in comparisons.groupby(PAIR, sort=False):
        standing = here.reference.where(here.reference.isin(STANDING_REFERENCES), PAIRS)
        panels = {name: here[standing == name] for name in (*STANDING_REFERENCES, PAIRS)}
        panels = {name: items for name, items in panels.items() if len(items)}
        labels = {name: [_label(item, name) for item in items.itertuples()] for name, items in panels.items()}
        widths = [PLOT_INCHES + CHARACTER_INCHES * max(map(len, lines)) for lines in labels.values()]
        height = 1.3 + 0.24 * max(map(len, panels.values()))
        with canvas(sum(widths), height, 1, len(panels)) as (figure, axes):
            for axis, (reference, items) in zip(axes, panels.items(), strict=True):
                _draw(axis, items, labels[reference])
                against = "of the two" if reference == PAIRS else f"to {method_name(reference).lower()}"
                axis.set_xlabel(f"difference {against}, {metric_name(here.metric.iloc[0])}")
            axes[0].set_title(f"{task}, {backbone}", loc="left")
            figure.supxlabel(_caption(here), fontsize=8)
            names.append(save(figure, folder, f"{task}-{backbone}-differences"))
    return names


def _label(item: Any, panel: str) -> str:
    other = f" − {method_name(item.reference)}" if panel == PAIRS else ""  # noqa: RUF001
    return f"{method_name(item.method)}{other}, {item.goal.words}"


def _draw(axes: Axes, items: pd.DataFrame, labels: Sequence[str]) -> None:
    for place, item in enumerate(items.itertuples()):
        axes.hlines(
            place, item.difference_low, item.difference_high, color=colour(item.method), linewidth=1.6
        )
        axes.plot(
            item.difference_mean, place, "o", markersize=6, markeredgecolor=colour(item.method),
            markerfacecolor=colour(item.method) if item.significant else "white",
        )  # fmt: skip
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(items)), labels)
    axes.locator_params(axis="x", nbins=5)
    axes.invert_yaxis()  # the table's order, from above
    axes.grid(visible=False, axis="y")


def _caption(items: pd.DataFrame) -> str:
    seeds = " or ".join(map(str, sorted({*items.seeds})))
    one = items.iloc[0]
    tested = f"filled: significant (Holm, {one.comparisons} comparisons)"
    return (
        f"{one.rows} rows, seeds: {seeds}; bar: 95 % interval, not corrected; "
        f"{tested if one.comparisons else f'not tested below {TESTABLE_SEEDS} seeds'}"
    )
