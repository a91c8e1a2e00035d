"""Quality against cost of each decoding method: every threshold by what is counted, the chosen ones by the clock."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from adaptive_pipeline.reporting.figures.labels import Label, height_for, label_beside
from adaptive_pipeline.reporting.figures.style import SPARE, SPARE_MARKERS, canvas, save
from adaptive_pipeline.reporting.generation.frame import TextResults
from adaptive_pipeline.reporting.names import method_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Cost -> what stands along the axis: two that are counted, for every threshold, and two of the clock.
COSTS = {
    "flops_speedup": "fewer decoder FLOPs per token (×)",
    "calls_speedup": "fewer blocks waited for\nper token (×)",
    "free_speedup": "faster per text than plain generate,\nmeasured, batch 1 (×)",
    "fixed_speedup": "the same at a fixed length,\nmeasured, batch 1 (×)",
}
COUNTED = ("flops_speedup", "calls_speedup")
FULL = ("#000000", "*")


@dataclass(frozen=True)
class Look:
    """Colour and marker of a method."""

    colour: str
    marker: str

    @property
    def size(self) -> float:
        """Of its marker: a star is larger."""
        return 11.0 if self.marker == "*" else 5.5


def looks(results: TextResults) -> dict[str, Look]:
    """Return the look of every method of the params: the same in all figures, none twice while they last."""
    others = [method for method in results.params.generation.methods if method != "full"]
    found = {"full": Look(*FULL)}
    for place, method in enumerate(others):
        found[method] = Look(SPARE[place % len(SPARE)], SPARE_MARKERS[place % len(SPARE_MARKERS)])
    return found


def draw_quality_latency(results: TextResults, folder: Path, name: str) -> list[str]:
    """Draw quality against each cost that was measured; a line joins the thresholds of a method, means over seeds."""
    main, look = results.main, looks(results)
    costs = [cost for cost in COSTS if main[cost].notna().any()]
    if not costs:
        return []
    lines = {cost: dict(_lines(results, cost)) for cost in costs}
    size = 1.6 + 3.1 * len(costs), height_for(len(results.methods), 3.4)
    with canvas(*size, 1, len(costs), sharey=True) as (figure, panels):
        for axes, cost in zip(panels, costs, strict=True):
            axes.axvline(1.0, color="#999999", linewidth=0.8, zorder=1)
            for method, places in lines[cost].items():
                _draw(axes, places, look[method])
            axes.set_xlabel(COSTS[cost])
            axes.margins(x=0.06, y=0.08)
        _draw_intervals(panels, costs, results, look)
        panels[0].set_ylabel(f"{results.metric}, evaluation split")
        figure.suptitle(f"{results.title}: quality against cost", x=0.01, ha="left", fontsize=9.5)
        last = lines[costs[-1]]
        ends = {method: (places.x.iloc[-1], places.y.iloc[-1]) for method, places in last.items()}
        label_beside(
            panels[-1],
            [
                Label(method_name(method), look[method].colour, look[method].marker, ends.get(method))
                for method in results.methods
            ],
        )
        return [save(figure, folder, name)]


def _lines(results: TextResults, cost: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each method's places ``x``, ``y`` from slow to fast: of all thresholds as counted, of the chosen by the clock.

    Those of all thresholds are on the grid's texts, which may be fewer: the two are never joined by one line.
    """
    for method in results.methods:
        places = _grid(results, method, cost) if cost in COUNTED else pd.DataFrame()
        if places.empty:
            own = results.main[results.main.method == method]
            places = pd.DataFrame({"x": own[cost], "y": own.quality_mean})
        places = places[places.x.notna()].sort_values(["x", "y"], ascending=[True, False], kind="stable")
        if len(places):
            yield method, places


def _grid(results: TextResults, method: str, cost: str) -> pd.DataFrame:
    """Return the places of a method's thresholds on the evaluation split, means over seeds."""
    grid = results.grid[(results.grid.split == "evaluation") & (results.grid.method == method)]
    means = grid.groupby("threshold", sort=False)[[cost, "quality"]].mean()
    return means.rename(columns={cost: "x", "quality": "y"})


def _draw(axes: Axes, places: pd.DataFrame, look: Look) -> None:
    axes.plot(
        places.x, places.y, color=look.colour, marker=look.marker, markersize=look.size, markeredgecolor="white",
        markeredgewidth=0.6, linewidth=1.3, zorder=4 if look.marker == "*" else 3,
    )  # fmt: skip


def _draw_intervals(
    panels: list[Axes], costs: list[str], results: TextResults, look: dict[str, Look]
) -> None:
    """Draw the interval of each measured speed-up."""
    for axes, cost in zip(panels, costs, strict=True):
        for row in results.main.itertuples():
            low, high = (getattr(row, f"{cost}_{end}", float("nan")) for end in ("low", "high"))
            if pd.notna(low) and pd.notna(high):
                axes.hlines(
                    row.quality_mean, low, high, color=look[row.method].colour, linewidth=0.9, zorder=2
                )
