"""Forest plot of the paired differences: who is better than a reference at an equal budget, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.reporting.comparisons import STANDING_REFERENCES, Comparison
from adaptive_pipeline.reporting.names import method_name, point_name
from adaptive_pipeline.reporting.style import canvas, colour, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The panel of pairs that the params ask for (``methods.NAME.references``).
PAIRS = ""
#: A panel is as wide as its longest label and the plot beside it.
PLOT_INCHES, CHARACTER_INCHES = 2.6, 0.075


def draw_differences(comparisons: Sequence[Comparison], folder: Path) -> list[str]:
    """Write ``TASK-BACKBONE-differences`` where there are comparisons; return the names.

    A panel for each standing reference, and one for the pairs that the params ask for.
    """
    names = []
    for task, backbone in dict.fromkeys((item.task, item.backbone) for item in comparisons):
        here = [item for item in comparisons if (item.task, item.backbone) == (task, backbone)]
        panels = {name: [item for item in here if item.reference == name] for name in STANDING_REFERENCES}
        panels[PAIRS] = [item for item in here if item.reference not in STANDING_REFERENCES]
        panels = {name: items for name, items in panels.items() if items}
        lines = max(map(len, panels.values()))
        labels = {
            name: [_label(item, pair=name == PAIRS) for item in items] for name, items in panels.items()
        }
        widths = [PLOT_INCHES + CHARACTER_INCHES * max(map(len, lines_of)) for lines_of in labels.values()]
        with canvas(sum(widths), 1.3 + 0.24 * lines, 1, len(panels)) as (figure, axes):
            for axis, (reference, items) in zip(axes, panels.items(), strict=True):
                _draw(axis, items, labels[reference])
                against = "of the two" if reference == PAIRS else f"to {method_name(reference).lower()}"
                axis.set_xlabel(f"difference {against}, {metric_name(here[0].metric)}")
            axes[0].set_title(f"{task}, {backbone}", loc="left")
            figure.supxlabel(_caption(here), fontsize=8)
            save(figure, folder, f"{task}-{backbone}-differences")
        names.append(f"{task}-{backbone}-differences")
    return names


def _label(item: Comparison, pair: bool) -> str:
    other = f" − {method_name(item.reference)}" if pair else ""  # noqa: RUF001
    return f"{method_name(item.method)}{other}, {point_name(item.goal)}"


def _draw(axes: Axes, items: Sequence[Comparison], labels: Sequence[str]) -> None:
    for place, item in enumerate(items):
        axes.plot(
            [item.difference_low, item.difference_high],
            [place, place],
            color=colour(item.method),
            linewidth=1.6,
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


def _caption(items: Sequence[Comparison]) -> str:
    seeds = sorted({item.seeds for item in items})
    return (
        f"{items[0].rows} rows, seeds: {' or '.join(map(str, seeds))}; bar: 95 % interval, not corrected; "
        f"filled: significant (Holm, {items[0].comparisons} comparisons)"
    )
