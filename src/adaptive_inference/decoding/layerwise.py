"""Decide block by block (CALM), or not at all: the same number of blocks for every token (FREE note, sections 1d, 1e).

Shapes: R rows that go on, V vocabulary, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adaptive_inference.decoding.confidence import AgreementClassifier, saturation, softmax_gap
from adaptive_inference.decoding.decay import decayed_threshold
from adaptive_inference.decoding.policy import DecodingPolicy
from adaptive_inference.decoding.state import Texts


class Layerwise:
    """The loop of ``full``, ``static`` and ``calm``.

    Parameters
    ----------
    texts
        What is written.
    policy
        How.
    classifier
        Of ``calm`` with confidence ``classifier``; else None.
    """

    def __init__(self, texts: Texts, policy: DecodingPolicy, classifier: AgreementClassifier | None) -> None:
        self.texts, self.policy, self.classifier = texts, policy, classifier
        self.deep = texts.decoder.num_blocks
        self.depth = policy.exit_layer if policy.kind == "static" else self.deep

    def write(self) -> None:
        """Write all texts to their ends."""
        texts = self.texts
        hidden_B1D = texts.prefill(self.depth)
        if hidden_B1D is not None:
            self._write(texts.logits(hidden_B1D)[:, -1], [self.depth] * texts.batch, [None] * texts.batch)
        while texts.rows:
            if self.policy.kind == "calm":
                self._write(*self._climb(texts.embed_last()))
            else:
                hidden_R1D = texts.run(texts.embed_last(), 1, self.depth)
                rows = len(texts.rows)
                self._write(texts.logits(hidden_R1D)[:, -1], [self.depth] * rows, [None] * rows)

    def _write(self, logits_RV: Tensor, depth: list[int], confidence: list[float | None]) -> None:
        """Write a token of every row, and let rows leave that stop at it."""
        texts = self.texts
        rows = list(texts.rows)
        ends = [texts.ends[row] for row in rows]
        stops_R = texts.put(texts.choose(logits_RV, rows, ends), rows, ends)
        (stops,) = texts.read(stops_R)
        for place, row in enumerate(rows):
            texts.trace.rows[row].add(depth[place], confidence[place])
            texts.ends[row] += 1
        finished = [row for row, stop in zip(rows, stops, strict=True) if stop]
        if finished:
            texts.finish(finished)

    def _climb(self, hidden_R1D: Tensor) -> tuple[Tensor, list[int], list[float | None]]:
        """Run blocks until each row is sure; return its logits, ``(R, V)``, its depth and its last confidence."""
        texts = self.texts
        count = len(texts.rows)
        thresholds = [self._threshold(row) for row in texts.rows]
        logits: list[Tensor | None] = [None] * count
        depth, confidence = [self.deep] * count, [None] * count
        climbing = list(range(count))
        block = self.policy.first_test
        below_R1D = hidden_R1D
        if block > 1:  # the block below the first test is at hand for `saturation`
            below_R1D = texts.run(hidden_R1D, 1, block - 1)
        hidden_R1D = texts.run(below_R1D, block, block)
        while block < self.deep:
            measured_R, logits_RV = self._measure(hidden_R1D, below_R1D)
            texts.trace.tests += len(climbing)
            (values,) = texts.read(measured_R)
            for place, value in zip(climbing, values, strict=True):
                confidence[place] = value
            sure = [value > thresholds[place] for place, value in zip(climbing, values, strict=True)]
            if self.policy.together and not all(sure):
                sure = [False] * len(sure)
            if any(sure):
                leaving_R1D = (
                    hidden_R1D if all(sure) else hidden_R1D[[i for i, left in enumerate(sure) if left]]
                )
                places = [place for place, left in zip(climbing, sure, strict=True) if left]
                if logits_RV is None:
                    logits_RV = texts.logits(leaving_R1D)[:, -1]
                elif not all(sure):
                    logits_RV = logits_RV[[i for i, left in enumerate(sure) if left]]
                for place, row_V in zip(places, logits_RV, strict=True):
                    logits[place], depth[place] = row_V, block
                texts.propagate(leaving_R1D, block + 1, self.deep, places)
                stay = [i for i, left in enumerate(sure) if not left]
                climbing = [climbing[i] for i in stay]
                if not climbing:
                    break
                hidden_R1D = hidden_R1D[stay]
            block += 1
            below_R1D = hidden_R1D
            hidden_R1D = texts.run(hidden_R1D, block, block, climbing)
        if climbing:
            for place, row_V in zip(climbing, texts.logits(hidden_R1D)[:, -1], strict=True):
                logits[place] = row_V
        return torch.stack(logits), depth, confidence

    def _threshold(self, row: int) -> float:
        if self.policy.decay_tau is None:
            return self.policy.threshold
        texts = self.texts
        position, longest = texts.ends[row] - texts.prompt, texts.limit - texts.prompt
        return decayed_threshold(self.policy.threshold, position, longest, self.policy.decay_tau)

    def _measure(self, hidden_R1D: Tensor, below_R1D: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return confidences, ``(R,)``, and logits where they were needed for them."""
        if self.policy.measure == "saturation":
            return saturation(hidden_R1D, below_R1D)[:, 0], None
        if self.policy.measure == "classifier":
            return self.classifier.confidence(hidden_R1D)[:, 0], None
        logits_RV = self.texts.logits(hidden_R1D)[:, -1]
        return softmax_gap(logits_RV), logits_RV
