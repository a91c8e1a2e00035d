"""A model folder as an MLflow model: code from a file, signature, input example, and what it needs installed."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adaptive_inference.exits.deployment import is_deployment
from adaptive_inference.serving.metadata import LIBRARY
from adaptive_inference.tasks.schema import Schema

CODE = Path(__file__).with_name("served_model.py")


def save_mlflow_model(folder: Path, out: Path) -> None:
    """Write a model folder as an MLflow model.

    Parameters
    ----------
    folder
        As `export` writes it.
    out
        Made here; must not exist.
    """
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec
    from mlflow.types import Schema as Columns
    from mlflow.types.schema import Map

    schema, needs = Schema.load(folder), "onnx" if is_deployment(folder) else "torch"
    params = [
        ParamSpec("rule", DataType.string, None),
        ParamSpec("threshold", DataType.double, None),
        ParamSpec("max_latency_ms", DataType.double, None),
    ]
    answer: dict[str, Any] = {"score": DataType.double}
    if schema.labels is not None:
        answer = {
            "label": DataType.string,
            "probability": DataType.double,
            "probabilities": Map(DataType.double),
        }
    answer |= {"exit_layer": DataType.long, "cut": DataType.boolean, "flops": DataType.long}
    signature = ModelSignature(
        inputs=Columns([ColSpec(DataType.string, name) for name in schema.text]),
        outputs=Columns([ColSpec(kind, name) for name, kind in answer.items()]),
        params=ParamSchema(params),
    )
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    save_model(
        path=out,
        python_model=str(CODE),
        artifacts={"model": str(folder)},
        signature=signature,
        input_example=pd.DataFrame([dict.fromkeys(schema.text, "a truly lovely film")]),
        pip_requirements=[
            f"{LIBRARY}[{needs}]=={version(LIBRARY)}",
            f"mlflow=={version('mlflow')}",
            "pandas",
        ],
    )
