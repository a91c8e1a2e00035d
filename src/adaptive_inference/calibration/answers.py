"""The answers of all exits on disk, with what they are measured with: curves and predictions need no model again.

One safetensors file of a few hundred kB, of equal bytes for equal answers; no text of examples. What it holds is not
calibrated; temperatures are in ``calibration.json``.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_inference.calibration.curves import Yardstick
from adaptive_inference.errors import UserError
from adaptive_inference.exits.outputs import ExitOutputs

ANSWERS_FILE = "answers.safetensors"
_PLAIN = ("metric", "kind", "num_classes", "num_layers")  #: of a yardstick


def save_answers(file: Path, outputs: ExitOutputs, yardstick: Yardstick) -> None:
    """Write the outputs of one pass, not calibrated, and the yardstick of the rows."""
    from safetensors.numpy import save

    columns = {item.name: getattr(outputs, item.name) for item in fields(outputs)}
    columns |= {name: getattr(yardstick, name) for name in _names(Yardstick) if name not in _PLAIN}
    arrays = {name: np.ascontiguousarray(column) for name, column in columns.items() if column is not None}
    head = json.dumps({name: getattr(yardstick, name) for name in _PLAIN}, sort_keys=True)
    file.write_bytes(save(arrays, {"yardstick": head}))  # one entry: the order of several is not kept


def load_answers(file: Path) -> tuple[ExitOutputs, Yardstick]:
    """Read what `save_answers` wrote.

    Raises
    ------
    UserError
        The file is missing or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as stream:
            found: dict[str, Any] = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            found |= json.loads((stream.metadata() or {})["yardstick"])
        for name in ("exits", "layers_cost"):
            found[name] = tuple(found[name].tolist())
        outputs = {name: found.get(name) for name in _names(ExitOutputs)}
        return ExitOutputs(**outputs), Yardstick(**{name: found.get(name) for name in _names(Yardstick)})
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(f"{file} holds no answers ({error}); run its stage again") from error


def _names(kind: type) -> list[str]:
    return [item.name for item in fields(kind)]
