"""The timing protocol: which rows are timed, how the engines run them, and that they stop where the sweep says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.engine.batch1 import Batch1Engine
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.evaluation.latency import Timing, summarise, time_interleaved
from adaptive_inference.evaluation.points import check_agreement
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits.outputs import ExitOutputs
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
        self, points: Sequence[tuple[Mapping[str, Any], Candidate]]
    ) -> list[tuple[dict[str, Any], dict[str, int]]]:
        """Return for each operating point its timing row, and how the engine agrees with the offline sweep.

        Parameters
        ----------
        points
            Each as ``calibration.json`` holds it, with a threshold, and who answers; its outputs are of all rows of the
            split. All are timed together: one round of the full model serves them all.

        Raises
        ------
        RuntimeError
            A row leaves elsewhere than the sweep says, and not by rounding.
        """
        engines = [
            Batch1Engine(candidate.model, load_rule(point["rule"]), point["threshold"], candidate.calibrator)
            for point, candidate in points
        ]
        agreements = [
            self._agreement(engine, candidate) for engine, (_, candidate) in zip(engines, points, strict=True)
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
        answers = predict(logits, candidate.base.kind)
        outputs = _select(candidate.outputs, self.rows)
        return check_agreement(engine.rule, engine.threshold, outputs, exits, answers)


def _select(outputs: ExitOutputs, rows: np.ndarray) -> ExitOutputs:
    """Return the outputs of some rows."""
    names = ("logits", "certainty", "labels", "ids", "lengths", "tiers")
    columns = {name: getattr(outputs, name) for name in names}
    return replace(outputs, **{name: None if item is None else item[rows] for name, item in columns.items()})
