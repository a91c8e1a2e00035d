"""Answers the texts of all requests with one model: one text at a time, in the order in which they come.

A single thread runs the model, so that clients never share a forward pass and each text gets the answer that the library
gives it. A request of many texts hands over one after the other, so it does not hold up the rest.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from adaptive_inference.serving.confidences import Confidences
from adaptive_inference.serving.prediction import Prediction
from adaptive_inference.serving.predictor import Predictor
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.serving.counters import Counters
from adaptive_pipeline.serving.latency import LatencyTable, length_of
from adaptive_pipeline.serving.request import Options

#: Settings that stay ready; any other is made anew.
READY = 64


class Service:
    """A model, its latency table and its counters.

    Parameters
    ----------
    predictor
        Under the setting that the model recommends.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.schema = predictor, predictor.schema
        reference = (predictor.model.calibration or {}).get("confidences")
        self.counters = Counters(
            predictor.model.exits, None if reference is None else Confidences.from_json(reference)
        )
        self.latency = LatencyTable.measure(predictor)
        self._ready: OrderedDict[tuple[Any, ...], Predictor] = OrderedDict({(None, None, None): predictor})
        self._worker = ThreadPoolExecutor(1, "model")

    def submit(self, text: tuple[str, ...], options: Options) -> Future[dict[str, Any]]:
        """Hand over a text.

        Parameters
        ----------
        text
            As many strings as the task has text columns.
        options
            How to answer it.

        Returns
        -------
        Future
            Of the answer, see `told`; or of a `UserError`: the options do not fit the model, or the time the text.
        """
        return self._worker.submit(self._answer, text, options)

    def report(self) -> dict[str, Any]:
        """Return what was counted, and the latency table."""
        return {"task": self.schema.task} | self.counters.report() | {"latency_table": self.latency.to_json()}

    def close(self) -> None:
        """End the thread once it has answered what was handed over."""
        self._worker.shutdown()

    def _answer(self, text: tuple[str, ...], options: Options) -> dict[str, Any]:
        start = time.perf_counter()
        deepest = None
        if options.max_latency_ms is not None:
            length = length_of(self.predictor, text)
            deepest = self.latency.deepest(length, options.max_latency_ms)
        answer = self._under(options.rule, options.threshold, deepest).answer(text)
        taken = 1000 * (time.perf_counter() - start)
        self.counters.answered(answer, taken, options == Options(), options.max_latency_ms)
        return told(answer, self.schema)

    def _under(self, *setting: Any) -> Predictor:
        """Return the predictor of a rule, a threshold and a deepest exit."""
        if setting not in self._ready:
            self._ready[setting] = self.predictor.under(*setting)
            if len(self._ready) > READY:
                self._ready.popitem(last=False)
        self._ready.move_to_end(setting)
        return self._ready[setting]


def told(answer: Prediction, schema: Schema) -> dict[str, Any]:
    """Return an answer with the fields of ``adaptive-inference predict``, its figures unrounded."""
    body: dict[str, Any]
    if answer.probabilities is None or schema.labels is None:
        body = {"score": answer.label}
    else:
        row = answer.probabilities.tolist()
        body = {"label": answer.label, "probability": max(row)}
        body["probabilities"] = dict(zip(schema.labels, row, strict=True))
    body |= {"exit_layer": answer.exit_layer, "cut": answer.cut, "flops": answer.flops}
    return body if answer.survivors is None else body | {"survivors": answer.survivors}
