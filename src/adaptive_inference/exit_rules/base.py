"""What an exit rule is: one definition, two uses.

Offline, `ExitRule.exit_indices` answers for all thresholds at once from the cached logits of all exits. Online,
`ExitRule.online` gives an object that the engine asks at one exit after the other. A property test holds the two
equal. Both see calibrated logits (divided by the exit's temperature) and calibrated certainty, compute in float64
and leave at the first exit at which the rule fires; at the last exit every row is answered, fired or not.

Shapes: N rows, B rows of a batch, E exits, C classes, T thresholds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from adaptive_inference.errors import UserError

#: Rows whose score lies this close to the threshold may leave elsewhere when logits differ by rounding.
TOLERANCE = 1e-5


class OnlineRule(ABC):
    """A rule at one threshold, asked once per exit; keeps what it needs to remember of each row."""

    @abstractmethod
    def leave(self, k: int, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        """Say which rows leave at exit index ``k`` (0-based).

        Parameters
        ----------
        k
            Index among the model's exits; asked in order 0, 1, 2, ...
        logits
            Calibrated logits, ``(B, C)``.
        certainty
            Calibrated certainty, ``(B,)``, where the model has certainty heads.

        Returns
        -------
        array of bool, ``(B,)``
        """

    def select(self, rows: np.ndarray) -> None:  # noqa: B027 - a rule without memory has nothing to do
        """Keep the state of these rows only, in this order (others have left the batch)."""


class ExitRule(ABC):
    """When a row stops.

    Attributes
    ----------
    name
        The file's name, the key in params and tables.
    kinds
        Kinds of task that the rule makes sense for.
    needs_certainty
        Reads the certainty heads of a model trained with `learning_to_exit`.
    attainable
        False when the rule looks at labels: a bound, never an answer.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ("classification",)
    needs_certainty: ClassVar[bool] = False
    attainable: ClassVar[bool] = True

    @abstractmethod
    def grid(self, num_classes: int, count: int, num_exits: int) -> np.ndarray:
        """Return at most ``count`` thresholds from the fastest to the slowest.

        The first sends every row out at the first exit and the last sends every row through the whole model, so
        that mean layers never fall along a grid and a curve always holds both ends.
        """

    @abstractmethod
    def exit_indices(
        self,
        logits: np.ndarray,
        certainty: np.ndarray | None,
        labels: np.ndarray | None,
        thresholds: np.ndarray,
    ) -> np.ndarray:
        """Return where each row leaves at each threshold.

        Parameters
        ----------
        logits
            Calibrated logits of all exits, ``(N, E, C)``.
        certainty
            Calibrated certainty, ``(N, E)``, or None.
        labels
            Truth, ``(N,)``; read by rules that are not attainable only.
        thresholds
            ``(T,)``, in any order.

        Returns
        -------
        array of int, ``(T, N)``
            Exit indices, 0 to E - 1.
        """

    @abstractmethod
    def online(self, threshold: float | None) -> OnlineRule:
        """Return the rule at one threshold for the engine."""

    def near_threshold(
        self,
        logits: np.ndarray,
        certainty: np.ndarray | None,
        threshold: float | None,
        tolerance: float | np.ndarray = TOLERANCE,
    ) -> np.ndarray:
        """Mark rows ``(N,)`` that may leave elsewhere when their logits change by rounding, one tolerance or ``(E,)``."""
        return np.zeros(len(logits), bool)

    def check(self, kind: str, has_certainty: bool) -> None:
        """Refuse a task or a model that the rule cannot work with.

        Raises
        ------
        UserError
            The kind of task is not in `kinds`, or certainty heads are missing.
        """
        if kind not in self.kinds:
            raise UserError(
                f"exit rule {self.name!r} does not work for a {kind} task, only for {' or '.join(self.kinds)}; use fixed"
            )
        if self.needs_certainty and not has_certainty:
            raise UserError(
                f"exit rule {self.name!r} reads certainty heads, which this model lacks; train it with objective: "
                "learning_to_exit or choose another rule, e.g. confidence"
            )


class ScoreRule(ExitRule):
    """A rule without memory: compare one score per exit with the threshold."""

    #: How the score must stand to the threshold to leave: greater_equal, less_equal or less.
    fires: ClassVar[Callable[..., np.ndarray]] = np.greater_equal

    @abstractmethod
    def score(self, logits: np.ndarray, certainty: np.ndarray | None) -> np.ndarray:
        """Return scores of shape ``(...)`` from logits ``(..., C)`` and certainty ``(...)``."""

    def exit_indices(
        self,
        logits: np.ndarray,
        certainty: np.ndarray | None,
        labels: np.ndarray | None,
        thresholds: np.ndarray,
    ) -> np.ndarray:
        """Count the exits at which the best score so far does not fire yet; see `ExitRule.exit_indices`."""
        inner = slice(0, logits.shape[1] - 1)
        score = self.score(logits[:, inner], None if certainty is None else certainty[:, inner])
        # fmax and fmin pass over a score that is not a number, as the online comparison does.
        best = (np.fmax if self.fires is np.greater_equal else np.fmin).accumulate(score, axis=1)
        thresholds = np.asarray(thresholds, dtype=np.float64)[:, None]
        exits = np.zeros((len(thresholds), len(logits)), dtype=np.int64)
        for k in range(best.shape[1]):
            exits += ~self.fires(best[:, k], thresholds)
        return exits

    def online(self, threshold: float | None) -> OnlineRule:
        """Return the comparison at one threshold."""
        if threshold is None:
            raise UserError(f"exit rule {self.name!r} needs a threshold; see the grid in docs/exit_rules.md")
        return _OnlineScore(self, float(threshold))

    def near_threshold(
        self,
        logits: np.ndarray,
        certainty: np.ndarray | None,
        threshold: float | None,
        tolerance: float | np.ndarray = TOLERANCE,
    ) -> np.ndarray:
        """Mark rows with a score within ``tolerance`` of the threshold at any exit."""
        return (np.abs(self.score(logits, certainty) - threshold) <= tolerance).any(1)


class _OnlineScore(OnlineRule):
    def __init__(self, rule: ScoreRule, threshold: float) -> None:
        self.rule, self.threshold = rule, threshold

    def leave(self, k: int, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        return self.rule.fires(self.rule.score(logits, certainty), self.threshold)


def doubt_grid(count: int) -> np.ndarray:
    """Return ``count`` levels of doubt from 1 down to 0, ever closer together towards 0.

    Trained models are sure of most rows, so an even grid would spend its thresholds where no row is: the squares of an
    even grid put half of them in the surest quarter.
    """
    return np.linspace(1.0, 0.0, max(count, 1)) ** 2


def shifted_exponentials(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``z - max z`` and its exponential in float64, ``(..., C)``; the largest exponential is exactly 1."""
    z = np.asarray(logits, dtype=np.float64)
    z = z - z.max(-1, keepdims=True)
    return z, np.exp(z)


def entropy_of(logits: np.ndarray) -> np.ndarray:
    """Return the entropy of the softmax in nats, never below 0, ``(..., C) -> (...)``."""
    z, e = shifted_exponentials(logits)
    total = e.sum(-1)
    return np.maximum(np.log(total) - (e * z).sum(-1) / total, 0.0)
