"""AdapLeR's own accounting of BERT-base, its error included, so that its published speed-ups can be read (adapler.md 3).

Polynomials of a profiler that counts every operation, two per multiply-add; ours (`cost.flops`) counts matrix products
alone. Shapes: N rows, L = 12 layers, T tokens.
"""

from __future__ import annotations

import numpy as np

_LAYERS = 12
#: Of the model with predictors, per layer and token left: the layer's own 14,184,196, and 49,358 of the predictor.
_PER_TOKEN, _PER_PAIR, _EMBEDDING = 14_233_554, 3_156, 6_152
#: A contribution above this counts as a token that is still there.
_THERE = 1e-6


def published_full(lengths: np.ndarray, classes: int) -> np.ndarray:
    """Return the FLOPs of BERT-base at each length, int64 of the same shape."""
    n = np.asarray(lengths, dtype=np.int64)
    return _LAYERS * _PER_PAIR * n**2 + 170_216_500 * n + 1_181_953 + 1_537 * classes


def published_reduced(survivors: np.ndarray, classes: int) -> np.ndarray:
    """Return the FLOPs with predictors, (N,) int64, of the tokens (N, L) left after each layer's removal."""
    n = np.asarray(survivors, dtype=np.int64)
    if n.shape[-1] != _LAYERS:
        raise ValueError(f"the published accounting is of {_LAYERS} layers, not {n.shape[-1]}")
    layers = (_PER_PAIR * n**2 + _PER_TOKEN * n).sum(-1)
    return 1_183_537 + 1_537 * (classes - 1) + _EMBEDDING * n[..., 0] + layers


def published_survivors(scores: np.ndarray, last_eta: float) -> np.ndarray:
    """Return the tokens (N, L) that the published code counts as left after each layer.

    After layer l it takes the contributions of layer l + 1 that are not nearly 0, though a peaked predictor hides tokens
    that were computed; after the last layer those above eta itself rather than eta / n: nearly always 0 or 1.

    Parameters
    ----------
    scores
        Contributions (N, L, T), 0 where no token is.
    last_eta
        Eta of the last layer.
    """
    inner = (scores[:, 1:] > _THERE).sum(-1)
    last = (scores[:, -1:] > last_eta).sum(-1)
    return np.concatenate([inner, last], axis=1)


def published_speedup(lengths: np.ndarray, survivors: np.ndarray, classes: int) -> float:
    """Return the ratio of the totals over all rows: lengths (N,) without padding, survivors (N, L)."""
    full, reduced = published_full(lengths, classes), published_reduced(survivors, classes)
    return float(full.sum() / reduced.sum())
