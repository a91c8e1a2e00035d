"""Where rows leave and how far confidence can be trusted: exit histograms, quality of exits, reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.reporting.aggregate import exit_share, mean, shown_rule
from adaptive_pipeline.reporting.collect import Point, Results
from adaptive_pipeline.reporting.names import (
    method_key,
    method_name,
    natural_key,
    point_name,
    rule_name,
    static_layers,
)
from adaptive_pipeline.reporting.style import canvas, colour, draw_line, save
from adaptive_pipeline.reporting.tables import exit_rows


def draw_exit_quality(results: Results, task: str, backbone: str, folder: Path, name: str) -> list[str]:
    """Draw the quality of every exit by itself: what an objective costs or gives before any rule is used."""
    rows = [row for row in exit_rows(results) if (row["task"], row["backbone"]) == (task, backbone)]
    rows = [row for row in rows if row["quality_mean"] is not None]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    if not rows:
        return []
    with canvas(5.2, 3.4) as (figure, (axes,)):
        for method in methods:
            own = [row for row in rows if row["method"] == method]
            columns = ([row[name] for row in own] for name in ("exit_layer", "quality_mean", "quality_std"))
            draw_line(axes, method, *columns, label=method_name(method))
        axes.set_xticks(sorted({row["exit_layer"] for row in rows}))
        axes.set_xlabel("exit after layer (every row forced to leave there)")
        axes.set_ylabel(f"{metric_name(rows[0]['metric'])}, evaluation split")
        axes.set_title(f"{task}, {backbone}", loc="left")
        figure.legend(loc="outside lower center", ncols=min(3, len(methods)), handlelength=1.8)
        save(figure, folder, name)
    return [name]


# ---- exit histograms -------------------------------------------------------------------------------------------------

TITLE = 34  #: characters of rule and goal that fit above a panel side by side


def draw_exits(results: Results, task: str, backbone: str, folder: Path, name: str) -> list[str]:
    """Draw, for each method, the share of rows that left at each exit, by difficulty tier where the task has tiers."""
    shown = typical_points(results, task, backbone)
    if not shown:
        return []
    layers = sorted({layer for points in shown.values() for point in points for layer in point.exit_counts})
    columns = min(len(shown), 4)
    titles = [(rule_name(points[0].rule), point_name(points[0].operating_point)) for points in shown.values()]
    between = ", " if max(len(rule + goal) for rule, goal in titles) <= TITLE else "\n"
    height = 3.1 * -(-len(shown) // columns)
    with canvas(1.1 + 2.4 * columns, height, -(-len(shown) // columns), columns, sharey=True) as (
        figure,
        panels,
    ):
        import matplotlib
        from matplotlib.patches import Patch

        palette = matplotlib.colormaps["cividis"]
        shades = {layer: palette(0.92 - 0.84 * i / max(1, len(layers) - 1)) for i, layer in enumerate(layers)}
        for axes, (method, points), title in zip(panels, shown.items(), titles, strict=False):
            groups = _shares_by_tier(points)
            for position, (_, share, _) in enumerate(groups):
                below = 0.0
                for layer in layers:
                    axes.bar(
                        position, share.get(layer, 0.0), 0.78, bottom=below, color=shades[layer], linewidth=0
                    )
                    below += share.get(layer, 0.0)
            for position, (_, _, mean_layer) in enumerate(groups):
                if mean_layer is not None:
                    axes.annotate(
                        f"{mean_layer:.1f}", (position, 1.0), xytext=(0, 2), textcoords="offset points", ha="center",
                        va="bottom", fontsize=7.5, color="#333333",
                    )  # fmt: skip
            axes.set_xticks(range(len(groups)), [label for label, _, _ in groups])
            axes.set_xlabel("difficulty tier" if len(groups) > 1 else "")
            axes.set_title(f"{method_name(method)}\n{between.join(title)}", loc="left", pad=14)
            axes.grid(axis="x", visible=False)
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        panels[0].set_ylabel("share of rows (above: mean exit layer)")
        handles = [Patch(color=shades[layer], label=f"left after layer {layer}") for layer in layers]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(layers)))
        save(figure, folder, name)
    return [name]


def typical_points(results: Results, task: str, backbone: str) -> dict[str, list[Point]]:
    """Return the points to show of each method: one rule (`shown_rule`), first ``min_speedup_`` goal, else any."""
    found: dict[str, dict[tuple[str, str], list[Point]]] = {}
    for point in results.points:
        if (
            (point.cell.task, point.cell.backbone) != (task, backbone)
            or not point.measured
            or not point.attainable
        ):
            continue
        if point.method != "full" and static_layers(point.method) is None and point.exit_counts:
            found.setdefault(point.method, {}).setdefault((point.rule, point.operating_point), []).append(
                point
            )
    shown = {}
    for method in sorted(found, key=method_key):
        reached = {key: len(points) for key, points in found[method].items()}
        rule = shown_rule(results.params.method(method).rules, reached)
        goals = [key for key in found[method] if rule in (key[0], None)]
        shown[method] = found[method][min(goals, key=_goal_order)]
    return shown


def _goal_order(key: tuple[str, str]) -> tuple[bool, Any]:
    return not key[1].startswith("min_speedup_"), natural_key(key[1])


def _shares_by_tier(points: Sequence[Point]) -> list[tuple[str, dict[int, float], float | None]]:
    """Return (tier, share of each exit layer, mean exit layer), seeds pooled; one entry where there are no tiers."""
    tiers = sorted({tier for point in points for tier in point.tiers}, key=natural_key)
    rows = []
    for tier in tiers:
        entries = [point.tiers[tier] for point in points if tier in point.tiers]
        counts: dict[int, int] = {}
        for entry in entries:
            for layer, count in (entry.get("exit_counts") or {}).items():
                counts[int(layer)] = counts.get(int(layer), 0) + count
        if not counts:
            break
        total = sum(counts.values())
        share = {layer: count / total for layer, count in counts.items()}
        rows.append((tier, share, mean(entry.get("mean_exit_layer") for entry in entries)))
    if len(rows) == len(tiers) and rows:
        return rows
    share = exit_share(points)
    return [("all", share, sum(layer * part for layer, part in share.items()))]


# ---- reliability -----------------------------------------------------------------------------------------------------


def draw_reliability(results: Results, task: str, backbone: str, folder: Path, stem: str) -> list[str]:
    """Draw confidence against accuracy of each exit before and after temperature scaling, one figure per method."""
    names = []
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for files in results.cells:
        curves = (files.calibration.details.get("reliability") if files.calibration else None) or {}
        if (
            (files.cell.task, files.cell.backbone) == (task, backbone)
            and curves.get("before")
            and curves.get("after")
        ):
            by_method.setdefault(files.cell.method, []).append(curves)
    for method, seeds in by_method.items():
        layers = [item["layer"] for item in seeds[0]["before"]]
        columns = min(len(layers), 6)
        lines = -(-len(layers) // columns)
        size = (0.6 + 2.0 * max(columns, 2), 0.9 + 2.1 * lines)
        with canvas(*size, lines, columns, sharex=True, sharey=True) as (figure, panels):
            for index, (axes, layer) in enumerate(zip(panels, layers, strict=False)):
                axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=(0, (4, 3)))
                text = []
                for when, look in (
                    ("before", {"color": "#888888", "marker": "o", "markerfacecolor": "white"}),
                    ("after", {"color": colour(method) if method != "full" else "#0072B2", "marker": "o"}),
                ):
                    entries = [seed[when][index] for seed in seeds]
                    bins = _pool_bins([entry["bins"] for entry in entries])
                    label = f"{when} temperature scaling" if index == 0 else None
                    axes.plot(
                        [c for c, _ in bins],
                        [a for _, a in bins],
                        markersize=3.5,
                        linewidth=1.2,
                        label=label,
                        **look,
                    )
                    text.append(f"{when} {mean(entry['ece'] for entry in entries):.3f}")
                axes.text(
                    0.97, 0.04, "ECE\n" + "\n".join(text), transform=axes.transAxes, ha="right", va="bottom",
                    fontsize=7.5, linespacing=1.35,
                )  # fmt: skip
                axes.set_title(f"layer {layer}", loc="left")
                axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
            for axes in panels[len(layers) :]:
                axes.set_visible(False)
            figure.supxlabel("mean confidence of the bin, calibration split", fontsize=9)
            figure.supylabel("accuracy of the bin", fontsize=9)
            figure.legend(
                loc="outside upper left", ncols=2, title=f"{method_name(method)} on {task}, {backbone}",
                title_fontsize=9.5, alignment="left",
            )  # fmt: skip
            save(figure, folder, f"{stem}-{method}")
        names.append(f"{stem}-{method}")
    return names


def _pool_bins(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> list[tuple[float, float]]:
    """Return (confidence, accuracy) of every bin that any seed has rows in, weighted by the rows."""
    pooled = []
    for column in zip(*seeds, strict=True):
        filled = [item for item in column if item["count"]]
        total = sum(item["count"] for item in filled)
        if total:
            pooled.append(
                (
                    sum(item["confidence"] * item["count"] for item in filled) / total,
                    sum(item["accuracy"] * item["count"] for item in filled) / total,
                )
            )
    return pooled
