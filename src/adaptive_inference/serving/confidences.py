"""How sure the answers of a setting are: their histogram on the calibration split, and how far another one is from it.

Texts unlike those of the calibration show in it before any label is known: a model is less sure of them. The distance is
Kolmogorov's and Smirnov's, read at the edges of the bins, so a chance of a false alarm that is stated is kept whatever the
confidences look like: sup |F - G| over fewer points, or with ties, is only ever smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exit_rules._softmax import shifted_exponentials

if TYPE_CHECKING:
    from adaptive_inference.calibration.operating_point import Setting
    from adaptive_inference.exits.outputs import ExitOutputs

#: Bins of a histogram, as far as ties allow: each holds the same share of the calibration split.
BINS = 20


def answer_confidences(
    outputs: ExitOutputs, calibration: Mapping[str, Any], setting: Setting
) -> np.ndarray | None:
    """Return the probability that each answer gives to its class, (N,) in (0, 1]; None of scores, which have none.

    Parameters
    ----------
    outputs
        Of the model that the setting is of, not calibrated.
    calibration
        Content of its ``calibration.json``.
    setting
        Which rule answers at which threshold.
    """
    if outputs.logits.shape[-1] < 2:
        return None
    calibrator, rule = Calibrator.from_json(calibration), load_rule(setting.rule)
    logits, certainty = calibrator.logits(outputs.logits), calibrator.certainty(outputs.certainty)
    (exits,) = rule.exit_indices(logits, certainty, outputs.labels, np.array([setting.threshold]))
    answers = logits[np.arange(len(exits)), exits]
    return 1.0 / shifted_exponentials(answers)[1].sum(-1)


@dataclass(frozen=True)
class Confidences:
    """A histogram of confidences.

    Attributes
    ----------
    edges
        (B - 1,), ascending: bin b holds what lies above edge b - 1 and not above edge b.
    counts
        (B,).
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, confidences: np.ndarray) -> Confidences:
        """Return the histogram of confidences (N,), N > 0, with bins of equal share as far as ties allow."""
        shares = np.arange(1, BINS) / BINS
        edges = np.unique(np.quantile(confidences, shares, method="inverted_cdf"))
        return cls(tuple(edges.tolist()), tuple(_counts(edges, confidences).tolist()))

    def bin(self, confidence: float) -> int:
        """Return the bin of a confidence."""
        return int(np.searchsorted(self.edges, confidence))

    def distance(self, counts: Sequence[int]) -> float:
        """Return the largest difference of the cumulated shares, in [0, 1], from a histogram with the same edges."""
        return float(np.abs(_cumulated(self.counts) - _cumulated(counts)).max(initial=0.0))

    def limit(self, rows: int, chance: float) -> float:
        """Return the distance that so many rows drawn as the calibration split was exceed with at most this chance.

        Parameters
        ----------
        rows
            Of the other histogram.
        chance
            Of a false alarm, in (0, 1). The bound is the asymptotic one of two samples, sqrt(-ln(chance / 2) / 2) times
            sqrt((n + m) / (n m)) (Smirnov 1948).
        """
        own = sum(self.counts)
        return math.sqrt(-math.log(chance / 2) / 2) * math.sqrt((own + rows) / (own * rows))

    def to_json(self) -> dict[str, Any]:
        """Return the plain form, as ``calibration.json`` holds it."""
        return {"edges": list(self.edges), "counts": list(self.counts)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Confidences:
        """Read what `to_json` gave.

        Raises
        ------
        UserError
            It is no histogram.
        """
        try:
            edges = tuple(float(edge) for edge in body["edges"])
            counts = tuple(int(count) for count in body["counts"])
            if len(counts) != len(edges) + 1 or list(edges) != sorted(set(edges)) or min(counts) < 0:
                raise ValueError(
                    "edges must ascend, and there must be one count more than edges, none below 0"
                )
            if not sum(counts):
                raise ValueError("no row is counted")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"`confidences` of the calibration are no histogram ({error}); calibrate or export the model again"
            ) from error
        return cls(edges, counts)


def _counts(edges: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(edges, confidences), minlength=len(edges) + 1)


def _cumulated(counts: Sequence[int]) -> np.ndarray:
    """Return the share at or below each edge, (B - 1,)."""
    return np.cumsum(counts)[:-1] / np.sum(counts)
