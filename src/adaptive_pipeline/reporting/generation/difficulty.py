"""Which block tokens of known difficulty come from."""

from __future__ import annotations

from pathlib import Path

from adaptive_pipeline.reporting.figures.style import canvas, save
from adaptive_pipeline.reporting.generation.curves import looks
from adaptive_pipeline.reporting.generation.frame import TextResults
from adaptive_pipeline.reporting.names import difficulty_key, method_name


def draw_difficulty(results: TextResults, folder: Path, name: str) -> list[str]:
    """Draw the mean block that tokens of known difficulty came from, one threshold per method, seeds pooled."""
    pooled, look = results.shown_kinds, looks(results)
    if pooled.empty:
        return []
    methods, names = list(dict.fromkeys(pooled.method)), sorted({*pooled.kind}, key=difficulty_key)
    width = 0.8 / len(methods)
    with canvas(2.2 + 0.42 * len(methods) * len(names), 3.4) as (figure, (axes,)):
        for rank, method in enumerate(methods):
            own = pooled[pooled.method == method].set_index("kind").reindex(names)
            places = [place + (rank - (len(methods) - 1) / 2) * width for place in range(len(names))]
            axes.bar(places, own.blocks, 0.92 * width, color=look[method].colour, label=method_name(method))
            for place, row in zip(places, own.dropna().itertuples(), strict=False):
                axes.annotate(
                    f"{100 * row.agreement:.0f}", (place, row.blocks), xytext=(0, 2), textcoords="offset points",
                    ha="center", va="bottom", fontsize=7, color="#333333",
                )  # fmt: skip
        axes.axhline(results.main.decoder_blocks.iloc[0], color="#999999", linewidth=0.8, zorder=1)
        axes.set_xticks(range(len(names)), names)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("block that a token came from, mean\n(above: agreement with all blocks, %)")
        axes.set_title(f"{results.title}: tokens of known difficulty", loc="left")
        figure.legend(loc="outside lower center", ncols=3)
        return [save(figure, folder, name)]
