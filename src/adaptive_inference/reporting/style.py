"""How figures look, and how they are written: the same records give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_inference.reporting.names import METHODS, method_key, static_layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours of Okabe and Ito (distinct for colour-blind readers), fixed per method: the same in every figure.
COLOURS = {
    "full": "#000000",
    "static": "#7f7f7f",
    "early_exit": "#0072B2",
    "sweet": "#D55E00",
    "multi_model": "#009E73",
    "learning_to_exit": "#CC79A7",
    "pabee": "#E69F00",
    "leebert": "#56B4E9",
}
SPARE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D3A9B", "#8C6D1F")
MARKERS = {"early_exit": "o", "sweet": "D", "multi_model": "s", "learning_to_exit": "^"}
SPARE_MARKERS = ("v", "P", "X", "<", ">", "p", "h", "8")

_SETTINGS = {
    "svg.hashsalt": "adaptive-inference",  # element ids of an SVG are drawn at random otherwise
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # ships with matplotlib: no dependence on the machine's fonts
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
    if family in COLOURS:
        return COLOURS[family]
    return SPARE[_spare_index(method) % len(SPARE)]


def marker(method: str) -> str:
    """Return the method's marker."""
    return MARKERS.get(method) or SPARE_MARKERS[_spare_index(method) % len(SPARE_MARKERS)]


def _spare_index(method: str) -> int:
    rank = method_key(method)[0]
    return rank if rank < len(METHODS) else sum(method.encode())


@contextmanager
def canvas(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: object
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Give a figure (inches) and its axes row by row, drawn without a display, and close it afterwards."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.use("Agg")
        matplotlib.rcParams.update(_SETTINGS)
        figure, axes = plt.subplots(
            rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options
        )
        try:
            yield figure, list(axes.flat)
        finally:
            plt.close(figure)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write ``name.png`` and ``name.svg`` without dates, so that equal figures are equal bytes."""
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, metadata=metadata, bbox_inches="tight", pad_inches=0.06)
        (folder / f"{name}.{kind}").write_bytes(stream.getvalue())
