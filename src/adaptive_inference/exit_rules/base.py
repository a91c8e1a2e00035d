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
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import ClassVar, Self

import numpy as np

from adaptive_inference.errors import UserError

logger = logging.getLogger("adaptive_inference")

#: Rows whose score lies this close to the threshold may leave elsewhere when logits differ by rounding.
TOLERANCE = 1e-5


class OnlineRule(ABC):
    """A rule at one threshold, asked once per exit; keeps what it needs to remember of each row."""

    #: Whether it may keep something, so that each batch needs one of its own.
    remembers: ClassVar[bool] = True

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

    def leave_one(self, k: int, logits: list[float], certainty: float | None = None) -> bool:
        """Say whether a row by itself leaves at exit index ``k``: `leave` in plain numbers, up to rounding.

        Asked in place of `leave`, never beside it. One that makes no arrays is faster at batch 1, see `engine.alone`.
        """
        sure = None if certainty is None else np.array([certainty])
        return bool(self.leave(k, np.array([logits]), sure)[0])

    def select(self, rows: np.ndarray) -> None:  # noqa: B027 - a rule without memory has nothing to do
        """Keep the state of these rows only, in this order (others have left the batch), in new arrays."""

    def merge(self, others: Sequence[Self]) -> None:
        """Take in the state of the rows of other batches, asked as often as this one, behind one's own."""
        if type(self).select is not OnlineRule.select:
            raise UserError(
                f"{type(self).__name__} remembers something of each row and does not say how rows of several batches come "
                "together; give it a `merge` beside its `select`, or answer row by row"
            )


class OnlineStreak(OnlineRule):
    """Leaves at the exit that completes a run of ``needed`` consecutive exits that hold.

    Whether an exit holds depends on its own logits and, where the rule ``compares``, on those of the exit before: then
    the first exit never holds. So an engine may look at a run from its newest exit backwards, see `engine.looks`.

    Parameters
    ----------
    needed
        Length of the run; infinity never fires.
    """

    compares: ClassVar[bool] = False

    def __init__(self, needed: float) -> None:
        self.needed = needed
        self._run_B: np.ndarray | None = None
        self._older: np.ndarray | None = None
        self._run_one, self._older_one = 0, None  # of a row by itself

    @abstractmethod
    def holds(self, older: np.ndarray | None, newer: np.ndarray) -> np.ndarray:
        """Say which rows hold, ``(B,)``, from the logits ``(B, C)`` of the exit before and of the exit itself."""

    def leave(self, k: int, logits: np.ndarray, certainty: np.ndarray | None = None) -> np.ndarray:
        """Lengthen each row's run or start it anew; see `OnlineRule.leave`."""
        if self._run_B is None:
            self._run_B = np.zeros(len(logits), np.int64)
        if not (self.compares and self._older is None):
            self._run_B = (self._run_B + 1) * self.holds(self._older, logits)
        self._older = logits
        return self._run_B == self.needed

    def holds_one(self, older: list[float] | None, newer: list[float]) -> bool:
        """Say whether a row by itself holds: `holds` in plain numbers."""
        before = None if older is None else np.array([older])
        return bool(self.holds(before, np.array([newer]))[0])

    def leave_one(self, k: int, logits: list[float], certainty: float | None = None) -> bool:
        """Lengthen the row's run or start it anew; see `OnlineRule.leave_one`."""
        if not (self.compares and self._older_one is None):
            self._run_one = self._run_one + 1 if self.holds_one(self._older_one, logits) else 0
        self._older_one = logits
        return self._run_one == self.needed

    def select(self, rows: np.ndarray) -> None:
        """Keep the runs of these rows; see `OnlineRule.select`."""
        if self._run_B is not None and self._older is not None:
            self._run_B, self._older = self._run_B[rows], self._older[rows]

    def merge(self, others: Sequence[Self]) -> None:
        """Put the runs of other rows behind one's own; see `OnlineRule.merge`."""
        if self._run_B is not None and self._older is not None:
            every = [self, *others]
            self._run_B = np.concatenate([item._run_B for item in every])
            self._older = np.concatenate([item._older for item in every])


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


#: A comparison of arrays -> that of numbers.
_PLAIN = {np.greater_equal: operator.ge, np.less_equal: operator.le, np.less: operator.lt}


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
