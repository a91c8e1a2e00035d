"""The answers of all exits on disk, with what they are measured with: calibration, curves and predictions need no model.

One safetensors file of a few hundred kB, of equal bytes for equal answers; no text of examples. What it holds is not
calibrated; temperatures are in ``calibration.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.errors import UserError
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.files import read_arrays, write_arrays

_PLAIN = ("metric", "kind", "num_classes", "num_layers")  #: of a yardstick


@dataclass(frozen=True)
class Answers:
    """What one pass over a split gives.

    Attributes
    ----------
    outputs
        Of every exit, not calibrated.
    yardstick
        Of these rows.
    cascade
        The exits are members of a cascade, each a model that could answer alone.
    made_from
        Name -> digest of what they were computed from: ``data``, ``full``, ``model``, and the record of the pass.
    """

    outputs: ExitOutputs
    yardstick: Yardstick
    cascade: bool = False
    made_from: Mapping[str, str] = field(default_factory=dict)

    def check_full(self, full: Answers) -> None:
        """Refuse answers that are not the full model's to the same rows.

        Raises
        ------
        UserError
            They were made from other rows, or by another model than the full one that these were made beside.
        """
        asked = {"data": self.made_from.get("data"), "model": self.made_from.get("full")}
        for name, digest in asked.items():
            if full.made_from.get(name) != digest:
                raise UserError(
                    f"the full model's answers were made from another {name} than the method's; run collect_answers again "
                    "for both"
                )

    def save(self, file: Path) -> None:
        """Write one file."""
        columns = {item.name: getattr(self.outputs, item.name) for item in fields(ExitOutputs)}
        columns |= {name: getattr(self.yardstick, name) for name in _names(Yardstick) if name not in _PLAIN}
        arrays = {name: column for name, column in columns.items() if column is not None}
        plain = {name: getattr(self.yardstick, name) for name in _PLAIN}
        head = {"yardstick": plain, "cascade": self.cascade, "made_from": dict(self.made_from)}
        write_arrays(file, arrays, "answers", head)

    @classmethod
    def load(cls, file: Path) -> Answers:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            The file is missing or holds something else.
        """
        try:
            arrays, head = read_arrays(file, "answers")
            found: dict[str, Any] = arrays | head["yardstick"]
            for name in ("exits", "layers_cost"):
                found[name] = tuple(found[name].tolist())
            outputs = ExitOutputs(**{name: found.get(name) for name in _names(ExitOutputs)})
            yardstick = Yardstick(**{name: found.get(name) for name in _names(Yardstick)})
            return cls(outputs, yardstick, head["cascade"], head["made_from"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file} holds no answers ({error}); run its stage again") from error


def _names(kind: type) -> list[str]:
    return [item.name for item in fields(kind)]
