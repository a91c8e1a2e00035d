"""How confident the shallow model was where all blocks agree with it and where not, and the threshold that follows."""

from __future__ import annotations

from math import lgamma
from pathlib import Path

import numpy as np

from adaptive_pipeline.reporting.figures.style import canvas, save
from adaptive_pipeline.reporting.generation.curves import looks
from adaptive_pipeline.reporting.generation.frame import TextResults
from adaptive_pipeline.reporting.names import method_name
from adaptive_pipeline.runs.text_records import BINS, Confidences

#: Class of a mixture -> its colour and its name.
CLASSES = {"agree": ("#0072B2", "all blocks agree"), "disagree": ("#D55E00", "all blocks disagree")}
COUNTS = {"agree": "agreeing", "disagree": "disagreeing"}
EDGES = np.linspace(0.0, 1.0, BINS + 1)
HIGHEST = 3.0  #: times the highest bar at which a density is cut off: at 0 and 1 it may be infinite


def counted(results: TextResults, method: str) -> dict[int, Confidences]:
    """Return what was counted of a method's confidences, by seed."""
    cells = [cell for cell in results.cells if cell.method == method]
    found = {cell.seed: results.confidences(cell) for cell in cells}
    return {seed: one for seed, one in found.items() if one is not None}


def beta_density(places: np.ndarray, a: float, b: float) -> np.ndarray:
    """Return a Beta density at places in (0, 1)."""
    constant = lgamma(a + b) - lgamma(a) - lgamma(b)
    return np.exp(constant + (a - 1.0) * np.log(places) + (b - 1.0) * np.log1p(-places))


def draw_confidences(results: TextResults, folder: Path, stem: str) -> list[str]:
    """Draw, per method, the confidences of agreeing and disagreeing tokens, each class by itself, seeds pooled."""
    names = []
    for method in results.methods:
        seeds = counted(results, method)
        if any(sum(one.agreeing) + sum(one.disagreeing) for one in seeds.values()):
            names.append(_draw(results, method, list(seeds.values()), folder, f"{stem}-{method}"))
    return names


def _draw(results: TextResults, method: str, seeds: list[Confidences], folder: Path, name: str) -> str:
    middles = (EDGES[:-1] + EDGES[1:]) / 2
    with canvas(5.6, 3.2) as (figure, (axes,)):
        heights = {}
        for part, (colour, words) in CLASSES.items():
            counts = np.sum([getattr(one, COUNTS[part]) for one in seeds], axis=0)
            total = int(counts.sum())
            heights[part] = counts * BINS / total if total else np.zeros(BINS)
            axes.bar(
                middles, heights[part], 1 / BINS, color=colour, alpha=0.4, linewidth=0, label=f"{words} ({total:,d} tokens)"
            )  # fmt: skip
        top = max(float(height.max()) for height in heights.values())
        fitted = [one.mixture for one in seeds if one.mixture is not None]
        for place, mixture in enumerate(fitted):
            for part, (colour, _) in CLASSES.items():
                density = np.minimum(beta_density(middles, *getattr(mixture, part)), HIGHEST * top)
                label = "fitted Beta density" if place == 0 and part == "agree" else None
                axes.plot(middles, density, color=colour, linewidth=1.4, label=label)
        thresholds = sorted({one.threshold for one in seeds if one.threshold is not None})
        for place, threshold in enumerate(thresholds):
            told = f"threshold {', '.join(f'{one:.3g}' for one in thresholds)}" if place == 0 else None
            axes.axvline(threshold, color="#333333", linestyle="--", linewidth=1.1, label=told)
        axes.set(xlim=(0.0, 1.0), ylim=(0.0, None))
        axes.set_xlabel("confidence of the shallow model")
        axes.set_ylabel("density within the class")
        axes.set_title(f"{results.title}: {method_name(method)}", loc="left")
        figure.legend(loc="outside lower center", ncols=2)
        return save(figure, folder, name)


def draw_trajectory(results: TextResults, folder: Path, name: str) -> list[str]:
    """Draw the threshold of each text, in order, of the methods that estimate it; a line per seed."""
    look = looks(results)
    lines = [
        (method, seed, one.trajectory)
        for method in results.methods
        for seed, one in counted(results, method).items()
        if one.trajectory
    ]
    if not lines:
        return []
    with canvas(5.6, 2.8) as (figure, (axes,)):
        named: set[str] = set()
        for method, _, trajectory in lines:
            label = None if method in named else method_name(method)
            named.add(method)
            axes.step(
                range(1, len(trajectory) + 1), trajectory, where="mid", color=look[method].colour, linewidth=1.2, label=label
            )  # fmt: skip
        axes.set(ylim=(-0.02, 1.02))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("text, in the order of the run")
        axes.set_ylabel("threshold in force")
        axes.set_title(f"{results.title}: the estimated threshold, a line per seed", loc="left")
        figure.legend(loc="outside lower center", ncols=3)
        return [save(figure, folder, name)]
