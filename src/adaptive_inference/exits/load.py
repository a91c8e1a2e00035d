"""Load a saved model, whichever kind the folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_inference.exits.cascade import MultiModel
from adaptive_inference.exits.deployment import is_deployment
from adaptive_inference.exits.layout import open_model
from adaptive_inference.exits.model import ExitModule, MultiExitModel


def load_model(
    folder: str | Path, classes: Sequence[type[ExitModule]] = (MultiExitModel, MultiModel)
) -> ExitModule:
    """Load a model folder, or a method's run folder (see `layout`).

    Parameters
    ----------
    folder
        Written by ``save_pretrained`` or `adaptive-inference export`.
    classes
        One for each kind.

    Raises
    ------
    UserError
        The folder holds no model of this project, or a damaged one.
    """
    saved = open_model(folder)
    if is_deployment(saved.home):
        raise UserError(
            f"{saved.home} holds graphs for ONNX Runtime and no weights: answer with load_predictor or `adaptive-inference "
            "predict`, or name the folder that it was exported from"
        )
    kind = saved.config["kind"]
    return next(item for item in classes if item.kind == kind).from_pretrained(folder)
