"""One row at a time: run layers until the rule fires, and no further.

What is left out matters as much as what is done: no mask for an unpadded row, no test at the last exit, no loss, one
transfer from the device per exit (that of the logits), and the rule itself in numpy on C numbers. For rules that count
exits in a row, no head where no decision can fall (`engine.lazy`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.engine.lazy import find_exit
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import ExitRule, OnlineRule, OnlineStreak, load_rule
from adaptive_inference.exits.model import ExitModule, ExitStep, LateStep

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass
class ExitDecision:
    """Where one row left.

    Attributes
    ----------
    logits
        (1, C) of the exit that answered, before temperature.
    exit_index
        Position of the exit, from 0.
    exit_layer
        Layers before the exit, 1 to L (of a multi-model: of the member that answered).
    """

    logits: Tensor
    exit_index: int
    exit_layer: int


class Batch1Engine:
    """Runs a `MultiExitModel` or a `MultiModel` one row at a time.

    Parameters
    ----------
    model
        Put into eval mode.
    rule
        An exit rule or its name.
    threshold
        As the rule defines it; None where the rule allows it (``fixed``: full depth).
    calibration
        A `Calibrator`, the content of ``calibration.json``, or None: the model's own, or no calibration.
    lazy
        Leave out heads that decide nothing, where the rule allows it; False runs every head passed. Same answers.

    Raises
    ------
    UserError
        The rule does not fit the model or the task, or cannot be attained without labels.
    """

    def __init__(
        self,
        model: ExitModule,
        rule: str | ExitRule,
        threshold: float | None = None,
        calibration: Calibrator | Mapping[str, Any] | None = None,
        lazy: bool = True,
    ) -> None:
        self.model = model.eval()
        self.rule = load_rule(rule) if isinstance(rule, str) else rule
        self.threshold = threshold
        self.calibrator = _calibrator(model, model.calibration if calibration is None else calibration)
        if not self.rule.attainable:
            raise UserError(
                f"exit rule {self.rule.name!r} needs the true labels and cannot answer; choose another rule"
            )
        kind = "classification" if model.schema is None else model.schema.kind
        self.rule.check(kind, model.has_certainty)
        if threshold is not None and math.isnan(threshold):
            raise UserError(
                "the threshold is not a number; give one of the rule's range, see docs/exit_rules.md"
            )
        online = self.rule.online(threshold)  # refuses a bad threshold now rather than at the first row
        if threshold is not None:
            self.rule.warn_if_idle(threshold, len(model.exits))
        self._lazy = lazy and isinstance(online, OnlineStreak)
        self._last = len(model.exits) - 1
        self._device = model.device

    @torch.inference_mode()
    def run(self, features: Mapping[str, Any]) -> ExitDecision:
        """Answer one row.

        Parameters
        ----------
        features
            ``input_ids`` (1, N) and, where the tokenizer makes them, ``attention_mask`` and ``token_type_ids``;
            other keys are ignored.
        """
        rule = self.rule.online(self.threshold)
        steps = self.model.steps(self._inputs(features), certainty=self.rule.needs_certainty, late=self._lazy)
        if self._lazy:
            step = find_exit(steps, self._last, rule, self._read, together=self._device.type != "cpu")
        else:
            step = next(step for step in steps if step.index == self._last or self._leaves(rule, step))
        return ExitDecision(step.logits, step.index, step.layer)

    def _inputs(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        if features["input_ids"].shape[0] != 1:
            raise UserError(f"the batch-1 engine takes one row, not {features['input_ids'].shape[0]}")
        row = {name: features[name] for name in INPUTS if features.get(name) is not None}
        if "attention_mask" in row and bool(
            row["attention_mask"].all()
        ):  # asked before the row goes to the device
            del row["attention_mask"]
        return {name: item.to(self._device, non_blocking=True) for name, item in row.items()}

    def _read(self, steps: Sequence[LateStep]) -> list[np.ndarray]:
        """Return the calibrated logits of some exits, each (1, C), by one transfer."""
        logits = torch.cat([step.logits for step in steps]).float().cpu().numpy()
        return [
            self.calibrator.logits(row[None], step.index) for row, step in zip(logits, steps, strict=True)
        ]

    def _leaves(self, rule: OnlineRule, step: ExitStep) -> bool:
        if step.certainty is None:
            logits, certainty = step.logits.float().cpu().numpy(), None
        else:  # one transfer for both
            both = torch.cat([step.logits, step.certainty[:, None]], dim=1).float().cpu().numpy()
            logits, certainty = both[:, :-1], both[:, -1]
        k = step.index
        calibrated: np.ndarray = self.calibrator.logits(logits, k)
        return bool(rule.leave(k, calibrated, self.calibrator.certainty(certainty, k))[0])


def _calibrator(model: ExitModule, calibration: Calibrator | Mapping[str, Any] | None) -> Calibrator:
    exits = len(model.exits)
    if calibration is None:
        return Calibrator.identity(exits)
    found = calibration if isinstance(calibration, Calibrator) else Calibrator.from_json(calibration)
    if len(found.temperatures) != exits:
        raise UserError(
            f"the calibration is of {len(found.temperatures)} exits, the model has {exits}; calibrate it again"
        )
    return found
