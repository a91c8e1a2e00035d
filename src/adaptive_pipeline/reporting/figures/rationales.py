"""What the predictors of a method say and keep, layer by layer, against the words that people marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from adaptive_inference.evaluation.explained import ALL_LAYERS, BASELINES, CONTRIBUTIONS
from adaptive_pipeline.reporting.breakdowns import rationales
from adaptive_pipeline.reporting.figures.style import SPARE, canvas, save
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.names import kind_name, method_name

#: Kind -> colour and marker.
LOOKS = dict(
    zip(
        (CONTRIBUTIONS, *BASELINES), zip(("#000000", *SPARE), ("*", "o", "s", "^"), strict=False), strict=True
    )
)


def draw_rationales(results: Results, folder: Path, stem: str) -> list[str]:
    """Draw average precision by layer, and the false-positive rate of what is kept; one figure per method that reduces."""
    rows = rationales(results)
    rows = rows[rows.rationales > 0]
    kept = rows[(rows.kind == CONTRIBUTIONS) & (rows.layer != ALL_LAYERS)]
    return [
        _draw(results.title, method, rows[rows.method == method], folder, f"{stem}-{method}")
        for method in dict.fromkeys(kept.method)
    ]


def _draw(where: str, method: str, rows: pd.DataFrame, folder: Path, name: str) -> str:
    whole, by_layer = rows[rows.layer == ALL_LAYERS], rows[rows.layer != ALL_LAYERS]
    with canvas(9.0, 3.4, 1, 2) as (figure, (scores, kept)):
        for kind, (colour, marker) in LOOKS.items():
            own = by_layer[by_layer.kind == kind]
            layers = own.layer.astype(int)
            look = {"color": colour, "marker": marker, "markersize": 5, "label": kind_name(kind)}
            if kind == CONTRIBUTIONS:
                _line(scores, layers, own.average_precision_mean, own.average_precision_std, look)
            else:
                scores.axhline(
                    whole[whole.kind == kind].average_precision_mean.item(),
                    color=colour,
                    linewidth=1.2,
                    linestyle="--",
                )
            _line(kept, layers, own.false_positive_rate_mean, own.false_positive_rate_std, look)
        mean = whole[whole.kind == CONTRIBUTIONS].average_precision_mean.item()
        scores.axhline(
            mean, color=LOOKS[CONTRIBUTIONS][0], linewidth=1.0, linestyle=":", label="mean of the layers"
        )
        scores.set_ylabel("average precision")
        kept.set_ylabel("false-positive rate\nat as many tokens as are kept")
        for axes in (scores, kept):
            axes.set(xlabel="layer", ylim=(0, 1.02))
            axes.set_xticks(sorted({int(layer) for layer in by_layer.layer}))
        labels = {}
        for axes in (scores, kept):
            labels |= {text: handle for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(
            labels.values(), labels.keys(), loc="outside upper left", ncols=3, alignment="left",
            title=f"{method_name(method)} on {where}: agreement with rationales", title_fontsize=9.5,
        )  # fmt: skip
        return save(figure, folder, name)


def _line(axes: Any, layers: pd.Series, mean: pd.Series, std: pd.Series, look: dict[str, Any]) -> None:
    axes.errorbar(layers, mean, yerr=std.fillna(0.0), linewidth=1.3, elinewidth=0.9, **look)
