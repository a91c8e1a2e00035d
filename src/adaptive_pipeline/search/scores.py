"""What the points of a search gave, and the best of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from adaptive_pipeline.search.patch import Patch, to_yaml


@dataclass(frozen=True)
class Scored:
    """A point and its score in each fold."""

    name: str
    patch: Patch
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over folds."""
        return fmean(self.scores)

    @property
    def std(self) -> float:
        """Sample standard deviation over folds (n - 1)."""
        return stdev(self.scores)


def best(scored: Sequence[Scored]) -> Scored:
    """Return the point of the highest mean, the earliest of several."""
    return max(scored, key=lambda point: point.mean)


def results_csv(scored: Sequence[Scored]) -> str:
    """Return the table of all points in the grid's order: what they set, the score of each fold, mean and spread."""
    keys, folds = list(scored[0].patch), len(scored[0].scores)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["point", *keys, *(f"fold{fold}" for fold in range(folds)), "mean", "std", "folds"])
    for point in scored:
        figures = (f"{value:.6f}" for value in (*point.scores, point.mean, point.std))
        writer.writerow([point.name, *point.patch.values(), *figures, folds])
    return stream.getvalue()


def patch_text(winner: Scored, points: int, search: str) -> str:
    """Return the winner as a patch of the params, with how it did and how to apply it."""
    return (
        f"# Best of {points} points: {winner.mean:.4f}, the mean over {len(winner.scores)} held-out folds and all exits "
        f"(std over folds {winner.std:.4f}).\n# Into params.yaml: make apply NAME={search}\n"
    ) + to_yaml(winner.patch, flow=False)
