"""The timing protocol: which rows are timed, how the engines run them, and that they stop where the sweep says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.calibration.operating_point import OperatingPoint
from adaptive_inference.engine import Engine
from adaptive_inference.engine.torch_runner import INPUTS
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.evaluation.latency import Timing, summarise, time_interleaved
from adaptive_inference.evaluation.points import Row, check_agreement, row_key
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.tasks.encode import collate
from adaptive_inference.tasks.quality import predict

if TYPE_CHECKING:
    from adaptive_inference.settings.protocol import Evaluation


#: Rows of a batch in the figures named ``..._batch16``.
BATCH = 16
#: What is told of batches too; milliseconds are then of one batch.
PER_BATCH = (
    "wallclock_speedup", "wallclock_low", "wallclock_high", "wallclock_median_speedup",
    "median_ms", "p5_ms", "p95_ms", "full_median_ms",
)  # fmt: skip


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

    Attributes
    ----------
    rows
        Indices of the timed rows.
    examples
        Of each a batch of its own, unpadded.
    batches
        The same rows in their order, `BATCH` at a time, padded to the longest; the last batch may be smaller.
    """

    baseline: Engine
    features: Sequence[Mapping[str, Any]]
    protocol: Evaluation
    seed: int

    def __post_init__(self) -> None:
        """Draw the rows and put them on the device: only the model is timed."""
        self.rows = draw_rows(len(self.features), self.protocol.timed_examples, self.seed)
        device = self.baseline.model.device
        self.examples, self.batches = self._batches(1), self._batches(BATCH)
        self.synchronize: Callable[[], None] | None = None
        if device.type == "cuda":
            import torch

            self.synchronize = torch.cuda.synchronize

    def measure(
        self, points: Sequence[tuple[Engine, Candidate]]
    ) -> list[tuple[dict[str, Any], dict[str, int]]]:
        """Return for each operating point its timing row, and how the engine agrees with the offline sweep.

        The row holds what `latency.summarise` says of single rows, and of batches under names that end in ``_batch16``.

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
        engines = [engine for engine, _ in points]
        single = self._time(engines, self.examples, self.protocol.warmup)
        batched = self._time(engines, self.batches, math.ceil(self.protocol.warmup / BATCH))
        rows = [
            alone | {f"{name}_batch{BATCH}": figure for name, figure in together.items() if name in PER_BATCH}
            for alone, together in zip(single, batched, strict=True)
        ]
        return list(zip(rows, agreements, strict=True))

    def _time(
        self, engines: Sequence[Engine], batches: Sequence[Mapping[str, Any]], warmup: int
    ) -> list[dict[str, Any]]:
        full, *rest = time_interleaved(
            [engine.run for engine in (self.baseline, *engines)],
            batches,
            self.protocol.repeats,
            warmup,
            self.seed,
            self.synchronize,
        )
        return [summarise(Timing(full, method), self.protocol.bootstrap, self.seed) for method in rest]

    def _batches(self, size: int) -> list[dict[str, Any]]:
        model = self.baseline.model
        names = [name for name in INPUTS if size > 1 or name != "attention_mask"]  # a row alone needs no mask
        pad, found = getattr(model.tokenizer, "pad_token_id", None), []
        for start in range(0, len(self.rows), size):
            batch = collate([self.features[i] for i in self.rows[start : start + size]], pad)
            found.append({name: batch[name].to(model.device) for name in names if name in batch})
        return found

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
    settings = {(point.setting, candidate.model): candidate for point, candidate in timed}
    engines = [
        (make(model, load_rule(setting.rule), setting.threshold, who.calibrator), who)
        for (setting, model), who in settings.items()
    ]
    found = dict(zip(settings, clock.measure(engines) if engines else [], strict=True))
    timings, agreements = [], []
    for point, candidate in timed:
        timing, agreement = found[point.setting, candidate.model]
        key = row_key(point, candidate.method) | {"threshold": point.setting.threshold}
        timings.append(key | timing)
        agreements.append({"method": candidate.method, "point": point} | agreement)
    return timings, agreements
