"""``rationales.md``: how scores of tokens, and kept tokens, agree with rationales and with the model's own answers."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from typing import Any

import pandas as pd

from adaptive_inference.evaluation.explained import ALL_LAYERS
from adaptive_pipeline.reporting.frame import PAIR
from adaptive_pipeline.reporting.names import kind_name, method_name
from adaptive_pipeline.reporting.text.markdown import notes_list, number, spread_text, table

AGREEMENT = (
    "Scores",
    "Layer",
    "Seeds",
    "Rows",
    "Average precision",
    "Precision",
    "Recall",
    "Token F1",
    "IoU F1",
)
AGREEMENT += ("False-positive rate", "Kept minus these [95 %]")
FAITHFULNESS = ("Model", "Scores", "Layer", "Seeds", "Rows", "Comprehensiveness", "Sufficiency")
NOTES = (
    "Means over seeds ± their spread (n − 1); rows: of all seeds together. Agreement is of rows with a rationale, by word "
    "pieces, each figure the mean over rows, as ERASER reports them; ERASER counts words.",
    "Of a layer: average precision is of what the predictor says on entry, what went before ranking last; the others "
    "are of the tokens that the layer keeps. All layers: average precision is of the mean of the layers' contributions, the "
    "others are means over the layers. No layer is chosen by its figures.",
    "Saliency, attention and rollout, of the full model, are taken at as many tokens of each row as the layer keeps. The "
    "last column is the false-positive rate of the kept tokens less theirs: below 0, the kept tokens are better. Its "
    "interval is over rows, of several seeds the widest.",
    "Comprehensiveness: by how much the probability of the model's answer falls without the best 1, 5, 10, 20 and 50 % of "
    "the tokens, on average (large is good); sufficiency: with them alone (small is good). Each explains the model that is "
    "named, so that different models' figures do not compare scores alone.",
)


def rationales_markdown(rows: pd.DataFrame) -> str:
    """Return ``rationales.md`` from the rows of ``rationales.csv``."""
    lines = ["# Which tokens count", ""]
    for (task, backbone), here in rows.groupby(PAIR, sort=False):
        lines += [f"## {task}, {backbone}", ""]
        for method, own in here[here.average_precision_mean.notna() | here.recall_mean.notna()].groupby(
            "method", sort=False
        ):
            cells = map(_agreement_cells, own.itertuples())
            lines += [f"**Agreement with rationales: {method_name(method)}**", ""]
            lines += [*table("llrrrrrrrrr", AGREEMENT, cells), ""]
        told = here[here.comprehensiveness_mean.notna()]
        if len(told):
            cells = map(_faithfulness_cells, told.itertuples())
            lines += [
                "**Whether answers hang on the tokens**",
                "",
                *table("lllrrrr", FAITHFULNESS, cells),
                "",
            ]
    return "\n".join([*lines, *notes_list(NOTES)])


def _layer(layer: str) -> str:
    return "all" if layer == ALL_LAYERS else layer


def _agreement_cells(row: Any) -> list[str]:
    names = ("average_precision", "precision", "recall", "token_f1", "iou_f1", "false_positive_rate")
    figures = [
        spread_text(getattr(row, f"{name}_mean"), getattr(row, f"{name}_std"), ".3f") for name in names
    ]
    difference = number(row.fpr_difference_mean, "+.3f")
    if difference and pd.notna(row.fpr_low):
        difference += f" [{number(row.fpr_low, '+.3f')}, {number(row.fpr_high, '+.3f')}]"
    return [kind_name(row.kind), _layer(row.layer), str(row.seeds), str(row.rationales), *figures, difference]


def _faithfulness_cells(row: Any) -> list[str]:
    names = ("comprehensiveness", "sufficiency")
    figures = [
        spread_text(getattr(row, f"{name}_mean"), getattr(row, f"{name}_std"), ".3f") for name in names
    ]
    return [
        method_name(row.method),
        kind_name(row.kind),
        _layer(row.layer),
        str(row.seeds),
        str(row.rows),
        *figures,
    ]
