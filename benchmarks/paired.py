"""Ways of doing the same work, taken in turns in one process: ratios, their intervals, and the bars that they must meet.

Times of different processes, or of minutes apart, do not compare: clocks, caches and neighbours change. So all ways of a
group do their work once in each round, in a new random order, and only ratios within a round count. A ratio is what a way
takes over what its baseline takes: below 1 is faster. Told are the median over rounds and its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from adaptive_inference.evaluation.latency import without_collection
from adaptive_pipeline.runs.environment import environment

CLOCKS = {"wall": time.perf_counter_ns, "cpu": time.process_time_ns}
RESAMPLES = 1000


class Effort(NamedTuple):
    """How long a group is measured: rounds until the seconds are over, but never fewer or more than this."""

    least: int
    most: int
    seconds: float


#: What `make bench` can be asked for.
EFFORTS = {"quick": Effort(2, 2, 0.0), "default": Effort(5, 150, 12.0), "full": Effort(25, 300, 45.0)}


class Shape(NamedTuple):
    """An encoder's size, and of what it reads."""

    layers: int
    width: int
    length: int
    batch: int

    def __str__(self) -> str:
        return f"{self.layers} x {self.width}, {self.length} tokens, batch {self.batch}"


class Pair(NamedTuple):
    """Two ways of a group that are compared.

    Attributes
    ----------
    name, baseline
        The ways.
    limit
        What their ratio may be at most; None: it is only told.
    median_limit
        What the median of the ratios over all shapes may be at most.
    """

    name: str
    baseline: str
    limit: float | None = None
    median_limit: float | None = None


@dataclass(frozen=True)
class Work:
    """What is measured in a group.

    Attributes
    ----------
    ways
        Each does its work once when called.
    pairs
        What is compared.
    facts
        What else belongs to the figures.
    unit
        ``s``: calls are timed; ``bytes``: a way returns what it takes.
    """

    ways: Mapping[str, Callable[[], Any]]
    pairs: Sequence[Pair]
    facts: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "s"


class Group(NamedTuple):
    """Ways on one shape with a number of threads; made when their turn comes."""

    shape: Shape | str
    threads: int
    make: Callable[[], Work]


def interleave(
    ways: Mapping[str, Callable[[], Any]], effort: Effort, clock: str = "wall", unit: str = "s", seed: int = 0
) -> dict[str, list[float]]:
    """Return what each way took in each round; one round before is not counted.

    Parameters
    ----------
    ways
        See `Work`.
    effort
        Of this group.
    clock
        ``wall``, or ``cpu``: the processor time of this process, which other processes disturb less, but which adds up
        over threads.
    unit
        See `Work`.
    seed
        Of the order within the rounds.
    """
    now, draw, names = CLOCKS[clock], np.random.default_rng(seed), list(ways)
    spent: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        ways[name]()
    begun = time.monotonic()
    with without_collection():
        for done in range(effort.most):
            if done >= effort.least and time.monotonic() - begun > effort.seconds:
                break
            for name in draw.permutation(names).tolist():
                wait_for_device()
                start = now()
                answer = ways[name]()
                wait_for_device()
                spent[name].append((now() - start) / 1e9 if unit == "s" else answer)
    return spent


