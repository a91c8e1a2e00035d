"""The timing protocol: which rows are timed, how the engines run them, and that they stop where the sweep says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.calibration.operating_point import OperatingPoint, Setting
from adaptive_inference.engine.batch1 import Batch1Engine
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.evaluation.latency import Timing, summarise, time_interleaved
from adaptive_inference.evaluation.points import check_agreement, row_key
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.tasks.encode import collate
from adaptive_inference.tasks.quality import predict

if TYPE_CHECKING:
    from adaptive_inference.exits import MultiExitModel
    from adaptive_inference.settings.protocol import Evaluation


def draw_rows(total: int, count: int, seed: int) -> np.ndarray:
    """Draw the rows that are timed, without repeats, in order."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


@dataclass
class WallClock:
    """Times operating points against the full model on rows drawn once.

    Attributes
    ----------
    full
        The full fine-tuned model, on the device.
    features
        All rows of the reported split, as `tasks.encode.encode` returns them.
    protocol
        Rows, rounds, warm-up, resamples.
    seed
        Draws the rows and every random order.
    """

    full: MultiExitModel
    features: Sequence[Mapping[str, Any]]
    protocol: Evaluation
    seed: int

    def __post_init__(self) -> None:
        """Draw the rows and put them on the device, one unpadded batch each: only the model is timed."""
        self.rows = draw_rows(len(self.features), self.protocol.timed_examples, self.seed)
        device, names = (
            self.full.device,
            ("input_ids", "token_type_ids"),
        )  # a row without padding needs no mask
        batches = [collate([self.features[i]], None) for i in self.rows]
        self.examples = [{n: batch[n].to(device) for n in names if n in batch} for batch in batches]
        self.baseline = Batch1Engine(self.full, "fixed", None)
        self.synchronize: Callable[[], None] | None = None
        if device.type == "cuda":
            import torch

            self.synchronize = torch.cuda.synchronize

    def measure(
        self, answering: Iterable[tuple[OperatingPoint, Candidate]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return a timing row of each operating point that an engine can run, and how it agrees with the sweep.

        Parameters
        ----------
        answering
            Operating points and who answers; its outputs are of all rows of the split. All are timed together: one
            round of the full model serves them all. Two goals that chose one setting share one measurement.

        Raises
        ------
        RuntimeError
            A row leaves elsewhere than the sweep says, and not by rounding.
        """
        timed = [
            (point, candidate)
            for point, candidate in answering
            if point.reached and load_rule(point.setting.rule).attainable
        ]
        settings = {point.setting: candidate for point, candidate in timed}
        found = dict(zip(settings, self._measure(settings), strict=True))
        timings, agreements = [], []
        for point, candidate in timed:
            timing, agreement = found[point.setting]
            key = row_key(point, candidate.method) | {"threshold": point.setting.threshold}
            timings.append(key | timing)
            agreements.append({"method": candidate.method, "point": point} | agreement)
        return timings, agreements

    def _measure(self, settings: Mapping[Setting, Candidate]) -> list[tuple[dict[str, Any], dict[str, int]]]:
        if not settings:
            return []
        engines = [
            Batch1Engine(who.model, load_rule(setting.rule), setting.threshold, who.calibrator)
            for setting, who in settings.items()
        ]
        agreements = [
            self._agreement(engine, who) for engine, who in zip(engines, settings.values(), strict=True)
        ]
        full, *rest = time_interleaved(
            [engine.run for engine in (self.baseline, *engines)],
            self.examples,
            self.protocol.repeats,
            self.protocol.warmup,
            self.seed,
            self.synchronize,
        )
        rows = [summarise(Timing(full, method), self.protocol.bootstrap, self.seed) for method in rest]
        return list(zip(rows, agreements, strict=True))

    def _agreement(self, engine: Batch1Engine, candidate: Candidate) -> dict[str, int]:
        decisions = [engine.run(example) for example in self.examples]
        exits = np.array([decision.exit_index for decision in decisions])
        logits = np.concatenate([decision.logits.float().cpu().numpy() for decision in decisions])
        answers = predict(logits, candidate.yardstick.kind)
        outputs = candidate.outputs.take(self.rows)
        return check_agreement(engine.rule, engine.threshold, outputs, exits, answers)
