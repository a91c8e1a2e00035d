"""What a threshold was chosen for, what it sets, and what calibration saw: three types with one JSON form.

The only place that makes the names of goals (``max_loss_1``, ``min_speedup_2``, ...), and that makes and reads those of a
cascade's members alone (``static_2``). Loads neither torch nor numpy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from adaptive_inference.errors import UserError
from adaptive_inference.files import check_form

Cost = Literal["layers", "flops"]
Kind = Literal["max_loss", "min_speedup", "risk", "full", "whole", "member", "nothing_removed"]

ROUNDING = 1e-9  #: a goal met up to float rounding is met
COST_WORDS: dict[str, str] = {"layers": "layers", "flops": "FLOPs"}
_STATIC = "static_"  #: begins the names of first layers that answer alone

T = TypeVar("T")


def static_name(layers: float) -> str:
    """Return ``static_K``: the key of the first K layers that answer alone."""
    return f"{_STATIC}{layers:g}"


def static_layers(name: str) -> int | None:
    """Return K of ``static_K``; None for any other name."""
    match = re.fullmatch(rf"{_STATIC}(\d+)", name)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Goal:
    """What is asked of an operating point.

    Attributes
    ----------
    kind
        ``max_loss``: the cheapest that loses at most ``value`` points (hundredths) against the full model;
        ``min_speedup``: the best quality at a cost at least ``value`` times lower; ``risk``: the cheapest whose risk is
        certified to be at most ``value``. Without a choice: ``full``, the full model; ``whole``, a model of one exit;
        ``member``, the member of ``value`` layers of a cascade, alone; ``nothing_removed``, a model that removes tokens, run
        through all layers without removing any.
    value
        The number in the goal; None where the kind has none.
    cost
        The currency in which "cheapest" and "times lower" are meant.
    """

    kind: Kind
    value: float | None = None
    cost: Cost = "layers"

    @property
    def name(self) -> str:
        """The key in tables and files, without the currency, which a run has one of."""
        if self.value is None:
            return self.kind
        return static_name(self.value) if self.kind == "member" else f"{self.kind}_{self.value:g}"

    @property
    def words(self) -> str:
        """How readers are told of it."""
        number = "" if self.value is None else f"{self.value:g}"
        if self.kind == "max_loss":
            return f"≤ {number} {'point' if number == '1' else 'points'} lost"
        if self.kind == "min_speedup":
            return f"≥ {number}× fewer {COST_WORDS[self.cost]}"  # noqa: RUF001 - a sign that readers see
        if self.kind == "risk":
            return f"risk ≤ {number}"
        words = {"full": "all layers", "whole": "the whole model", "member": "member alone"}
        return words.get(self.kind, "nothing removed")

    @property
    def chosen(self) -> bool:
        """Whether a threshold was chosen among several, rather than given by the model."""
        return self.kind in ("max_loss", "min_speedup", "risk")

    @property
    def keeps_quality(self) -> bool:
        """Whether a point that qualifies stays within the loss that the params allow."""
        return self.kind in ("max_loss", "full", "whole", "member")

    @property
    def order(self) -> tuple[int, float, str]:
        """Sort key: by kind, then by number."""
        kinds = ("full", "max_loss", "member", "min_speedup", "risk", "whole", "nothing_removed")
        return kinds.index(self.kind), self.value or 0.0, self.cost

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {"kind": self.kind, "value": self.value, "cost": self.cost}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Goal:
        """Read what `to_json` gave."""
        return cls(body["kind"], body["value"], body["cost"])


@dataclass(frozen=True)
class Setting:
    """How a model answers.

    Attributes
    ----------
    rule, threshold
        Exit rule by its name, and its threshold; None where no threshold reaches the goal.
    member
        Layers of the cascade's member that answers alone; None: the whole model answers.
    """

    rule: str
    threshold: float | None
    member: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {"rule": self.rule, "threshold": self.threshold, "member": self.member}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Setting:
        """Read what `to_json` gave."""
        return cls(body["rule"], body["threshold"], body["member"])


@dataclass(frozen=True)
class Seen:
    """What calibration measured at a point: quality, a fraction, and full cost / own cost in each currency."""

    quality: float
    layers_speedup: float
    flops_speedup: float | None = None

    def speedup(self, cost: Cost) -> float | None:
        """Return the speed-up in a currency; None where it was not measured."""
        return self.layers_speedup if cost == "layers" else self.flops_speedup

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "quality": self.quality,
            "layers_speedup": self.layers_speedup,
            "flops_speedup": self.flops_speedup,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Seen:
        """Read what `to_json` gave."""
        return cls(body["quality"], body["layers_speedup"], body["flops_speedup"])


@dataclass(frozen=True)
class OperatingPoint:
    """A goal, the setting chosen for it, and what calibration saw.

    Attributes
    ----------
    qualifies
        Whether the setting meets the goal on the calibration split.
    seen
        None where no threshold reaches the goal, or calibration did not measure the point.
    evidence
        Of a certified risk: ``epsilon``, ``risk``, ``rows``, ``p_value``; else empty.
    """

    goal: Goal
    setting: Setting
    qualifies: bool
    seen: Seen | None = None
    evidence: Mapping[str, float | int] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether there is a setting to answer with."""
        return self.setting.threshold is not None

    def method(self, own: str) -> str:
        """Return the key of its row in tables: the method's own, or ``static_K`` of a member alone."""
        return own if self.setting.member is None else static_name(self.setting.member)

    def to_json(self) -> dict[str, Any]:
        """Return the plain form, as ``calibration.json`` and records hold it."""
        return {
            "goal": self.goal.to_json(),
            "setting": self.setting.to_json(),
            "qualifies": self.qualifies,
            "seen": None if self.seen is None else self.seen.to_json(),
            "evidence": dict(self.evidence),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> OperatingPoint:
        """Read what `to_json` gave.

        Raises
        ------
        UserError
            A key is missing or of another kind: the file is older than this form, or damaged.
        """
        fix = "calibrate the model again, or export it again"
        try:
            seen = None if body["seen"] is None else Seen.from_json(body["seen"])
            point = cls(
                Goal.from_json(body["goal"]),
                Setting.from_json(body["setting"]),
                bool(body["qualifies"]),
                seen,
                dict(body["evidence"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"an operating point lacks or mistypes {error}; {fix}") from error
        check_form(cls, body, "an operating point", fix)
        return point


def rank(goal: Goal, seen: Seen) -> tuple[float, float]:
    """Return by what points of one goal are ranked, the best highest: quality and speed-up, the goal's own first.

    A goal of speed asks for the best quality, then the lower cost; any other for the lowest cost, then the better quality.
    """
    speedup = seen.speedup(goal.cost) or 0.0
    return (seen.quality, speedup) if goal.kind == "min_speedup" else (speedup, seen.quality)


def best_point(
    candidates: Iterable[T],
    read: Callable[[T], OperatingPoint],
) -> T | None:
    """Return the best of several candidates that are meant for one goal, the first of equals; None where none qualifies.

    Parameters
    ----------
    candidates
        Whatever carries an operating point: points themselves, rows of a table.
    read
        From a candidate to its operating point.
    """
    fit = [(item, point) for item in candidates if (point := read(item)).qualifies and point.seen is not None]
    best = max(fit, key=lambda pair: rank(pair[1].goal, pair[1].seen), default=None)  # type: ignore[arg-type]
    return None if best is None else best[0]
