"""Rows that an inner exit had right and the last exit has wrong: "destructive overthinking" (Kaya et al., 2019).

Its opposite, right at the last exit alone, is what the deep layers are for. Both from cached outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def overthinking(predictions: np.ndarray, labels: np.ndarray, exits: Sequence[int]) -> dict[str, Any] | None:
    """Count where inner exits and the last one differ in being right.

    Parameters
    ----------
    predictions
        ``(N, E)`` classes, of every exit for every row.
    labels
        ``(N,)`` classes.
    exits
        Layers before each exit, E of them.

    Returns
    -------
    dict or None
        Shares of the N rows. ``right_then_wrong``: right at some inner exit, wrong at the last; ``last_only``: wrong at
        every inner exit, right at the last. ``exits``: the same per inner exit, ``layer``, ``right_then_wrong`` and
        ``wrong_then_right``. None where there is no inner exit.
    """
    if len(exits) < 2:
        return None
    right = predictions == np.asarray(labels)[:, None]
    inner, last = right[:, :-1], right[:, -1]
    lost, gained = inner & ~last[:, None], ~inner & last[:, None]
    return {
        "right_then_wrong": float(lost.any(1).mean()),
        "last_only": float(gained.all(1).mean()),
        "exits": [
            {
                "layer": layer,
                "right_then_wrong": float(lost[:, k].mean()),
                "wrong_then_right": float(gained[:, k].mean()),
            }
            for k, layer in enumerate(exits[:-1])
        ],
    }
