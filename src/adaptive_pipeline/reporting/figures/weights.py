"""What the learned weights of the losses became over a training: where its trajectory is there, which git does not keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_inference.files import read_jsonl
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.reporting.figures.style import canvas, save
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.names import method_name
from adaptive_pipeline.runs.checksums import refuse_damaged

#: Shares of the training at which learned weights are shown.
MOMENTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def draw_weights(results: Results, folder: Path, stem: str) -> list[str]:
    """Draw the learned weights, student by term, at moments of the training; per method, its first seed."""
    first: dict[str, tuple[Cell, Path]] = {}
    for cell in results.cells:
        file = cell.folder(results.runs.root) / "train" / "weights.jsonl"
        if file.is_file():
            refuse_damaged(file)
            first.setdefault(cell.method, (cell, file))
    return [
        _draw(cell, read_jsonl(file), results.training(cell).exits, folder, f"{stem}-{method}")
        for method, (cell, file) in first.items()
    ]


def moments(steps: Sequence[int]) -> list[int]:
    """Return the places of the recorded steps that are nearest to `MOMENTS` of the training, each once."""
    wanted = [share * steps[-1] for share in MOMENTS]
    return sorted({min(range(len(steps)), key=lambda i: abs(steps[i] - step)) for step in wanted})


def weight_terms(trajectory: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return the weights of each moment, student by term ``(M, E, 1 + E)``: the label's, then one per teacher.

    All weights start at 1, and those of terms that the objective does not have stay 0: a term is whatever was ever anything
    but 0, NaN stands where no such term is.
    """
    weights = np.array([np.column_stack([row["truth"], row["teachers"]]) for row in trajectory], dtype=float)
    return np.where((weights != 0).any(axis=0), weights, np.nan)


def _draw(
    cell: Cell, trajectory: Sequence[dict[str, Any]], layers: Sequence[int], folder: Path, name: str
) -> str:
    from matplotlib.colors import CenteredNorm

    steps = [row["step"] for row in trajectory]
    shown = moments(steps)
    weights = np.ma.masked_invalid(weight_terms(trajectory)[shown])
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
        figure.suptitle(
            f"{method_name(cell.method)} on {cell.task}, {cell.backbone}, seed {cell.seed}: weights of the losses",
            fontsize=9.5, x=0.01, ha="left",
        )  # fmt: skip
        figure.colorbar(image, ax=panels, label="weight (all start at 1)", shrink=0.9)
        return save(figure, folder, name)
