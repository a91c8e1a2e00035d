"""What leaving at each exit costs on the clock, for a model in several deployments.

Milliseconds are of one machine and one moment: everything is timed interleaved with the full PyTorch model, row by row, and
compared as a ratio to it. See `latency`.

Shape suffixes: K engines, R rounds, N rows, E exits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.engine import Engine
from adaptive_inference.evaluation.latency import time_interleaved
from adaptive_inference.tasks.encode import pad_rows
from adaptive_inference.tasks.quality import predict

if TYPE_CHECKING:
    from adaptive_inference.settings.protocol import Evaluation

Feature = Mapping[str, Any]


def time_engines(
    engines: Sequence[Engine], features: Sequence[Feature], protocol: Evaluation, seed: int
) -> np.ndarray:
    """Return the nanoseconds of engines at batch 1, interleaved row by row, (K, R, N).

    Parameters
    ----------
    engines
        Over PyTorch models, on their devices, and over exported ones, on the processor.
    features
        The rows that are timed.
    protocol
        Rounds and warm-up.
    seed
        Of the random orders.
    """
    rows = [_row(engine, features) for engine in engines]
    runs = [_run_of(engine, given) for engine, given in zip(engines, rows, strict=True)]
    synchronize: Callable[[], None] | None = None
    if any(getattr(engine.runner, "waits", False) for engine in engines):
        import torch

        synchronize = torch.cuda.synchronize
    return time_interleaved(runs, range(len(features)), protocol.repeats, protocol.warmup, seed, synchronize)


def _row(engine: Engine, features: Sequence[Feature]) -> list[dict[str, Any]]:
    """Return each row as the engine's model reads it, without a mask: a row alone needs none."""
    names = ("input_ids", "token_type_ids")
    found = [
        {name: item for name, item in pad_rows([row], None).items() if name in names} for row in features
    ]
    device = getattr(engine.model, "device", None)
    if device is None:  # an exported model: its graphs read arrays
        return found
    import torch

    return [{name: torch.from_numpy(item).to(device) for name, item in row.items()} for row in found]


def _run_of(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> Callable[[int], Any]:
    return lambda place: engine.run(rows[place])


def differing(engine: Engine, features: Sequence[Feature], exits: np.ndarray, answers: np.ndarray) -> int:
    """Return how many rows an engine lets leave elsewhere, or answers otherwise, than the answers to all exits say.

    In fp32 rounding alone can do so, close to a threshold; in int8 also where graphs are cut, since a cut moves what is
    rounded together.

    Parameters
    ----------
    engine
        At its rule and threshold.
    features, exits, answers
        Rows, and of each the exit index and the class or score that is expected, (N,).
    """
    kind = "regression" if engine.model.schema.labels is None else "classification"
    found = [engine.run(row) for row in _row(engine, features)]
    left = np.concatenate([item.exit_indices for item in found])
    said = predict(np.concatenate([item.logits for item in found]), kind)
    other = left != exits
    if kind == "classification":
        other |= said != answers
    return int(other.sum())
