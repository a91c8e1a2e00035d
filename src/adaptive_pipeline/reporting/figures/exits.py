"""Where rows leave and how far confidence can be trusted: exit histograms, reliability diagrams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from adaptive_pipeline.reporting.figures.shown import typical_points
from adaptive_pipeline.reporting.figures.style import canvas, colour, save
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.measures import exit_share, mean
from adaptive_pipeline.reporting.names import method_name, natural_key, rule_name

TITLE = 31  #: characters of rule and goal that fit above a panel side by side


def draw_exits(results: Results, folder: Path, name: str) -> list[str]:
    """Draw, for each method, the share of rows that left at each exit, by difficulty tier where the task has tiers.

    A method of which all rows leave at one exit has no panel.
    """
    places = {
        method: (points, {int(layer) for counts in points.exit_counts for layer in counts})
        for method, points in typical_points(results).items()
    }
    shown = {method: points for method, (points, left) in places.items() if len(left) > 1}
    if not shown:
        return []
    layers = sorted(set().union(*(places[method][1] for method in shown)))
    columns = min(len(shown), 4)
    lines = -(-len(shown) // columns)
    titles = [(rule_name(points.rule.iloc[0]), points.goal.iloc[0].words) for points in shown.values()]
    between = ", " if max(len(rule + goal) for rule, goal in titles) <= TITLE else "\n"
    with canvas(1.0 + 2.25 * columns, 0.5 + 2.3 * lines, lines, columns, sharey=True) as (figure, panels):
        import matplotlib
        from matplotlib.patches import Patch

        palette = matplotlib.colormaps["cividis"]
        shades = {layer: palette(0.92 - 0.84 * i / max(1, len(layers) - 1)) for i, layer in enumerate(layers)}
        for axes, (method, points), title in zip(panels, shown.items(), titles, strict=False):
            groups = _shares_by_tier(points)
            for position, (_, share, mean_layer) in enumerate(groups):
                below = 0.0
                for layer in layers:
                    height = share.get(layer, 0.0)
                    axes.bar(position, height, 0.78, bottom=below, color=shades[layer], linewidth=0)
                    below += height
                if pd.notna(mean_layer):
                    axes.annotate(
                        f"{mean_layer:.1f}", (position, 1.0), xytext=(0, 2), textcoords="offset points", ha="center",
                        va="bottom", fontsize=7.5, color="#333333",
                    )  # fmt: skip
            axes.set_xticks(range(len(groups)), [label for label, _, _ in groups])
            axes.set_xlabel("difficulty tier" if len(groups) > 1 else "")
            axes.set_title(f"{method_name(method)}\n{between.join(title)}", loc="left", pad=14, fontsize=8.5)
            axes.grid(axis="x", visible=False)
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        for axes in panels[: len(shown) : columns]:
            axes.set_ylabel("share of rows")
        panels[0].set_ylabel("share of rows\n(above: mean exit layer)")
        handles = [Patch(color=shades[layer], label=f"left after layer {layer}") for layer in layers]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(layers)))
        return [save(figure, folder, name)]


def _shares_by_tier(points: pd.DataFrame) -> list[tuple[str, dict[int, float], float]]:
    """Return (tier, share of each exit layer, mean exit layer), seeds pooled; one entry where there are no tiers."""
    names = sorted({tier for tiers in points.tiers for tier in tiers}, key=natural_key)
    rows = []
    for name in names:
        entries = [tiers[name] for tiers in points.tiers if name in tiers]
        share = exit_share(entry["exit_counts"] for entry in entries)
        rows.append((name, share, mean(entry["mean_exit_layer"] for entry in entries)))
    share = exit_share(points.exit_counts)
    return rows or [("all", share, sum(layer * part for layer, part in share.items()))]


# ---- reliability -----------------------------------------------------------------------------------------------------

WHENS = ("before", "after")  #: temperature scaling


def draw_reliability(results: Results, folder: Path, stem: str) -> list[str]:
    """Draw confidence against accuracy of each exit before and after temperature scaling, one figure per method."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for cell in results.cells:
        curves = results.calibration(cell).reliability
        if all(curves.get(when) for when in WHENS):
            by_method.setdefault(cell.method, []).append(curves)
    names = []
    for method, seeds in by_method.items():
        layers = [item["layer"] for item in seeds[0]["before"]]
        columns = min(len(layers), 4)
        lines = -(-len(layers) // columns)
        size = (0.6 + 2.0 * max(columns, 2), 0.9 + 2.1 * lines)
        with canvas(*size, lines, columns, sharex=True, sharey=True) as (figure, panels):
            for index, (axes, layer) in enumerate(zip(panels, layers, strict=False)):
                here = [{when: seed[when][index] for when in WHENS} for seed in seeds]
                _draw_layer(axes, method, here)
                before, after = (mean(seed[when]["ece"] for seed in here) for when in WHENS)
                axes.set_title(f"layer {layer}: ECE {before:.3f} → {after:.3f}", loc="left", fontsize=8.5)
            for axes in panels[len(layers) :]:
                axes.set_visible(False)
            figure.supxlabel("mean confidence of the bin, calibration split", fontsize=9)
            figure.supylabel("accuracy of the bin", fontsize=9)
            figure.legend(
                *panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2,
                title=f"{method_name(method)} on {results.title}", title_fontsize=9.5, alignment="left",
            )  # fmt: skip
            names.append(save(figure, folder, f"{stem}-{method}"))
    return names


def _draw_layer(axes: Any, method: str, seeds: Sequence[Mapping[str, Any]]) -> None:
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=(0, (4, 3)))
    for when, look in (
        ("before", {"color": "#888888", "marker": "o", "markerfacecolor": "white"}),
        ("after", {"color": colour(method) if method != "full" else "#0072B2", "marker": "o"}),
    ):
        bins = _pool_bins(seed[when]["bins"] for seed in seeds)
        label = f"{when} temperature scaling"
        axes.plot(bins.confidence, bins.accuracy, markersize=3.5, linewidth=1.2, label=label, **look)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])


def _pool_bins(seeds: Iterable[Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """Return confidence and accuracy of every bin that any seed has rows in, weighted by the rows."""
    bins = pd.DataFrame([dict(item) | {"bin": place} for seed in seeds for place, item in enumerate(seed)])
    bins = bins[bins["count"] > 0]
    sums = bins.assign(
        confidence=bins.confidence.astype(float) * bins["count"],
        accuracy=bins.accuracy.astype(float) * bins["count"],
    )
    sums = sums.groupby("bin").sum()
    return sums[["confidence", "accuracy"]].div(sums["count"], axis=0)
