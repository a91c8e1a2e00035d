"""Names beside the lines they belong to: a column right of a panel, in the order of the ends, none upon another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_INCHES = 0.155  #: from one name to the next
SIZE = 8.0  #: of the letters, points


@dataclass(frozen=True)
class Label:
    """A name, and where its line or points end.

    Attributes
    ----------
    place
        In the panel's data; None: not in the panel, so that the name stands below the others, without a line to it.
    """

    text: str
    colour: str
    marker: str
    place: tuple[float, float] | None


def height_for(labels: int, least: float) -> float:
    """Return the height of a figure (inches) with room for so many names beside its panel."""
    return max(least, 1.1 + LINE_INCHES * labels)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return places in [0, 1] as near to the wanted ones as a gap between any two allows, in the same order.

    Names that want one place are centred on it. Where [0, 1] is too small for all, they run out of it at the top.
    """
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    blocks: list[tuple[float, int]] = []  # mean of the wanted places less the gaps below, names
    for below, i in enumerate(order):
        mean, count = wanted[i] - below * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, more = blocks.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        blocks.append((mean, count))
    highest = max(0.0, 1.0 - gap * (len(order) - 1))
    starts = [min(max(mean, 0.0), highest) for mean, count in blocks for _ in range(count)]
    places = dict(zip(order, (start + gap * below for below, start in enumerate(starts)), strict=True))
    return [places[i] for i in range(len(wanted))]


def label_beside(axes: Axes, labels: Sequence[Label]) -> None:
    """Write the names right of a panel, each with its marker and dots to where its curve ends: a line would pass for data.

    Call it last: it solves the layout, to know how high the panel is and where its limits lie.
    """
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure(root=True)
    right = axes.transAxes + ScaledTranslation(10 / 72, 0, figure.dpi_scale_trans)
    texts = [
        axes.annotate(
            label.text, (1.0, 0.5), xycoords="axes fraction", xytext=(18, 0), textcoords="offset points", va="center",
            color=label.colour, fontsize=SIZE,
        )
        for label in labels
    ]  # fmt: skip
    figure.draw_without_rendering()  # with the names' widths
    gap = LINE_INCHES * figure.dpi / axes.get_window_extent().height
    to_panel = axes.transData + axes.transAxes.inverted()
    ends = [None if label.place is None else to_panel.transform(label.place) for label in labels]
    wanted = [-1.0 - i if end is None else float(np.clip(end[1], 0.0, 1.0)) for i, end in enumerate(ends)]
    places = spread(wanted, gap)
    for label, text, end, place in zip(labels, texts, ends, places, strict=True):
        text.xy = (1.0, place)
        axes.plot(
            [1.0], [place], marker=label.marker, color=label.colour, markersize=10 if label.marker == "*" else 6,
            markeredgecolor="white", markeredgewidth=0.6, transform=right, clip_on=False, linestyle="none",
        )  # fmt: skip
        if end is not None:
            axes.plot(
                [end[0], 1.0], [end[1], place], color=label.colour, linewidth=0.7, linestyle=(0, (1, 2.5)),
                transform=axes.transAxes, zorder=1.5,
            )  # fmt: skip
