"""Figures that explain a result: rules against objectives, patience, exits and gradients by layer, overthinking."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from pathlib import Path

import pandas as pd

from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.reporting.breakdowns import conflict, exits, overthinking
from adaptive_pipeline.reporting.figures.labels import Label, height_for, label_beside
from adaptive_pipeline.reporting.figures.shown import nearest_goal
from adaptive_pipeline.reporting.figures.style import BAND_SEEDS, canvas, colour, draw_line, marker, save
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.measures import over_seeds
from adaptive_pipeline.reporting.names import method_key, method_name, rule_key, rule_name

# ---- exit rules against objectives -----------------------------------------------------------------------------------


def draw_rule_matrix(results: Results, folder: Path, name: str) -> list[str]:
    """Draw the quality of rules that several methods can follow, at one goal; where the matrix is not half empty."""
    rows = results.main
    goal = nearest_goal({*rows.goal})
    cells = compared_cells(rows[(rows.goal == goal) & rows.quality_mean.notna() & rows.attainable])
    if cells.empty or goal is None:
        return []
    rules = sorted({*cells.rule}, key=rule_key)
    methods = sorted({*cells.method}, key=method_key)
    values = cells.pivot(index="rule", columns="method", values="quality_mean").loc[rules, methods]
    with canvas(2.4 + 0.66 * len(methods), 1.5 + 0.5 * len(rules)) as (figure, (axes,)):
        image = axes.imshow(values, cmap="cividis", aspect="auto")
        for row in cells.itertuples():
            place = methods.index(row.method), rules.index(row.rule)
            dark = image.norm(row.quality_mean) < 0.55
            short = "" if row.seeds == row.evaluated else f"\n{row.seeds} of {row.evaluated} seeds"
            speedup = getattr(row, f"{results.cost}_speedup")
            axes.annotate(
                f"{row.quality_mean:.4f}\n{speedup:.2f}×{short}", place, ha="center", va="center",
                fontsize=7, color="white" if dark else "black",
            )  # fmt: skip
        axes.set_xticks(range(len(methods)), [method_name(m) for m in methods], rotation=30, ha="right")
        axes.set_yticks(range(len(rules)), [rule_name(rule) for rule in rules])
        axes.grid(visible=False)
        first = cells.iloc[0]
        axes.set_title(
            f"{first.task}, {first.backbone}: {goal.words}\n(chosen on calibration; below: measured)",
            loc="left",
        )
        figure.colorbar(image, label=f"{metric_name(first.metric)}, evaluation split")
        return [save(figure, folder, name)]


def compared_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of the rules that two methods or more follow; none where these fill less than half of a matrix."""
    shared = cells[cells.groupby("rule").method.transform("nunique") > 1]
    rules, methods = shared.rule.nunique(), shared.method.nunique()
    return shared if rules > 1 and len(shared) >= rules * methods / 2 else shared.iloc[:0]


# ---- patience --------------------------------------------------------------------------------------------------------

LINE_STYLES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)))  #: of the variants of a rule


def draw_patience(results: Results, folder: Path, name: str) -> list[str]:
    """Draw mean layers and quality against patience, one line per method and variant of ``patience``."""
    lines = patience_lines(results)
    if lines.empty:
        return []
    rules = sorted({*lines.rule}, key=rule_key)
    count, labels = len(lines[["method", "rule"]].drop_duplicates()), []
    with canvas(9.0, height_for(lines.method.nunique(), 3.3), 1, 2) as (figure, panels):
        for _, own in lines.groupby("method", sort=False):
            for rule, line in own.sort_values("patience").groupby("rule", sort=False):
                look = LINE_STYLES[rules.index(rule) % len(LINE_STYLES)]
                for axes, column in zip(panels, ("layers", "quality"), strict=True):
                    draw_line(axes, line, "patience", column, count, linestyle=look)
            labels.append(_label(line, "patience", "quality"))
        for axes in panels:
            axes.set_xlabel("patience (agreements in a row)")
            axes.set_xticks(sorted({*lines.patience}))
        panels[0].set_ylabel("layers run, mean over rows")
        panels[1].set_ylabel(f"{results.metric}, evaluation split")
        panels[0].set_title(results.title, loc="left")
        if len(rules) > 1:
            looks = [
                panels[0].plot([], [], color="#444444", linestyle=look)[0]
                for look in LINE_STYLES[: len(rules)]
            ]
            figure.legend(
                looks, list(map(rule_name, rules)), loc="outside lower center", ncols=3, handlelength=3.2
            )
        label_beside(panels[1], labels)
        return [save(figure, folder, name)]