def wait_for_device() -> None:
    """Wait until an accelerator in use has done all that it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def measure(suite: str, group: Group, effort: Effort, clock: str = "wall") -> dict[str, Any]:
    """Return what a group gave, as JSON: all that `rows` needs."""
    torch.set_num_threads(group.threads)
    work = group.make()
    size = group.shape._asdict() if isinstance(group.shape, Shape) else {}
    return {
        "suite": suite,
        "shape": str(group.shape),
        **size,
        "threads": group.threads,
        "unit": work.unit,
        "facts": dict(work.facts),
        "pairs": [list(pair) for pair in work.pairs],
        "spent": interleave(work.ways, effort, clock, work.unit),
    }


# ---- ratios ---------------------------------------------------------------------------------------------------------


def ratio_interval(ratios: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float, float]:
    """Return the median over shapes of the median over rounds, and its 95 % bootstrap interval over rounds.

    Parameters
    ----------
    ratios
        Of each shape, one a round.
    seed
        Of the resamples.
    """
    draw = np.random.default_rng(seed)
    resampled = []
    for of_shape in map(np.asarray, ratios):
        rounds = draw.integers(0, len(of_shape), (RESAMPLES, len(of_shape)))
        resampled.append(np.median(of_shape[rounds], axis=1))
    low, high = np.quantile(np.median(resampled, axis=0), [0.025, 0.975])
    return float(np.median([np.median(item) for item in ratios])), float(low), float(high)


def rows(measured: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a table: one for each pair of each group, and one for each bar on a median over shapes."""
    found, pooled = [], {}
    for group in measured:
        common = {
            key: group[key]
            for key in ("suite", "shape", "threads", "unit", *Shape._fields, "facts")
            if key in group
        }
        for pair in (Pair(*item) for item in group["pairs"]):
            own, base = (np.asarray(group["spent"][way]) for way in (pair.name, pair.baseline))
            row = {"name": pair.name, "baseline": pair.baseline, **common, "rounds": len(own)}
            row |= {"median": float(np.median(own)), "baseline_median": float(np.median(base))}
            found.append(row | _held([own / base], pair.limit))
            if pair.median_limit is not None:
                key = pair.name, pair.baseline, group["suite"], group["threads"], pair.median_limit
                pooled.setdefault(key, []).append(own / base)
    for (name, baseline, suite, threads, limit), ratios in pooled.items():
        row = {"name": name, "baseline": baseline, "suite": suite, "threads": threads}
        row["shape"] = f"median of {len(ratios)} shapes"
        found.append(row | _held(ratios, limit))
    return found


def _held(ratios: Sequence[Sequence[float]], limit: float | None) -> dict[str, Any]:
    ratio, low, high = ratio_interval(ratios)
    row = {"ratio": ratio, "ci_low": low, "ci_high": high}
    return row if limit is None else row | {"limit": limit, "holds": ratio <= limit}


def line(row: Mapping[str, Any]) -> str:
    """Return a row in words."""
    bar = ""
    if "limit" in row:
        bar = f", at most {row['limit']:.3f}: {'holds' if row['holds'] else 'MISSED'}"
    pair = f"{row['name']} / {row['baseline']}"
    ratio = f"{row['ratio']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f})"
    return f"{row['shape']}, {row['threads']} thread(s): {pair:46} {ratio}{bar}"


# ---- one benchmark by itself ----------------------------------------------------------------------------------------


def parser(documentation: str | None) -> argparse.ArgumentParser:
    """Return a parser of what all benchmarks take."""
    made = argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--rounds", type=int, default=15, help="in each, every way does its work once (default: 15)"
    )
    made.add_argument("--clock", default="wall", choices=tuple(CLOCKS), help="default: wall")
    made.add_argument("--threads", type=int, default=1)
    return made


def run_alone(file: str, groups: Iterator[Group], args: argparse.Namespace) -> None:
    """Measure the groups of one benchmark; print its rows, and one JSON object last."""
    effort, measured, told = Effort(args.rounds, args.rounds, 0.0), [], 0
    for group in groups:
        measured.append(measure(Path(file).stem, group, effort, args.clock))
        table = rows(measured)
        for row in table[told:]:
            if "rounds" in row:
                told += 1
                print(line(row), flush=True)
        for fact, value in measured[-1]["facts"].items():
            print(f"  {fact}: {value}")
    for row in rows(measured)[told:]:
        print(line(row))
    body = {
        "benchmark": Path(file).stem,
        "rows": rows(measured),
        "settings": vars(args),
        "environment": environment("cuda" if torch.cuda.is_initialized() else "cpu"),
    }
    print(json.dumps(body, sort_keys=True))
