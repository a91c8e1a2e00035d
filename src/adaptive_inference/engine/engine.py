"""Run layers until the rule fires, and no further, for one row or many.

What is left out matters as much as what is done: no mask for unpadded rows, no test at the last exit, no loss, one
transfer from the device per exit (that of the logits), and the rule itself in numpy on a few numbers. Rows that leave are
taken out of the batch, or carried on unheard where that is cheaper (`Compaction`), and the rest run on; each row gets the
answer that it gets alone, up to rounding.

Shapes: B rows, N tokens, C classes, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.engine.alone import Alone
from adaptive_inference.engine.compaction import Compaction
from adaptive_inference.engine.looks import EveryExit, Look, LookBack
from adaptive_inference.engine.underway import Decisions, Left, Merging, Underway, gather
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import ExitRule, OnlineStreak, load_rule

if TYPE_CHECKING:
    from adaptive_inference.engine.runner import Run, Runner
    from adaptive_inference.exits.model import ExitModule


class Engine:
    """Runs a `MultiExitModel` or a `MultiModel` under an exit rule.

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
    runner
        What runs the layers; None: torch.
    deepest
        Index of the exit at which all rows have left, whatever the rule says; None: the model's last. No layer below it is
        run, provided that it is one of the runner's `cuts`.
    compaction
        When rows that left are taken out of a batch; None: as soon as they leave.

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
        runner: Runner | None = None,
        deepest: int | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        self.model = model
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
        if runner is None:
            from adaptive_inference.engine.torch_runner import TorchRunner

            runner = TorchRunner(model, self.rule.needs_certainty)
        self.runner, self.compaction = runner, compaction
        self._lazy = lazy and runner.looks_back and isinstance(online, OnlineStreak)
        self._exits, self._last = np.array(model.exits), len(model.exits) - 1
        if deepest is not None:
            if not 0 <= deepest <= self._last:
                raise UserError(
                    f"there is no exit of index {deepest}: those of this model are 0 to {self._last}"
                )
            self._last = deepest
        self._alone = None  # a device is waited for once for several exits, which is `LookBack`'s to do
        if not runner.waits:
            self._alone = Alone(runner, self.rule, threshold, self.calibrator, model.exits, self._last, lazy)

    def run(self, features: Mapping[str, Any]) -> Decisions:
        """Answer a batch.

        Parameters
        ----------
        features
            ``input_ids`` (B, N) and, where rows are padded, ``attention_mask`` (B, N), and where the tokenizer makes
            them ``token_type_ids`` (B, N); other keys are ignored.

        Raises
        ------
        UserError
            There is no row, or no token in any.
        """
        shape = np.shape(features["input_ids"])
        if 0 in shape:
            raise UserError(
                f"a batch of {shape[0]} rows with {shape[-1]} tokens has nothing to answer; leave it out"
            )
        rows, parts = shape[0], []
        if rows == 1 and self._alone is not None:
            return self._alone.run(features)
        with self.runner.inference():
            run = self.runner.start(features)
            batch = Underway(run, self._look(run, rows), self._last, np.arange(rows))
            for k in range(self._last + 1):
                left = batch.ask(k)
                if left is None:
                    continue
                parts.append(left)
                if not batch.waiting:
                    break
                if self.compacts(batch, k, features):
                    batch.compact()
        return gather(parts, self._exits)[1]

    def compacts(self, batch: Underway, k: int, features: Mapping[str, Any]) -> bool:
        """Whether to take the rows that have left at exit ``k`` out before the layers up to the next one run."""
        if self.compaction is None:
            return True
        layers = self.model.layers_cost[k + 1] - self.model.layers_cost[k]
        return self.compaction.pays(batch.waiting, batch.carried, len(features["input_ids"][0]), layers)

    def start(self, features: Mapping[str, Any], places: np.ndarray) -> Merging:
        """Start a batch that will be merged with others, see `Stream`; inside `Runner.inference`."""
        run = self.runner.start(features, alone=False)
        return Merging(run, self._every_exit(run), self._last, places)

    def gather(self, parts: Sequence[Left]) -> tuple[np.ndarray, Decisions]:
        """Bring together rows that left, in the order of their places; see `underway.gather`."""
        return gather(parts, self._exits)

    def _look(self, run: Run, rows: int) -> Look:
        if not self._lazy:
            return self._every_exit(run)
        runner, rule = self.runner, self.rule.online(self.threshold)
        return LookBack(run, runner.cuts, rule, self.calibrator, rows, self._last, runner.waits)

    def _every_exit(self, run: Run) -> EveryExit:
        return EveryExit(run, self.runner.cuts, self.rule.online(self.threshold), self.calibrator)


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
