"""TEST FIXTURE: invented records of deployments. No number here was measured by anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthetic_choices import ENVIRONMENT, Chosen

from adaptive_inference.calibration.operating_point import Seen, Setting
from adaptive_inference.files import write_json
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params
from adaptive_pipeline.runs.deployment_records import DeployedRow, DeploymentOffer, Exported
from adaptive_pipeline.runs.layout import out_path, timings_path
from adaptive_pipeline.runs.records import FAMILIES

#: Method and deployment -> times as fast as the full model in PyTorch.
SPEEDS = {
    ("full", "torch"): 1.0, ("full", "onnx_fp32"): 2.0, ("full", "onnx_int8"): 4.0,
    ("sweet", "torch"): 1.7, ("sweet", "onnx_fp32"): 3.2, ("sweet", "onnx_int8"): 6.0,
}  # fmt: skip
CHOSEN = ("sweet", "onnx_int8")
SETTING = Setting("confidence", 0.8125)
#: A method that `deployments` asks for besides.
OTHER = ("early_exit", "onnx_int8")
REFUSED = "at full depth it loses 3.20 points against PyTorch"


def write_deployments(
    root: Path,
    params: Params,
    cell: Cell,
    *,
    chosen: tuple[str, str] = CHOSEN,
    refused: bool = False,
    others: bool = False,
    recommended: Chosen | None = None,
    **offer: Any,
) -> None:
    """Write what `export_model` and `choose_deployment` leave for a task, backbone and seed below ``root``."""
    of = recommended or Chosen()
    given = {"recommended": (of.method, of.setting)}
    speeds = SPEEDS | ({OTHER: 8.0} if others else {})
    models = [
        Exported(method=method, deployment=name, quality=0.9, loss=0.1, bytes=1000)
        for method, name in speeds
        if name != "torch"
    ]
    if refused:
        models[1] = Exported(method="full", deployment="onnx_int8", quality=0.87, loss=3.2, why=REFUSED)
        speeds.pop(("full", "onnx_int8"))
    _save(root, "export_model", cell, params, models=models, **given)
    rows = [_row(key, chosen) for key in speeds]
    rows.append(DeployedRow(method="sweet", deployment="torch", adaptive=False, setting=None))
    body: dict[str, Any] = {
        "deployment": chosen[1],
        "method": chosen[0],
        "asked": "max_loss",
        "limit": 1.0,
        "kept": True,
    }
    body |= {"margin": 0.2, "probability": 0.85, "loss": 0.5, "low": 0.1, "high": 0.9}
    if chosen[0] != "full":
        body |= {"setting": SETTING, "seen": Seen(0.89, 1.8, 1.75), "difference": -0.004}
    made = DeploymentOffer(**({"setting": None} | body | offer))
    _save(
        root,
        "choose_deployment",
        cell,
        params,
        candidates=321,
        metric="accuracy",
        offer=made,
        rows=rows,
        **given,
    )
    clocks = [
        {
            "method": method,
            "deployment": name,
            "adaptive": method != "full",
            "chosen": (method, name) == chosen,
        }
        | _clock(speed, speeds.get(("full", name)), speeds.get(("full", "onnx_int8")))
        for (method, name), speed in speeds.items()
    ]
    write_json(
        root / timings_path("choose_deployment", cell).relative_to("runs"),
        {"environment": ENVIRONMENT, "full_ms": 20.0, "latency": [], "rows": clocks},
    )


def _row(key: tuple[str, str], chosen: tuple[str, str]) -> DeployedRow:
    full = key[0] == "full"
    return DeployedRow(
        method=key[0],
        deployment=key[1],
        adaptive=not full,
        setting=Setting("fixed", 0.0) if full else SETTING,
        chosen=key == chosen,
        quality=0.9 if full else 0.893,
        loss=0.0 if full else 0.7,
        low=None if full else -0.1,
        high=None if full else 1.5,
        layers_speedup=1.0 if full else 1.8,
        flops_speedup=1.0 if full else 1.75,
        differing=0,
    )


def _clock(speed: float, same: float | None, int8: float | None) -> dict[str, Any]:
    row = {"median_ms": 20.0 / speed, "p95_ms": 22.0 / speed}
    for name, other in (("wallclock", 1.0), ("same_deployment", same), ("static_int8", int8)):
        if other:
            ratio = speed / other
            row |= {f"{name}_speedup": ratio, f"{name}_low": 0.9 * ratio, f"{name}_high": 1.1 * ratio}
    return row


def _save(root: Path, stage: str, cell: Cell, params: Params, **fields: Any) -> None:
    given = {"stage": stage, "cell": cell, "params": params.echo(("goal",)), "inputs": {}, "code": "0" * 64}
    FAMILIES[stage](**given, **fields).save(root / out_path(stage, cell).relative_to("runs"))
