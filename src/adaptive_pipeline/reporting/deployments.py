"""All deployments: one row for each model and what it is deployed as, per task, backbone and seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from adaptive_pipeline.reporting.choice import Deployment, deployment_of
from adaptive_pipeline.reporting.frame import PAIR, Results

#: What is measured, and what the clock says.
MEASURED = ("quality", "loss", "low", "high", "layers_speedup", "flops_speedup", "differing")
CLOCKED = (
    "median_ms", "p95_ms",
    "wallclock_speedup", "wallclock_low", "wallclock_high",
    "same_deployment_speedup", "same_deployment_low", "same_deployment_high",
    "static_int8_speedup", "static_int8_low", "static_int8_high",
)  # fmt: skip
COLUMNS = [
    *PAIR, "seed", "method", "deployment", "leaves_by", "threshold", "chosen",
    *MEASURED, *CLOCKED, "export_loss", "export_bytes", "why", "machine",
]  # fmt: skip


def deployments(results: Results) -> pd.DataFrame:
    """Return them; columns `COLUMNS`, NaN and None where nothing was measured.

    ``leaves_by`` is the rule, empty of a row that nothing is promised of or that is refused, as ``why`` says.
    ``export_loss`` is in points, at full depth on the calibration split, against the same model in PyTorch.
    """
    cells = dict.fromkeys(replace(cell, method="") for cell in results.cells)
    rows = [
        {"task": cell.task, "backbone": cell.backbone, "seed": cell.seed} | row
        for cell in cells
        if (found := deployment_of(results, cell))
        for row in _rows(found)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(found: Deployment) -> Iterator[dict[str, Any]]:
    exported = {(item.method, item.deployment): item for item in found.exported}
    for row, clock in zip(found.rows, found.clocks, strict=True):
        export = exported.get((row.method, row.deployment))
        yield {
            "method": row.method,
            "deployment": row.deployment,
            "leaves_by": row.setting.rule if row.setting else None,
            "threshold": row.setting.threshold if row.setting else None,
            "chosen": row.chosen,
            "why": ""
            if row.setting
            else f"nothing is promised {'by its rules' if row.adaptive else 'at an exit'}",
            "machine": found.machine if clock else "",
            "export_loss": export.loss if export else None,
            "export_bytes": export.bytes if export else None,
            **{name: getattr(row, name) for name in MEASURED},
            **{name: clock.get(name) for name in CLOCKED},
        }
    for item in found.refused:
        yield {
            "method": item.method,
            "deployment": item.deployment,
            "chosen": False,
            "export_loss": item.loss,
            "export_bytes": item.bytes,
            "why": item.why,
            "machine": "",
        }
