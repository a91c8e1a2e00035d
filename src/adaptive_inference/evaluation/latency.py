"""Wall-clock of several models, interleaved example by example (a row, or a batch) in one process.

Milliseconds of different processes, or of minutes apart, do not compare: clocks, caches and neighbours change. So the
full model and all that is compared with it answer the same example one right after the other, in random order, and only
ratios are reported. ``wallclock_speedup`` is the total time of the full model over the total time of the method.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptive_inference.evaluation.statistics import bootstrap

Run = Callable[[Any], Any]


@dataclass(frozen=True)
class Timing:
    """Nanoseconds of each example in each round."""

    full: np.ndarray  #: (R, N)
    method: np.ndarray  #: (R, N)

    @property
    def speedup(self) -> float:
        """Ratio of the sums."""
        return float(self.full.sum() / self.method.sum())

    @property
    def median_speedup(self) -> float:
        """Ratio of the medians over all examples and rounds."""
        return float(np.median(self.full) / np.median(self.method))


def time_interleaved(
    runs: Sequence[Run],
    examples: Sequence[Any],
    repeats: int,
    warmup: int,
    seed: int,
    synchronize: Callable[[], None] | None = None,
) -> np.ndarray:
    """Return the nanoseconds of K callables on the same N examples in R rounds, ``(K, R, N)`` int64.

    Parameters
    ----------
    runs
        Each answers one example.
    examples
        Already tokenised and on the device.
    repeats
        R rounds; each goes through all examples in a new random order and, for each example, through the callables in a
        new random order.
    warmup
        Untimed examples before the first round (repeated in a circle).
    seed
        Of both random orders.
    synchronize
        Waits for the device; None on a CPU.
    """
    generator = np.random.default_rng(seed)
    wait = synchronize or (lambda: None)
    for i in range(warmup):
        for run in runs:
            run(examples[i % len(examples)])
    spent = np.zeros((len(runs), repeats, len(examples)), dtype=np.int64)
    with without_collection():
        for r in range(repeats):
            for i in generator.permutation(len(examples)):
                for who in generator.permutation(len(runs)):
                    spent[who, r, i], _ = stopwatch(runs[who], examples[i], wait)
    return spent


def stopwatch(run: Run, example: Any, wait: Callable[[], None]) -> tuple[int, Any]:
    """Return the nanoseconds that a callable takes for an example, between two waits for the device, and its answer."""
    wait()
    start = time.perf_counter_ns()
    answer = run(example)
    wait()
    return time.perf_counter_ns() - start, answer


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Keep the garbage collector off: a collection in the middle of an example would be charged to it."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def summarise(timing: Timing, resamples: int, seed: int) -> dict[str, Any]:
    """Return the row of a timings file: ratios, the interval of the first, milliseconds per example.

    The interval is a paired bootstrap: an example is drawn with all its rounds of both models.
    """
    full, method = timing.full.sum(0), timing.method.sum(0)
    low, high = bootstrap(
        lambda rows: full[rows].sum(-1) / method[rows].sum(-1), timing.full.shape[1], resamples, seed
    )
    milliseconds = timing.method / 1e6
    p5, median, p95 = np.quantile(milliseconds, [0.05, 0.5, 0.95])
    return {
        "wallclock_speedup": timing.speedup,
        "wallclock_low": low,
        "wallclock_high": high,
        "wallclock_median_speedup": timing.median_speedup,
        "median_ms": float(median),
        "p5_ms": float(p5),
        "p95_ms": float(p95),
        "full_median_ms": float(np.median(timing.full) / 1e6),
        "examples": int(timing.full.shape[1]),
        "repeats": int(timing.full.shape[0]),
    }
