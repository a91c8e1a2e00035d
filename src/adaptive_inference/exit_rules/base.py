"""What an exit rule is: one definition, two uses.

Offline, `ExitRule.exit_indices` answers for all thresholds at once from the cached logits of all exits. Online,
`ExitRule.online` gives an object that the engine asks at one exit after the other. A property test holds the two
equal. Both see calibrated logits (divided by the exit's temperature) and calibrated certainty, compute in float64
and leave at the first exit at which the rule fires; at the last exit every row is answered, fired or not.

Shapes: N rows, B rows of a batch, E exits, C classes, T thresholds.
"""

from __future__ import annotations

import logging
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import ClassVar

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules._online import OnlineRule, OnlineStreak, plain_goes_with_arrays
from adaptive_inference.exit_rules._softmax import (
    shifted_exponentials as shifted_exponentials,  # for rules of one's own
)

logger = logging.getLogger("adaptive_inference")

#: Rows whose score lies this close to the threshold may leave elsewhere when logits differ by rounding.
TOLERANCE = 1e-5


#: A comparison of arrays -> that of numbers.
_PLAIN = {np.greater_equal: operator.ge, np.less_equal: operator.le, np.less: operator.lt}


class ExitRule(ABC):
    """When a row stops.

    A rule with options is a frozen dataclass whose fields are the options, each with a default.

    Attributes
    ----------
    kinds
        Kinds of task that the rule makes sense for.
    needs_certainty
        Reads the certainty heads of a model trained with `learning_to_exit`.
    attainable
        False when the rule looks at labels: a bound, never an answer.
    """

    kinds: ClassVar[tuple[str, ...]] = ("classification",)
    needs_certainty: ClassVar[bool] = False
    attainable: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The file's name and the options that are not at their default: the key in params and tables."""
        changed = [
            f"{option.name}={type(option.default)(getattr(self, option.name))!r}"
            for option in sorted(fields(self) if is_dataclass(self) else (), key=lambda option: option.name)
            if getattr(self, option.name) != option.default
        ]
        file = type(self).__module__.rpartition(".")[2]
        return f"{file}({', '.join(changed)})" if changed else file

    @abstractmethod
    def grid(self, num_classes: int, count: int, num_exits: int) -> np.ndarray:
        """Return at most ``count`` thresholds from the fastest to the slowest.

        The first is the fastest that the rule can do (the first exit for a rule that needs one look, a later one for
        a rule that counts exits) and the last sends every row through the whole model. Mean layers never fall along
        a grid, so that a curve always holds both ends.
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

    def never_fires(self, threshold: float, num_exits: int) -> bool:
        """Whether no row whatever can leave by the rule at a model of so many exits."""
        return False

    def decides(self, threshold: float | None, num_exits: int) -> range:
        """Return the exit indices before the last at which a row may leave at a threshold: nowhere else need layers stop."""
        online = self.online(threshold)
        first = 0.0
        if isinstance(online, OnlineStreak):
            first = online.needed - (not online.compares)
        return range(int(min(first, num_exits - 1)), num_exits - 1)

    def warn_if_idle(self, thresholds: float | np.ndarray, num_exits: int) -> None:
        """Log a warning where a threshold can never fire: the rule then costs time and saves none."""
        idle = [f"{item:g}" for item in np.atleast_1d(thresholds) if self.never_fires(float(item), num_exits)]
        if idle:
            shown = ", ".join(idle[:3]) + (", ..." if len(idle) > 3 else "")
            logger.warning(
                "exit rule %s at threshold %s can never fire with %d exits: every row runs the whole model",
                self.name, shown, num_exits,
            )  # fmt: skip

    def check_threshold(self, threshold: float, num_classes: int) -> None:  # noqa: B027 - most rules take any
        """Refuse a threshold of a user's own that makes no sense (those of a grid are not asked).

        Raises
        ------
        UserError
            The threshold lies outside what the score can be.
        """

    def check(self, kind: str, has_certainty: bool) -> None:
        """Refuse a task or a model that the rule cannot work with.

        Raises
        ------
        UserError
            The kind of task is not in `kinds`, or certainty heads are missing.
        """
        if kind not in self.kinds:
            raise UserError(
                f"exit rule {self.name!r} does not work for a {kind} task, only for {' or '.join(self.kinds)}; use patience "
                "or fixed"
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
    #: Least and greatest threshold of a user's own, from always to never or the other way round; None: any.
    limits: ClassVar[tuple[float, float] | None] = None

    def __init_subclass__(cls) -> None:
        """See `plain_goes_with_arrays`."""
        super().__init_subclass__()
        plain_goes_with_arrays(cls, "score", "score_one", ScoreRule)
        if cls.fires not in _PLAIN:
            names = ", ".join(f"numpy.{item.__name__}" for item in _PLAIN)
            raise UserError(f"`fires` of exit rule {cls.__name__} is {cls.fires!r}; allowed: {names}")

    def check_threshold(self, threshold: float, num_classes: int) -> None:
        """Refuse a threshold outside `limits`, most likely in other units; see `ExitRule.check_threshold`."""
        if self.limits is not None and not self.limits[0] <= threshold <= self.limits[1]:
            low, high = self.limits
            raise UserError(
                f"threshold {threshold:g} of exit rule {self.name!r} lies outside {low:g} to {high:g}, between which all "
                "rows leave at the first exit, or none does before the last; give a fraction, e.g. 0.9 for 90 %"
            )

    @abstractmethod
    def score(self, logits: np.ndarray, certainty: np.ndarray | None) -> np.ndarray:
        """Return scores of shape ``(...)`` from logits ``(..., C)`` and certainty ``(...)``."""

    def score_one(self, logits: list[float], certainty: float | None) -> float:
        """Return the score of a row by itself: `score` in plain numbers, up to rounding."""
        return float(self.score(np.array(logits), certainty))

    def exit_indices(
        self,
        logits: np.ndarray,
        certainty: np.ndarray | None,
        labels: np.ndarray | None,
        thresholds: np.ndarray,
    ) -> np.ndarray:
        """Return the first exit whose score fires; see `ExitRule.exit_indices`."""
        inner = slice(0, logits.shape[1] - 1)
        score = self.score(logits[:, inner], None if certainty is None else certainty[:, inner])
        return first_firing(score, thresholds, self.fires)

    def online(self, threshold: float | None) -> OnlineRule:
        """Return the comparison at one threshold."""
        return _OnlineScore(self, required(self, threshold))

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
    remembers = False

    def __init__(self, rule: ScoreRule, threshold: float) -> None:
        self.rule, self.threshold = rule, threshold
        self._compare = _PLAIN[rule.fires]

    def leave(self, k: int, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        return self.rule.fires(self.rule.score(logits, certainty), self.threshold)

    def leave_one(self, k: int, logits: list[float], certainty: float | None = None) -> bool:
        return self._compare(self.rule.score_one(logits, certainty), self.threshold)


def required(rule: ExitRule, threshold: float | None) -> float:
    """Return the threshold of a rule that cannot do without, or refuse."""
    if threshold is None:
        raise UserError(f"exit rule {rule.name!r} needs a threshold; see the grid in docs/exit_rules.md")
    return float(threshold)


def whole_numbers(rule: ExitRule, thresholds: np.ndarray | float, least: int) -> np.ndarray:
    """Return thresholds that count exits, or refuse what is no count; infinity (never) is one.

    Raises
    ------
    UserError
        A threshold is below ``least`` or no whole number.
    """
    counts = np.asarray(thresholds, dtype=np.float64)
    bad = counts[~((counts >= least) & (np.floor(counts) == counts))]
    if bad.size:
        raise UserError(
            f"exit rule {rule.name!r} counts exits: its threshold is a whole number from {least}, not {bad[0]:g}"
        )
    return counts


def first_firing(
    score_NK: np.ndarray, thresholds: np.ndarray, fires: Callable[..., np.ndarray]
) -> np.ndarray:
    """Return the first exit whose score fires, for all thresholds at once.

    Parameters
    ----------
    score_NK
        Scores of the K = E - 1 exits before the last, which answers whatever its score.
    thresholds
        ``(T,)``.
    fires
        `numpy.greater_equal`, `numpy.less_equal` or `numpy.less`.

    Returns
    -------
    array of int, ``(T, N)``
        Counts the exits at which the best score so far does not fire yet.
    """
    # fmax and fmin pass over a score that is not a number, as the online comparison does.
    best = (np.fmax if fires is np.greater_equal else np.fmin).accumulate(score_NK, axis=1)
    thresholds = np.asarray(thresholds, dtype=np.float64)[:, None]
    exits = np.zeros((len(thresholds), len(best)), dtype=np.int64)
    for k in range(best.shape[1]):
        exits += ~fires(best[:, k], thresholds)
    return exits


def up_to_exit(marked_NE: np.ndarray, exits_N: np.ndarray) -> np.ndarray:
    """Return the rows ``(N,)`` that are marked at the exit where they leave or at one before it."""
    return (marked_NE & (np.arange(marked_NE.shape[1]) <= exits_N[:, None])).any(1)


def doubt_grid(count: int) -> np.ndarray:
    """Return ``count`` levels of doubt from 1 down to 0, ever closer together towards 0.

    Trained models are sure of most rows, so an even grid would spend its thresholds where no row is: the squares of an
    even grid put half of them in the surest quarter.
    """
    return np.linspace(1.0, 0.0, max(count, 1)) ** 2
