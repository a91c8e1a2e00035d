"""Figures that explain a result: rules against objectives, patience, conflicts, overthinking, learned weights."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.reporting.aggregate import Row, mean, spread
from adaptive_pipeline.reporting.analysis_tables import conflict_rows, overthinking_rows, weight_terms
from adaptive_pipeline.reporting.collect import CellFiles, Results
from adaptive_pipeline.reporting.names import method_key, method_name, point_name, rule_key, rule_name
from adaptive_pipeline.reporting.style import canvas, colour, draw_line, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Times fewer layers at which rules are compared, or what is nearest to it among the goals.
SPEEDUP = 2.0
#: Shares of the training at which learned weights are shown.
MOMENTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def draw_analysis(results: Results, rows: Sequence[Row], folder: Path) -> list[str]:
    """Write every figure that has data, PNG and SVG, and return their names (``TASK-BACKBONE-KIND``)."""
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for task, backbone in results.pairs():
        stem = f"{task}-{backbone}"
        here = [row for row in rows if (row.task, row.backbone) == (task, backbone)]
        cells = [
            files for files in results.cells if (files.cell.task, files.cell.backbone) == (task, backbone)
        ]
        conflict, thinking = (
            [row for row in table if (row["task"], row["backbone"]) == (task, backbone)]
            for table in (conflict_rows(results), overthinking_rows(results))
        )
        names += draw_rule_matrix(here, folder, f"{stem}-rule_matrix")
        names += draw_patience(cells, here, folder, f"{stem}-patience")
        names += draw_conflict(conflict, folder, f"{stem}-conflict")
        names += draw_overthinking(thinking, folder, f"{stem}-overthinking")
        names += draw_weights(cells, folder, f"{stem}-weights")
    return names


# ---- exit rules against objectives -----------------------------------------------------------------------------------


def draw_rule_matrix(rows: Sequence[Row], folder: Path, name: str) -> list[str]:
    """Draw the quality of every rule that can be followed, with every method, at one goal; needs two cells to compare."""
    goal = nearest_goal({row.operating_point for row in rows})
    cells = {
        (row.rule, row.method): row
        for row in rows
        if row.operating_point == goal and row.quality_mean is not None and row.attainable
    }
    if len(cells) < 2:
        return []
    rules = sorted({rule for rule, _ in cells}, key=rule_key)
    methods = sorted({method for _, method in cells}, key=method_key)
    values = [[cells[r, m].quality_mean if (r, m) in cells else float("nan") for m in methods] for r in rules]
    with canvas(1.9 + 0.92 * len(methods), 1.5 + 0.5 * len(rules)) as (figure, (axes,)):
        image = axes.imshow(values, cmap="cividis", aspect="auto")
        for (rule, method), row in cells.items():
            place = methods.index(method), rules.index(rule)
            dark = image.norm(row.quality_mean) < 0.55
            short = "" if row.seeds == row.evaluated else f"\n{row.seeds} of {row.evaluated} seeds"
            axes.annotate(
                f"{row.quality_mean:.4f}\n{row.layers_speedup:.2f}×{short}", place, ha="center", va="center",
                fontsize=7.5, color="white" if dark else "black",
            )  # fmt: skip
        axes.set_xticks(range(len(methods)), [method_name(m) for m in methods], rotation=30, ha="right")
        axes.set_yticks(range(len(rules)), [rule_name(rule) for rule in rules])
        axes.grid(visible=False)
        first = next(iter(cells.values()))
        axes.set_title(
            f"{first.task}, {first.backbone}: {point_name(goal)} (chosen on calibration; below: measured)",
            loc="left",
        )
        figure.colorbar(image, label=f"{metric_name(first.metric)}, evaluation split")
        save(figure, folder, name)
    return [name]


def nearest_goal(points: Iterable[str], speedup: float = SPEEDUP) -> str:
    """Return the ``min_speedup_`` goal that is nearest to a speed-up, the lower of two; empty where there is none."""
    goals = [point for point in points if point.startswith("min_speedup_")]
    asked = {goal: float(goal.removeprefix("min_speedup_")) for goal in goals}
    return min(asked, key=lambda goal: (abs(asked[goal] - speedup), asked[goal]), default="")


# ---- patience --------------------------------------------------------------------------------------------------------

LINE_STYLES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)))  #: of the variants of a rule


def draw_patience(cells: Sequence[CellFiles], rows: Sequence[Row], folder: Path, name: str) -> list[str]:
    """Draw mean layers and quality against patience, one line per method and variant of ``patience``."""
    lines = patience_lines(cells)
    if not lines:
        return []
    with canvas(7.6, 3.5, 1, 2) as (figure, panels):
        rules = sorted({rule for _, rule in lines}, key=rule_key)
        for axes, column in zip(panels, ("layers", "quality"), strict=True):
            for (method, rule), line in lines.items():
                plain, style = rule == "patience", LINE_STYLES[rules.index(rule) % len(LINE_STYLES)]
                draw_line(
                    axes, method, line["patience"], line[f"{column}_mean"], line[f"{column}_std"],
                    label=method_name(method) + ("" if plain else f", {rule_name(rule)}"), linestyle=style,
                )  # fmt: skip
            axes.set_xlabel("patience (agreements in a row)")
            axes.set_xticks(sorted({t for line in lines.values() for t in line["patience"]}))
        panels[0].set_ylabel("layers run, mean over rows")
        panels[1].set_ylabel(f"{metric_name(rows[0].metric)}, evaluation split")
        panels[0].set_title(f"{rows[0].task}, {rows[0].backbone}", loc="left")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(3, len(labels)), handlelength=3.2
        )
        save(figure, folder, name)
    return [name]


def patience_lines(cells: Iterable[CellFiles]) -> dict[tuple[str, str], dict[str, list[Any]]]:
    """Return mean layers and quality at each patience, mean and spread over seeds; (method, rule) -> columns.

    Layers are the full model's number of layers over the speed-up in layers. `patience_confidence` is left out: what is
    swept there is an entropy, its patience is an option.
    """
    cells = list(cells)
    depth = {
        files.cell.seed: files.evaluation.details["exits"][-1]["layer"]
        for files in cells
        if files.cell.method == "full" and files.evaluation.details.get("exits")
    }
    found: dict[tuple[str, str], dict[int, list[tuple[float, float]]]] = {}
    for files in cells:
        for rule, curve in files.curves.items():
            if rule.partition("(")[0] == "patience" and files.cell.seed in depth:
                line = found.setdefault((files.cell.method, rule), {})
                columns = (curve[key] for key in ("thresholds", "layers_speedup", "quality"))
                for patience, speedup, quality in zip(*columns, strict=True):
                    line.setdefault(int(patience), []).append((depth[files.cell.seed] / speedup, quality))
    lines: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for key, line in found.items():
        lines[key] = {"patience": sorted(line)}
        for index, name in enumerate(("layers", "quality")):
            columns = [[pair[index] for pair in line[t]] for t in sorted(line)]
            lines[key] |= {
                f"{name}_mean": [mean(c) for c in columns],
                f"{name}_std": [spread(c) for c in columns],
            }
    return lines


# ---- conflict and overthinking ---------------------------------------------------------------------------------------


def draw_conflict(rows: Sequence[Mapping[str, Any]], folder: Path, name: str) -> list[str]:
    """Draw the mean cosine between the gradients of pairs of exits, layer by layer; rows of `conflict_rows`."""
    rows = [row for row in rows if row["cosine_mean"] is not None]
    if not rows:
        return []
    with canvas(5.2, 3.4) as (figure, (axes,)):
        axes.axhline(0.0, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == method]
            columns = ([row[key] for row in own] for key in ("layer", "cosine_mean", "cosine_std"))
            draw_line(axes, method, *columns, label=method_name(method))
        axes.set_xticks(sorted({row["layer"] for row in rows}))
        axes.set_xlabel("layer")
        axes.set_ylabel("cosine of exits' gradients\n(mean over pairs of exits)")
        axes.set_title(f"{rows[0]['task']}, {rows[0]['backbone']}", loc="left")
        _legend(axes)
        save(figure, folder, name)
    return [name]


def draw_overthinking(rows: Sequence[Mapping[str, Any]], folder: Path, name: str) -> list[str]:
    """Draw what the last exit loses and gains against the inner ones, together and one by one."""
    if not rows:
        return []
    from matplotlib.patches import Patch

    together = [row for row in rows if row["exit_layer"] == "inner"]
    methods = [row["method"] for row in together]
    with canvas(8.6, max(3.4, 1.9 + 0.34 * len(methods)), 1, 2) as (figure, (bars, lines)):
        for place, row in enumerate(together):
            for side, key, alpha in ((-0.19, "right_then_wrong", 1.0), (0.19, "wrong_then_right", 0.35)):
                bars.barh(
                    place + side, row[f"{key}_mean"], 0.36, xerr=row[f"{key}_std"], color=colour(row["method"]),
                    alpha=alpha, error_kw={"elinewidth": 0.9, "ecolor": "#333333"},
                )  # fmt: skip
        bars.set_yticks(range(len(methods)), [method_name(method) for method in methods])
        bars.invert_yaxis()
        bars.grid(visible=False, axis="y")
        bars.set_xlabel("share of evaluation rows")
        bars.set_title(f"{rows[0]['task']}, {rows[0]['backbone']}", loc="left")
        for method in methods:
            own = [row for row in rows if row["method"] == method and row["exit_layer"] != "inner"]
            keys = ("exit_layer", "right_then_wrong_mean", "right_then_wrong_std")
            draw_line(lines, method, *([row[key] for row in own] for key in keys), label=method_name(method))
        lines.set_xticks(sorted({row["exit_layer"] for row in rows} - {"inner"}))
        lines.set_xlabel("inner exit after layer")
        lines.set_ylabel("share of rows right there,\nwrong at the last exit")
        lines.set_ylim(bottom=0.0)
        handles = [
            Patch(color="#444444", label="right at an inner exit, wrong at the last"),
            Patch(color="#444444", alpha=0.35, label="wrong at all inner exits, right at the last"),
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=1)
        handles, labels = lines.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=3, handlelength=1.8)
        save(figure, folder, name)
    return [name]


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles, labels, loc="outside lower center", ncols=min(3, len(labels)), handlelength=1.8
    )


# ---- learned weights -------------------------------------------------------------------------------------------------


def draw_weights(cells: Sequence[CellFiles], folder: Path, stem: str) -> list[str]:
    """Draw the learned weights, student by term, at moments of the training; per method, its first seed."""
    names = []
    first: dict[str, CellFiles] = {}
    for files in cells:
        if files.weights:
            first.setdefault(files.cell.method, files)
    for method, files in first.items():
        name = f"{stem}-{method}"
        _draw_weights(files, folder, name)
        names.append(name)
    return names


def moments(steps: Sequence[int]) -> list[int]:
    """Return the places of the recorded steps that are nearest to `MOMENTS` of the training, each once."""
    wanted = [share * steps[-1] for share in MOMENTS]
    return sorted({min(range(len(steps)), key=lambda i: abs(steps[i] - step)) for step in wanted})


def _draw_weights(files: CellFiles, folder: Path, name: str) -> None:
    import numpy as np
    from matplotlib.colors import CenteredNorm

    terms = weight_terms(files.weights)
    steps = [row["step"] for row in files.weights]
    shown = moments(steps)
    weights = np.ma.masked_invalid(np.array([terms[i] for i in shown], dtype=float))
    layers = files.training.details["exits"]
    away = float(np.abs(weights - 1.0).max())
    norm = CenteredNorm(1.0, max(away, 1e-3))
    width = min(max(1.5, 0.34 * len(layers) + 0.4), 2.4)
    height = 1.0 + width * len(layers) / (len(layers) + 1)
    with canvas(1.3 + (width + 0.2) * len(shown), height, 1, len(shown), sharey=True) as (figure, panels):
        for axes, place, matrix in zip(panels, shown, weights, strict=True):
            image = axes.imshow(matrix, cmap="RdBu_r", norm=norm)
            if len(layers) <= 6:  # room for numbers
                for (student, term), weight in np.ma.ndenumerate(matrix):
                    pale = abs(norm(weight) - 0.5) < 0.3
                    axes.annotate(
                        f"{weight:.{2 if away > 0.05 else 4}f}", (term, student), ha="center", va="center", fontsize=5.5,
                        color="black" if pale else "white",
                    )  # fmt: skip
            axes.set_title(f"step {steps[place]} ({steps[place] / steps[-1]:.0%})", loc="left", fontsize=8.5)
            axes.set_xticks(range(len(layers) + 1), ["label", *layers], rotation=90, fontsize=7.5)
            axes.set_yticks(range(len(layers)), layers, fontsize=7.5)
            axes.set_facecolor("#dddddd")  # no such term
            axes.grid(visible=False)
        panels[0].set_ylabel("student (exit layer)")
        figure.supxlabel("learns from: the label, or the exit after layer", fontsize=9)
        cell = files.cell
        figure.suptitle(
            f"{method_name(cell.method)} on {cell.task}, {cell.backbone}, seed {cell.seed}: weights of the losses",
            fontsize=9.5, x=0.01, ha="left",
        )  # fmt: skip
        figure.colorbar(image, ax=panels, label="weight (all start at 1)", shrink=0.9)
        save(figure, folder, name)