def patience_lines(results: Results) -> pd.DataFrame:
    """Return mean layers and quality at each patience, over seeds.

    Layers are the full model's number of layers over the speed-up in layers. `patience_confidence` is left out: what is
    swept there is an entropy, its patience is an option.
    """
    cells = results.cells
    depth = {cell.seed: results.evaluation(cell).exits[-1].layer for cell in cells if cell.method == "full"}
    rows = [
        {"method": cell.method, "rule": rule, "patience": int(patience)}
        | {"layers": depth[cell.seed] / speedup, "quality": quality}
        for cell in cells
        if cell.seed in depth
        for rule, curve in results.curves(cell).items()
        if rule.partition("(")[0] == "patience"
        for patience, speedup, quality in zip(
            curve["thresholds"], curve["layers_speedup"], curve["quality"], strict=True
        )
    ]
    by = ["method", "rule", "patience"]
    return over_seeds(pd.DataFrame(rows, columns=[*by, "layers", "quality"]), by, ["layers", "quality"])


# ---- layer by layer --------------------------------------------------------------------------------------------------


def draw_exit_quality(results: Results, folder: Path, name: str) -> list[str]:
    """Draw the quality of every exit by itself: what an objective costs or gives before any rule is used."""
    label = f"{results.metric}, evaluation split"
    places = "exit after layer (every row forced to leave there)"
    return _by_layer(exits(results), "exit_layer", "quality", places, label, folder, name)


def draw_conflict(results: Results, folder: Path, name: str) -> list[str]:
    """Draw the mean cosine between the gradients of pairs of exits, layer by layer."""
    label = "cosine of exits' gradients\n(mean over pairs of exits)"
    return _by_layer(conflict(results), "layer", "cosine", "layer", label, folder, name)


def _by_layer(
    rows: pd.DataFrame, x: str, y: str, xlabel: str, ylabel: str, folder: Path, name: str
) -> list[str]:
    rows = rows[rows[f"{y}_mean"].notna()]
    if rows.empty:
        return []
    methods = list(rows.groupby("method", sort=False))
    with canvas(6.6, height_for(len(methods), 3.2)) as (figure, (axes,)):
        if (rows[f"{y}_mean"] < 0).any():
            axes.axhline(0.0, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        for _, own in methods:
            draw_line(axes, own, x, y, len(methods))
        axes.set(xlabel=xlabel, ylabel=ylabel, xticks=sorted({*rows[x]}))
        axes.set_title(f"{rows.task.iloc[0]}, {rows.backbone.iloc[0]}", loc="left")
        label_beside(axes, [_label(own, x, y) for _, own in methods])
        return [save(figure, folder, name)]


def _label(rows: pd.DataFrame, x: str, y: str) -> Label:
    """Return the name of a method's line, at its last point."""
    method, end = rows.method.iloc[0], rows.iloc[-1]
    return Label(method_name(method), colour(method), marker(method), (end[x], end[f"{y}_mean"]))


def draw_overthinking(results: Results, folder: Path, name: str) -> list[str]:
    """Draw what the last exit loses and gains against the inner ones, together and one by one."""
    rows = overthinking(results)
    if rows.empty:
        return []
    from matplotlib.patches import Patch

    together, single = rows[rows.exit_layer == "inner"], rows[rows.exit_layer != "inner"]
    lines = list(single.groupby("method", sort=False))
    with canvas(9.0, max(3.6, 1.6 + 0.3 * len(together)), 1, 2) as (figure, (bars, axes)):
        for place, row in enumerate(together.itertuples()):
            for side, key, alpha in ((-0.19, "right_then_wrong", 1.0), (0.19, "wrong_then_right", 0.35)):
                std = getattr(row, f"{key}_std") if row.seeds >= BAND_SEEDS else None
                bars.barh(
                    place + side, getattr(row, f"{key}_mean"), 0.36, xerr=std, color=colour(row.method), alpha=alpha,
                    error_kw={"elinewidth": 0.9, "ecolor": "#333333"},
                )  # fmt: skip
        bars.set_yticks(range(len(together)), [method_name(method) for method in together.method])
        bars.invert_yaxis()
        bars.grid(visible=False, axis="y")
        bars.locator_params(axis="x", nbins=5)
        bars.set_xlabel("share of evaluation rows")
        bars.set_title(results.title, loc="left")
        for _, own in lines:
            draw_line(axes, own, "exit_layer", "right_then_wrong", len(lines))
        axes.set_xticks(sorted({*single.exit_layer}))
        axes.set_xlabel("inner exit after layer")
        axes.set_ylabel("share of rows right there,\nwrong at the last exit")
        axes.set_ylim(bottom=0.0)
        handles = [
            Patch(color="#444444", label="right at an inner exit, wrong at the last"),
            Patch(color="#444444", alpha=0.35, label="wrong at all inner exits, right at the last"),
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=2)
        label_beside(axes, [_label(own, "exit_layer", "right_then_wrong") for _, own in lines])
        return [save(figure, folder, name)]
