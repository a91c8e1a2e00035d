"""What the learned weights of the losses became, from the rows of ``weights.jsonl``. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import Any


def weight_figures(trajectory: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how far the weights are from 1, where all start, when training ends.

    Those of terms that the objective does not have stay 0: a term is whatever was ever anything but 0.

    Parameters
    ----------
    trajectory
        Rows with ``step``, ``truth`` (a weight per exit) and ``teachers`` (exits of one row of teachers each).
    """
    moments = [[*row["truth"], *chain.from_iterable(row["teachers"])] for row in trajectory]
    values = [weights[-1] for weights in zip(*moments, strict=True) if any(weights)]
    away = [abs(weight - 1.0) for weight in values]
    return {
        "steps": trajectory[-1]["step"],
        "terms": len(values),
        "max_deviation": max(away),
        "mean_deviation": fmean(away),
        "min": min(values),
        "max": max(values),
    }
