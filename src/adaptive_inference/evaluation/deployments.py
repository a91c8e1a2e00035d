"""A model in several deployments: its answers at all exits, and what leaving at each costs on the clock.

Milliseconds are of one machine and one moment: everything is timed interleaved with the full PyTorch model, row by row, and
compared as a ratio to it. See `latency`.

Shape suffixes: K engines, R rounds, N rows, E exits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.engine import Engine
from adaptive_inference.engine.runner import Runner
from adaptive_inference.evaluation.latency import time_interleaved
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.tasks.encode import pad_rows
from adaptive_inference.tasks.quality import predict

if TYPE_CHECKING:
    from adaptive_inference.settings.protocol import Evaluation

Feature = Mapping[str, Any]


def collect_from(
    runner: Runner,
    features: Sequence[Feature],
    like: ExitOutputs,
    batch_size: int,
    pad_token_id: int | None,
) -> ExitOutputs:
    """Run an exported model's exits on all rows, those of like length together; the result is in the rows' order.

    Parameters
    ----------
    runner
        That answers at all exits of the model.
    features
        Rows of `tasks.encode.encode`.
    like
        The outputs of the PyTorch model on the same rows: labels, ids and exits are theirs.
    batch_size
        Rows at once.
    pad_token_id
        Of the tokenizer.
    """
    exits = range(len(like.exits))
    order = np.argsort([-feature["length"] for feature in features], kind="stable")
    logits_NEC = np.empty_like(like.logits)
    certainty_NE = None if like.certainty is None else np.empty_like(like.certainty)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        with runner.start(pad_rows([features[place] for place in places], pad_token_id)) as run:
            answers = run.advance(exits[-1], exits)
        for k, answer in answers.items():
            logits_NEC[places, k] = answer.logits
            if certainty_NE is not None:
                certainty_NE[places, k] = answer.certainty
    return ExitOutputs(
        logits_NEC,
        certainty_NE,
        like.labels,
        like.exits,
        like.layers_cost,
        like.ids,
        like.lengths,
        like.tiers,
    )


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
