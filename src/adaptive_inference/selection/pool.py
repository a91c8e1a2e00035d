"""All candidates of one seed side by side: every method, rule and threshold on the same calibration rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from adaptive_inference.calibration.operating_point import Seen, Setting
from adaptive_inference.errors import UserError
from adaptive_inference.selection.candidates import Candidates, Currency, Family
from adaptive_inference.tasks.quality import quality

POINTS = 100.0  #: losses are in points, hundredths of quality


@dataclass(frozen=True)
class Pool:
    """C candidates on N rows; those of a family lie together, from the slowest to the fastest.

    Attributes
    ----------
    metric, num_classes
        Of the task.
    labels
        ``(N,)``.
    full
        The full model's answers, ``(N,)``.
    answers
        ``(C, N)``.
    speedup
        ``(C,)``, in the currency of the goal.
    families
        First and last-plus-one index of each family.
    names
        Method and rule of each family.
    origins
        ``(C,)`` pairs: the `Family` of a candidate, and its index there.
    """

    metric: str
    num_classes: int
    labels: np.ndarray
    full: np.ndarray
    answers: np.ndarray
    speedup: np.ndarray
    families: tuple[tuple[int, int], ...]
    names: tuple[tuple[str, str], ...]
    origins: tuple[tuple[Family, int], ...]

    @classmethod
    def of(cls, full: Candidates, others: Iterable[Candidates], cost: Currency) -> Pool:
        """Put the candidates of all methods together; what is no faster than the full model is none.

        Of neighbours that give the same answers at the same cost one is kept, the safest threshold.

        Raises
        ------
        UserError
            Some method answered other rows than the full model.
        """
        answers, speedups, families, names, origins, start = [], [], [], [], [], 0
        for method in others:
            if not np.array_equal(method.ids, full.ids):
                raise UserError(
                    f"{method.method} and {full.method} were calibrated on other rows; run calibrate_thresholds for both"
                )
            for family in method.families:
                kept = _apart(family, cost)
                if not len(kept):
                    continue
                answers.append(family.answers[kept])
                speedups.append(family.speedup(cost)[kept])
                families.append((start, start + len(kept)))
                names.append((method.method, family.rule))
                origins += [(family, int(t)) for t in kept]
                start += len(kept)
        rows = len(full.labels)
        return cls(
            full.metric,
            full.num_classes,
            full.labels,
            full.families[0].answers[-1],
            np.concatenate(answers) if answers else np.zeros((0, rows)),
            np.concatenate(speedups) if speedups else np.zeros(0),
            tuple(families),
            tuple(names),
            tuple(origins),
        )

    def __len__(self) -> int:
        """C."""
        return len(self.speedup)

    def name(self, c: int) -> tuple[str, str]:
        """Return method and rule of a candidate."""
        return next(name for name, (_, end) in zip(self.names, self.families, strict=True) if c < end)

    def setting(self, c: int) -> Setting:
        """Return how a candidate answers."""
        family, t = self.origins[c]
        return family.setting(t)

    def seen(self, c: int) -> Seen:
        """Return what calibration measured of a candidate."""
        family, t = self.origins[c]
        own = quality(self.metric, self.answers[c], self.labels, self.num_classes)
        return Seen(float(own), float(family.layers_speedup[t]), float(family.flops_speedup[t]))

    @property
    def full_quality(self) -> float:
        """Quality of the full model on the rows."""
        return float(quality(self.metric, self.full, self.labels, self.num_classes))

    def best_within(self, speedup: float) -> int | None:
        """Return the best of the candidates that are at least so fast, the faster of equals; None: there is none."""
        found = quality(self.metric, self.answers, self.labels, self.num_classes)
        fast = np.flatnonzero(self.speedup >= speedup)
        if not len(fast):
            return None
        return int(max(fast, key=lambda c: (np.asarray(found)[c], self.speedup[c])))

    def losses(self, rows: np.ndarray, some: np.ndarray | None = None) -> np.ndarray:
        """Return the points that candidates lose against the full model on some rows, ``(C,)``; below 0: they gain.

        Parameters
        ----------
        rows
            Their indices, repeats allowed.
        some
            Indices of the candidates asked for; None: all.
        """
        answers = self.answers if some is None else self.answers[some]
        labels = self.labels[rows]
        own = quality(self.metric, answers[:, rows], labels, self.num_classes)
        full = quality(self.metric, self.full[rows], labels, self.num_classes)
        return POINTS * (full - np.asarray(own))


def _apart(family: Family, cost: Currency) -> np.ndarray:
    """Return the indices of a family's candidates that are faster than the full model, slowest first, repeats left out."""
    speedup = family.speedup(cost)
    order = np.argsort(speedup, kind="stable")
    order = order[speedup[order] > 1.0]
    if not len(order):
        return order
    answers, costs = family.answers[order], speedup[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(costs) > 0) | (answers[1:] != answers[:-1]).any(1)
    return order[new]
