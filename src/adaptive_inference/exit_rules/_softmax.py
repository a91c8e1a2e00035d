"""Softmax, its exponentials, its entropy and its ties: of arrays, and of one row in plain numbers.

The plain ones give the same up to rounding; see `engine.alone` for why they are there.

Shapes: C classes.
"""

from __future__ import annotations

import math

import numpy as np


def shifted_exponentials(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``z - max z`` and its exponential in float64, ``(..., C)``; the largest exponential is exactly 1."""
    z = np.asarray(logits, dtype=np.float64)
    z = z - z.max(-1, keepdims=True)
    return z, np.exp(z)


def plain_argmax(values: list[float]) -> int:
    """Return the place of the largest, the first of equals, or of the first that is no number: as `numpy.argmax`."""
    best = 0
    for place, value in enumerate(values):
        if value != value:
            return place
        if value > values[best]:
            best = place
    return best


def plain_exponentials(logits: list[float]) -> tuple[list[float], list[float]]:
    """Return what `shifted_exponentials` does, of one row and in plain numbers."""
    most = max(logits)
    shifted = [value - most for value in logits]
    return shifted, [math.exp(value) for value in shifted]


def plain_entropy(logits: list[float]) -> float:
    """Return what `entropy_of` does, of one row and in plain numbers."""
    shifted, exponentials = plain_exponentials(logits)
    total = sum(exponentials)
    weighted = sum(e * z for e, z in zip(exponentials, shifted, strict=True))
    return max(math.log(total) - weighted / total, 0.0)


def plain_normalised_entropy(logits: list[float]) -> float:
    """Return what `normalised_entropy` does, of one row and in plain numbers."""
    return min(plain_entropy(logits) / math.log(len(logits)), 1.0)


def entropy_of(logits: np.ndarray) -> np.ndarray:
    """Return the entropy of the softmax in nats, never below 0, ``(..., C) -> (...)``."""
    z, e = shifted_exponentials(logits)
    total = e.sum(-1)
    return np.maximum(np.log(total) - (e * z).sum(-1) / total, 0.0)


def normalised_entropy(logits: np.ndarray) -> np.ndarray:
    """Return the entropy divided by ln C, in [0, 1], ``(..., C) -> (...)``; rounding cannot carry it over 1."""
    return np.minimum(entropy_of(logits) / np.log(logits.shape[-1]), 1.0)


def near_tie(logits: np.ndarray, tolerance: float | np.ndarray) -> np.ndarray:
    """Mark answers whose two largest logits lie within the tolerance, ``(..., C) -> (...)``."""
    second, first = np.moveaxis(np.partition(logits, -2, axis=-1)[..., -2:], -1, 0)
    return first - second <= tolerance
