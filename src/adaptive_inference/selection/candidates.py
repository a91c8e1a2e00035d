"""What a method offers to a choice among methods: its answers to the calibration rows under every rule and threshold.

One safetensors file per method; no text of examples, and no temperature or rule is needed to choose from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np

from adaptive_inference.calibration.operating_point import Cost, Setting
from adaptive_inference.errors import UserError
from adaptive_inference.files import read_arrays, write_arrays

#: What a choice counts: the cost that a goal names, or time.
Currency = Cost | Literal["clock"]


@dataclass(frozen=True)
class Family:
    """One model under one rule at T thresholds, on N rows: candidates that are neighbours in cost.

    Attributes
    ----------
    rule, member
        As in `Setting`; the members of a cascade, each alone, are one family of rule ``fixed``.
    thresholds
        ``(T,)``.
    members
        ``(T,)`` layers of the member that answers alone; 0: the whole model answers.
    answers
        ``(T, N)`` classes or scores.
    layers_speedup, flops_speedup
        ``(T,)``: full cost / own cost on these rows.
    clock_speedup
        The same in time, of a model in a deployment that was timed; of one machine, so it is not saved.
    """

    rule: str
    thresholds: np.ndarray
    members: np.ndarray
    answers: np.ndarray
    layers_speedup: np.ndarray
    flops_speedup: np.ndarray
    clock_speedup: np.ndarray | None = None

    def setting(self, t: int) -> Setting:
        """Return how the candidate of index ``t`` answers."""
        return Setting(self.rule, float(self.thresholds[t]), int(self.members[t]) or None)

    def speedup(self, cost: Currency) -> np.ndarray:
        """Return the speed-ups in a currency, ``(T,)``."""
        if cost == "clock":
            assert self.clock_speedup is not None
            return self.clock_speedup
        return self.layers_speedup if cost == "layers" else self.flops_speedup


@dataclass(frozen=True)
class Candidates:
    """All families of a method.

    Attributes
    ----------
    method
        Key of the method; of the full model, the last candidate is the whole of it.
    metric, num_classes
        Of the task.
    labels, ids
        ``(N,)``.
    made_from
        Name -> digest of what the answers were computed from.
    """

    method: str
    metric: str
    num_classes: int
    labels: np.ndarray
    ids: np.ndarray
    families: tuple[Family, ...]
    made_from: Mapping[str, str] = field(default_factory=dict)

    def save(self, file: Path) -> None:
        """Write one file, of equal bytes for equal content."""
        arrays = {"labels": self.labels, "ids": self.ids}
        arrays |= {
            f"{k}/{name}": getattr(family, name) for k, family in enumerate(self.families) for name in _ARRAYS
        }
        head = {
            "method": self.method,
            "metric": self.metric,
            "num_classes": self.num_classes,
            "rules": [family.rule for family in self.families],
            "made_from": dict(self.made_from),
        }
        write_arrays(file, arrays, "candidates", head)

    @classmethod
    def load(cls, file: Path) -> Candidates:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            The file is missing or holds something else.
        """
        try:
            found, head = read_arrays(file, "candidates")
            families = tuple(
                Family(rule, *(found[f"{k}/{name}"] for name in _ARRAYS))
                for k, rule in enumerate(head["rules"])
            )
            return cls(
                head["method"],
                head["metric"],
                head["num_classes"],
                found["labels"],
                found["ids"],
                families,
                head["made_from"],
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{file} holds no candidates ({error}); run calibrate_thresholds again"
            ) from error


_ARRAYS = tuple(item.name for item in fields(Family) if item.name not in ("rule", "clock_speedup"))
