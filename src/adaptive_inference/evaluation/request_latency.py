"""Wall-clock of decoding, request by request: every way answers a request right after the others, in one process.

Plain ``model.generate`` of the same weights is the first of them. Who begins changes from request to request. Only the
model is timed: requests are tokenised and on the device, texts are not decoded, and the device is waited for before and
after each answer, never within. In the *free-running* mode a way stops where it will, so a shorter text looks faster; in
the *fixed-length* mode all write equally many tokens.

Quality against time: `curve_area` of the pipeline's statistics takes these speed-ups as the classifiers'.

Shapes: N requests, R repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.evaluation.latency import Timing, stopwatch, summarise, without_collection
from adaptive_inference.evaluation.statistics import bootstrap
from adaptive_inference.generation.answers import Answering, Request
from adaptive_inference.generation.journal import Journal


def time_requests(
    plain: Answering,
    ways: Sequence[Answering],
    requests: Sequence[Request],
    max_new_tokens: int,
    journal: Journal,
    *,
    repeats: int,
    warmup: int,
    fixed: bool,
    synchronize: Callable[[], None] | None = None,
) -> None:
    """Time all ways on all requests, and write each request's times to a journal.

    What the journal has is not timed again: each of its lines is of one process and one moment. An adaptive threshold
    goes on learning while it is timed.

    Parameters
    ----------
    plain
        ``model.generate`` of the same weights.
    ways
        Compared with it.
    requests
        One row each, on the device.
    max_new_tokens
        Tokens of an answer: at most, or exactly where ``fixed``.
    journal
        Gets a line per repeat and request: nanoseconds and tokens of each way.
    repeats
        R.
    warmup
        Untimed requests before the first (repeated in a circle).
    fixed
        Fixed-length mode.
    synchronize
        Waits for the device; None on a CPU.

    Raises
    ------
    RuntimeError
        A way wrote another number of tokens in the fixed-length mode.
    """
    everyone, wait = [plain, *ways], synchronize or (lambda: None)
    finished = {(line["repeat"], line["request"]) for line in journal.lines}
    places = [(repeat, number) for repeat in range(repeats) for number in range(len(requests))]
    missing = [place for place in places if place not in finished]
    for number in range(warmup if missing else 0):
        for way in everyone:
            way(requests[number % len(requests)], max_new_tokens, fixed)
    for repeat, number in missing:
        first = (repeat + number) % len(everyone)
        spent, written = {}, {}
        with without_collection():
            for way in everyone[first:] + everyone[:first]:
                spent[way.name], tokens = stopwatch(
                    lambda request, way=way: way(request, max_new_tokens, fixed), requests[number], wait
                )
                written[way.name] = len(tokens)
        if fixed and set(written.values()) != {max_new_tokens}:
            raise RuntimeError(
                f"request {number}: {written} tokens were written instead of {max_new_tokens} each"
            )
        journal.add({"repeat": repeat, "request": number, "nanoseconds": spent, "tokens": written})


def summarise_times(
    lines: Sequence[Mapping[str, Any]], plain: str, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Return one row per way: the plain one, then the others by name.

    Parameters
    ----------
    lines
        Of a journal that `time_requests` finished.
    plain
        Name of ``model.generate``.
    resamples, seed
        Of the bootstrap: a request is drawn with all its repeats, of both.

    Returns
    -------
    list of dict
        What `latency.summarise` says (ratio of the sums with its interval, ratio of the medians, milliseconds per request),
        and

        ``median_ratio``, ``median_ratio_low``, ``median_ratio_high``
            Median over requests of the paired ratio "time of plain generate / time of the way", above 1 where faster.
        ``tokens_per_second``, ``tokens_per_second_ratio``
            All tokens over all time, and that over the plain one's.

    Raises
    ------
    UserError
        There is no time, or some request is timed less often than others.
    """
    if not lines:
        raise UserError("no request was timed; give at least one, and at least one repeat")
    repeats, requests = (1 + max(line[key] for line in lines) for key in ("repeat", "request"))
    if len(lines) != repeats * requests:
        raise UserError(f"{len(lines)} of {repeats} x {requests} requests are timed; run what is missing")
    ordered = sorted(lines, key=lambda line: (line["repeat"], line["request"]))
    names = sorted(ordered[0]["nanoseconds"], key=lambda name: (name != plain, name))
    spent, tokens = (
        {name: np.array([line[key][name] for line in ordered]).reshape(repeats, requests) for name in names}
        for key in ("nanoseconds", "tokens")
    )
    rates = {name: float(tokens[name].sum() / spent[name].sum() * 1e9) for name in names}
    rows = []
    for name in names:
        ratios_N = spent[plain].sum(0) / spent[name].sum(0)
        low, high = bootstrap(
            lambda drawn, ratios_N=ratios_N: np.median(ratios_N[drawn], axis=-1), requests, resamples, seed
        )
        rows.append(
            {"way": name}
            | summarise(Timing(spent[plain], spent[name]), resamples, seed)
            | {"median_ratio": float(np.median(ratios_N)), "median_ratio_low": low, "median_ratio_high": high}
            | {"tokens": int(tokens[name].sum()), "tokens_per_second": rates[name]}
            | {"tokens_per_second_ratio": rates[name] / rates[plain]}
        )
    return rows
