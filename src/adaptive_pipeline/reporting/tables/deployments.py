"""``deployments.md``: models in every deployment, against the opponents that need no early exit."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from typing import Any

import pandas as pd

from adaptive_pipeline.reporting.frame import PAIR
from adaptive_pipeline.reporting.names import method_name, rule_name
from adaptive_pipeline.reporting.text.markdown import bold, interval_text, notes_list, number, table

HEADERS = (
    "Model", "Deployment", "Leaves by", "Quality", "Loss, points", "Layers ×", "ms a text",
    "× stock PyTorch", "× full model, same deployment", "× static int8",
)  # fmt: skip
RATIOS = ("wallclock", "same_deployment", "static_int8")
NOTES = (
    "Bold: what is recommended, and stands in the model folder. Each row is at its own best setting: the fastest that is "
    "promised in this deployment, with temperatures and thresholds fitted on its own answers. *Fixed exit*: every text "
    "leaves after the same layer, a static model, the opponent of every rule.",
    "Speed-ups at batch 1, of one process in which all rows answer the same texts in turn: against the full model at full "
    "depth in PyTorch (stock), in the same deployment, and in int8 (static int8); with 95 % intervals over texts. They are "
    "of the machine named below the table, and so is the choice.",
    "*Static embedding*: the mean of a text's token embeddings and a linear layer, run by numpy; it begins with the full "
    "model's embeddings. It is never recommended; where it loses little, no layer of a transformer is needed to answer.",
    "Loss: against the full model in PyTorch, on the evaluation split, with its 95 % interval over rows.",
)


def deployments_markdown(rows: pd.DataFrame) -> str:
    """Return ``deployments.md`` from the rows of ``deployments.csv``."""
    lines = ["# Deployments", ""]
    for (task, backbone, seed), here in rows.groupby([*PAIR, "seed"], sort=False):
        measured, others = here[here.quality.notna()], here[here.quality.isna()]
        lines += [f"## {task}, {backbone}, seed {seed}", ""]
        lines += [*table("lll" + "r" * 7, HEADERS, [_cells(row) for row in measured.itertuples()]), ""]
        lines += [
            f"- {method_name(row.method)} as `{row.deployment}`: {row.why}." for row in others.itertuples()
        ]
        lines += [""] * bool(len(others))
        lines += [f"Timed on {machine}.", ""] if (machine := _machine(measured)) else []
    return "\n".join([*lines, *notes_list(NOTES)])


def _machine(rows: pd.DataFrame) -> str:
    return next((name for name in rows.machine if name), "")


def _cells(row: Any) -> list[str]:
    ratios = [
        number(getattr(row, f"{name}_speedup"), ".2f")
        + interval_text(getattr(row, f"{name}_low"), getattr(row, f"{name}_high"), " [{}]")
        for name in RATIOS
    ]
    loss = number(row.loss, ".2f") + _loss_interval(row)
    cells = [method_name(row.method), f"`{row.deployment}`", _leaves(row), number(row.quality, ".4f"), loss]
    cells += [number(row.layers_speedup, ".2f"), number(row.median_ms, ".2f")]
    return bold([*cells, *ratios], bool(row.chosen))


def _loss_interval(row: Any) -> str:
    return "" if pd.isna(row.low) else f" [{number(row.low, '.2f')} to {number(row.high, '.2f')}]"


def _leaves(row: Any) -> str:
    name = rule_name(row.leaves_by)
    return name if row.leaves_by == "fixed" else f"{name} {row.threshold:.4g}"
