"""What a server has answered so far: exits, times, refusals; and whether its texts are like those of the calibration."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptive_inference.serving.confidences import Confidences
from adaptive_inference.serving.prediction import Prediction

#: Answers of which percentiles are told: the last ones.
KEPT = 10_000
#: Answers that are held against the calibration split together, and the chance that such as are like it raise an alarm.
WINDOW, FALSE_ALARM = 500, 0.001
logger = logging.getLogger("adaptive_inference")


class Counters:
    """Counts answers; may be asked from any thread.

    Parameters
    ----------
    exits
        Layers before each exit of the model.
    reference
        Confidences on the calibration split; None: the model brings none, and nothing is said of drift.
    """

    def __init__(self, exits: Sequence[int], reference: Confidences | None) -> None:
        self._lock = threading.Lock()
        self._exits = dict.fromkeys(exits, 0)
        self._reference = reference
        self._cut = self._limited = self._overran = 0
        self._answer_ms: deque[float] = deque(maxlen=KEPT)
        self._request_ms: deque[float] = deque(maxlen=KEPT)
        self._status: Counter[int] = Counter()
        bins = 0 if reference is None else len(reference.counts)
        self._all, self._window = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
        self._windows = self._alarms = 0
        self._last: dict[str, Any] = {"distance": None, "alarm": False}

    def answered(
        self, answer: Prediction, milliseconds: float, as_recommended: bool, max_latency_ms: float | None
    ) -> None:
        """Count the answer to a text.

        Parameters
        ----------
        answer
            What was answered.
        milliseconds
            What it took the model, without waiting.
        as_recommended
            Whether rule and threshold were the model's own: other answers are not held against the calibration split.
        max_latency_ms
            What the client allowed.
        """
        with self._lock:
            self._exits[answer.exit_layer] += 1
            self._cut += answer.cut
            self._answer_ms.append(milliseconds)
            if max_latency_ms is not None:
                self._limited += 1
                self._overran += milliseconds > max_latency_ms
            if as_recommended and self._reference is not None and answer.probabilities is not None:
                self._hold_against(self._reference, self._reference.bin(float(answer.probabilities.max())))

    def replied(self, status: int, milliseconds: float) -> None:
        """Count a request: its status, and the time from its arrival to its answer."""
        with self._lock:
            self._status[status] += 1
            if status == 200:
                self._request_ms.append(milliseconds)

    def report(self) -> dict[str, Any]:
        """Return all counts, ready for JSON."""
        with self._lock:
            return {
                "texts": sum(self._exits.values()),
                "cut": self._cut,
                "exits": {str(layer): count for layer, count in self._exits.items()},
                "answer_ms": _percentiles(self._answer_ms),
                "request_ms": _percentiles(self._request_ms),
                "status": {str(status): count for status, count in sorted(self._status.items())},
                "max_latency_ms": {"asked": self._limited, "overran": self._overran},
                "confidence": self._confidence(),
            }

    def _confidence(self) -> dict[str, Any] | None:
        if self._reference is None:
            return None
        return {
            "edges": list(self._reference.edges),
            "calibration": list(self._reference.counts),
            "served": self._all.tolist(),
            "drift": {
                "statistic": "Kolmogorov-Smirnov distance of the last full window from the calibration split",
                "window": WINDOW,
                "limit": self._reference.limit(WINDOW, FALSE_ALARM),
                "false_alarm": FALSE_ALARM,
                "windows": self._windows,
                "alarms": self._alarms,
                **self._last,
            },
        }

    def _hold_against(self, reference: Confidences, index: int) -> None:
        self._all[index] += 1
        self._window[index] += 1
        if self._window.sum() < WINDOW:
            return
        distance, limit = reference.distance(self._window.tolist()), reference.limit(WINDOW, FALSE_ALARM)
        self._last = {"distance": distance, "alarm": distance > limit}
        self._window[:] = 0
        self._windows += 1
        self._alarms += distance > limit
        if distance > limit:
            logger.warning(
                "drift: the confidences of the last %d answers lie %.3f from those of the calibration split (limit %.3f); "
                "calibrate on labelled rows like these: adaptive-inference calibrate",
                WINDOW, distance, limit,
            )  # fmt: skip


def _percentiles(times: Sequence[float]) -> dict[str, float | None]:
    """Return the median and the 99th percentile of the times kept."""
    values = (None, None) if not times else np.quantile(list(times), (0.5, 0.99)).round(3).tolist()
    return {"p50": values[0], "p99": values[1]}
