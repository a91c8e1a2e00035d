"""What DVC shows of decoding (``dvc metrics diff``): the threshold that stands for each method, as flat keys."""

from __future__ import annotations

import pandas as pd

from adaptive_pipeline.reporting.generation.frame import TextResults
from adaptive_pipeline.reporting.headline import DIGITS
from adaptive_pipeline.runs.text_records import SHOWN_FIRST

#: Figure -> its column of the main frame.
FIGURES = {
    "quality": "quality_mean",
    "quality_share": "quality_share",
    "agreement": "agreement",
    "blocks": "blocks",
    "block_calls": "block_calls",
    "flops_speedup": "flops_speedup",
    "wallclock_speedup": "free_speedup",
    "fixed_length_speedup": "fixed_speedup",
}


def text_metrics(results: TextResults) -> dict[str, float]:
    """Return ``TASK.MODEL.METHOD.FIGURE`` -> figure, means over seeds; what was not measured has no key."""
    found = {}
    for (task, model, method), rows in results.main.groupby(["task", "model", "method"], sort=False):
        shown = min(rows.itertuples(), key=lambda row: SHOWN_FIRST.index(row.goal))
        for name, column in FIGURES.items():
            if pd.notna(value := getattr(shown, column)):
                found[f"{task}.{model}.{method}.{name}"] = float(f"{round(value, 12):.{DIGITS}g}")
    return found
