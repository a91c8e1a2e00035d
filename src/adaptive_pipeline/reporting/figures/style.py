"""How figures look, and how they are written: the same records give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from adaptive_inference.calibration.operating_point import static_layers
from adaptive_pipeline.reporting.names import METHODS, method_key, rule_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {method: colour for method, (_, colour) in METHODS.items() if colour}
SPARE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D3A9B", "#8C6D1F")
MARKERS = {"full": "*", "early_exit": "o", "sweet": "D", "multi_model": "s", "learning_to_exit": "^"}
SPARE_MARKERS = ("v", "P", "X", "<", ">", "p", "h")

#: A band of one standard deviation says something from so many seeds on, and can be read where no more of them overlap.
BAND_SEEDS, BANDS = 3, 4

_SETTINGS = {
    "svg.hashsalt": "adaptive-inference",  # element ids of an SVG are drawn at random otherwise
    "svg.fonttype": "none",  # text stays text: it can be searched
    "font.family": "sans-serif",
    # The first ships with matplotlib, which draws with it: no dependence on the machine's fonts. The others are for readers
    # of an SVG that lack it; Verdana has its widths.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


def colour(method: str) -> str:
    """Return the method's colour."""
    family = "static" if static_layers(method) is not None else method
    return COLOURS.get(family) or SPARE[_spare_index(method) % len(SPARE)]


def rule_colours(rules: Iterable[str]) -> dict[str, str]:
    """Return a colour for each rule of a figure: the bounds of all rules, fixed exit and oracle, in grey and black."""
    bounds = {"fixed": "#7f7f7f", "oracle": "#000000"}
    ranked = sorted(set(rules) - set(bounds), key=rule_key)
    return bounds | {rule: SPARE[i % len(SPARE)] for i, rule in enumerate(ranked)}


def marker(method: str) -> str:
    """Return the method's marker."""
    return MARKERS.get(method) or SPARE_MARKERS[_spare_index(method) % len(SPARE_MARKERS)]


def band_legible(seeds: int, lines: int) -> bool:
    """Whether a band of one standard deviation over seeds is drawn, in a panel with so many lines."""
    return seeds >= BAND_SEEDS and lines <= BANDS


def draw_line(axes: Axes, rows: pd.DataFrame, x: str, y: str, lines: int, **look: object) -> None:
    """Draw a method's line with markers and, where it can be read, a band of one standard deviation over seeds.

    ``rows`` are of one method, with columns ``x``, ``y``_mean, ``y``_std and ``seeds``; ``lines`` share the panel.
    """
    method, place, mean, std = rows.method.iloc[0], list(rows[x]), rows[f"{y}_mean"], rows[f"{y}_std"]
    axes.plot(
        place, mean, color=colour(method), marker=marker(method), markersize=11 if method == "full" else 5.5,
        markeredgecolor="white", markeredgewidth=0.6, linewidth=1.3, zorder=4 if method == "full" else 3, **look,
    )  # fmt: skip
    if std.isna().any() or not band_legible(rows.seeds.min(), lines):
        return
    if len(rows) > 1:
        axes.fill_between(
            place, mean - std, mean + std, color=colour(method), alpha=0.12, linewidth=0, zorder=2
        )
    else:
        axes.vlines(place, mean - std, mean + std, color=colour(method), linewidth=0.9, zorder=2)


def _spare_index(method: str) -> int:
    rank = method_key(method)[0]
    return rank if rank < len(METHODS) else sum(method.encode())


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure (inches), drawn without a display, and close it afterwards."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.use("Agg")
        matplotlib.rcParams.update(_SETTINGS)
        figure = plt.figure(figsize=(width, height), layout="constrained")
        try:
            yield figure
        finally:
            plt.close(figure)


@contextmanager
def canvas(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: object
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Give a figure (inches) and its axes row by row."""
    with drawing(width, height) as figure:
        yield figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


#: Kind of file -> what would differ from run to run, left out.
_UNDATED = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


def save(figure: Figure, folder: Path, name: str, kinds: Iterable[str] = tuple(_UNDATED)) -> str:
    """Write ``name.png`` and ``name.svg`` without dates, so that equal figures are equal bytes; return the name."""
    for kind in kinds:
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, metadata=_UNDATED[kind], bbox_inches="tight", pad_inches=0.06)
        (folder / f"{name}.{kind}").write_bytes(stream.getvalue())
    return name
