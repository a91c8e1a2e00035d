"""The timing protocol: which rows are timed, how the engines run them, and that they stop where the sweep says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.calibration.operating_point import OperatingPoint
from adaptive_inference.engine import Engine
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.evaluation.latency import Timing, summarise, time_interleaved
from adaptive_inference.evaluation.points import Row, check_agreement, row_key
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.tasks.encode import collate
from adaptive_inference.tasks.quality import predict

if TYPE_CHECKING:
    from adaptive_inference.settings.protocol import Evaluation


def draw_rows(total: int, count: int, seed: int) -> np.ndarray:
    """Draw the rows that are timed, without repeats, in order."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


@dataclass
class WallClock:
    """Times operating points against the full model on rows drawn once.

    Attributes
    ----------
    baseline
        Runs the full fine-tuned model whole, on the device.
    features
        All rows of the reported split, as `tasks.encode.encode` returns them.
    protocol
        Rows, rounds, warm-up, resamples.
    seed
        Draws the rows and every random order.
    """

    baseline: Engine
    features: Sequence[Mapping[str, Any]]
    protocol: Evaluation
    seed: int

    def __post_init__(self) -> None:
        """Draw the rows and put them on the device, one unpadded batch each: only the model is timed."""
        self.rows = draw_rows(len(self.features), self.protocol.timed_examples, self.seed)
        device = self.baseline.model.device
        names = ("input_ids", "token_type_ids")  # a row without padding needs no mask
        batches = [collate([self.features[i]], None) for i in self.rows]
        self.examples = [{n: batch[n].to(device) for n in names if n in batch} for batch in batches]
        self.synchronize: Callable[[], None] | None = None
        if device.type == "cuda":
            import torch

            self.synchronize = torch.cuda.synchronize

    def measure(
        self, points: Sequence[tuple[Engine, Candidate]]
    ) -> list[tuple[dict[str, Any], dict[str, int]]]:
        """Return for each operating point its timing row, and how the engine agrees with the offline sweep.

        Parameters
        ----------
        points
            What runs each, at its rule and threshold, and who answers; its outputs are of all rows of the split. All are
            timed together: one round of the full model serves them all.

        Raises
        ------
        RuntimeError
            A row leaves elsewhere than the sweep says, and not by rounding.
        """
        agreements = [self._agreement(engine, candidate) for engine, candidate in points]
        full, *rest = time_interleaved(
            [engine.run for engine in (self.baseline, *(engine for engine, _ in points))],
            self.examples,
            self.protocol.repeats,
            self.protocol.warmup,
            self.seed,
            self.synchronize,
        )
        rows = [summarise(Timing(full, method), self.protocol.bootstrap, self.seed) for method in rest]
        return list(zip(rows, agreements, strict=True))

    def _agreement(self, engine: Engine, candidate: Candidate) -> dict[str, int]:
        decisions = [engine.run(example) for example in self.examples]
        exits = np.concatenate([decision.exit_indices for decision in decisions])
        logits = np.concatenate([decision.logits for decision in decisions])
        answers = predict(logits, candidate.yardstick.kind)
        outputs = candidate.outputs.take(self.rows)
        width = candidate.calibrator.certainty_width
        kept = [decision.survivors for decision in decisions if decision.survivors is not None]
        survivors = np.concatenate(kept) if kept else None
        return check_agreement(engine.rule, engine.threshold, outputs, exits, answers, width, survivors)


def time_points(
    clock: WallClock, answering: Iterable[tuple[OperatingPoint, Candidate]], make: Callable[..., Engine]
) -> tuple[list[Row], list[Row]]:
    """Return a timing row of each operating point that an engine can run, and how it agrees with the sweep.

    Two goals that chose one setting share one measurement. See `WallClock.measure`.

    Parameters
    ----------
    clock
        On the rows that the candidates answered.
    answering
        Operating points and who answers.
    make
        From model, rule, threshold and calibrator to an engine.
    """
    timed = [
        (point, candidate)
        for point, candidate in answering
        if point.reached and load_rule(point.setting.rule).attainable
    ]
    settings = {point.setting: candidate for point, candidate in timed}
    engines = [
        (make(who.model, load_rule(setting.rule), setting.threshold, who.calibrator), who)
        for setting, who in settings.items()
    ]
    found = dict(zip(settings, clock.measure(engines) if engines else [], strict=True))
    timings, agreements = [], []
    for point, candidate in timed:
        timing, agreement = found[point.setting]
        key = row_key(point, candidate.method) | {"threshold": point.setting.threshold}
        timings.append(key | timing)
        agreements.append({"method": candidate.method, "point": point} | agreement)
    return timings, agreements
