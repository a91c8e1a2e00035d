"""The choice among deployments: what each costs by the table of latencies, and which is the fastest that keeps the goal.

Shape suffixes: E exits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from adaptive_inference.calibration.operating_point import Seen, Setting
from adaptive_inference.exit_rules import ExitRule
from adaptive_inference.selection.candidates import Candidates, Family
from adaptive_inference.selection.families import timed_families_of
from adaptive_inference.selection.pool import Pool
from adaptive_inference.selection.promise import NONE, Promise, Resampled
from adaptive_inference.settings.protocol import Goal
from adaptive_pipeline.deployments.at_hand import Deployed
from adaptive_pipeline.runs.deployment_records import DeploymentOffer

_FIXED = "fixed"


@dataclass(frozen=True)
class Group:
    """The candidates of a model in one deployment: by its rules, or left at a fixed exit.

    Attributes
    ----------
    adaptive
        Whether rows leave by a rule.
    """

    item: Deployed
    adaptive: bool
    candidates: Candidates

    @property
    def key(self) -> tuple[str, str, bool]:
        """Method and deployment, and whether it is adaptive."""
        return self.item.model.key, self.item.deployment, self.adaptive


@dataclass(frozen=True)
class Pick:
    """What was chosen among some groups.

    Attributes
    ----------
    setting
        Of the deployed model by itself; a member of a cascade is not named in it.
    promise
        None where a latency was asked for.
    kept
        Whether it is within what was asked for.
    """

    group: Group
    setting: Setting
    seen: Seen
    difference: float
    promise: Promise | None
    kept: bool = True


class Chooser:
    """Chooses among deployments, on calibration rows.

    Parameters
    ----------
    deployed
        The full model in PyTorch first.
    time_E
        Of each: time of leaving at each exit, as a share of that of the full model in PyTorch.
    rules
        Method's key -> the rules that its model may be run with.
    split
        That is calibrated on.
    thresholds
        The most of one rule's grid.
    goal
        What is asked for.
    full_ms
        Milliseconds of the full model in PyTorch, in the mean.
    seed
        Of the resamples.
    """

    def __init__(
        self,
        deployed: Sequence[Deployed],
        time_E: Sequence[np.ndarray],
        rules: Mapping[str, Mapping[str, ExitRule]],
        split: str,
        thresholds: int,
        goal: Goal,
        full_ms: float,
        seed: int,
    ) -> None:
        self.goal, self._full_ms, self._seed = goal, full_ms, seed
        groups = []
        for item, times in zip(deployed, time_E, strict=True):
            yardstick = item.answers[split].yardstick
            families = timed_families_of(
                rules[item.model.key], item.outputs(split), yardstick, thresholds, times
            )
            for adaptive in (True, False):
                own = tuple(family for family in families if (family.rule != _FIXED) == adaptive)
                if own:
                    groups.append(Group(item, adaptive, _candidates(item, split, own)))
        self.full, *self.groups = groups

    @cached_property
    def pick(self) -> Pick | None:
        """What is chosen among all; None: the full model in PyTorch."""
        return self._pick(self.groups)

    @property
    def candidates(self) -> int:
        """How many are chosen among."""
        return len(self._pool(self.groups))

    def offer(self) -> DeploymentOffer:
        """Return what is chosen, as a record tells it."""
        goal, pick = self.goal, self.pick
        asked = "max_loss" if goal.max_latency_ms is None else "max_latency_ms"
        limit = goal.max_loss if goal.max_latency_ms is None else goal.max_latency_ms
        if pick is None:
            kept = goal.max_latency_ms is None or self._full_ms <= goal.max_latency_ms
            return DeploymentOffer(
                deployment="torch", method="full", setting=None, asked=asked, limit=limit, kept=kept
            )
        model, promise = pick.group.item.model, pick.promise
        names = ("margin", "probability", "loss", "low", "high")
        return DeploymentOffer(
            deployment=pick.group.item.deployment,
            method=model.method,
            setting=replace(pick.setting, member=model.member),
            asked=asked,
            limit=limit,
            kept=pick.kept,
            seen=pick.seen,
            difference=pick.difference,
            **({} if promise is None else {name: getattr(promise, name) for name in names}),
        )

    def settings(self) -> list[tuple[Group, Setting | None]]:
        """Return each group with its own best setting, the full model in PyTorch first.

        The full model has one setting, whatever is promised of it: it is what others are compared with.
        """
        whole = Setting(_FIXED, 0.0)
        found: list[tuple[Group, Setting | None]] = [(self.full, whole)]
        for group in self.groups:
            if self.pick is not None and group is self.pick.group:
                setting = self.pick.setting
            elif group.item.model.key == self.full.item.model.key:
                setting = whole
            else:
                own = self._pick([group])
                setting = None if own is None else own.setting
            found.append((group, setting))
        return found

    def _pool(self, groups: Sequence[Group]) -> Pool:
        return Pool.of(self.full.candidates, [group.candidates for group in groups], "clock")

    def _pick(self, groups: Sequence[Group]) -> Pick | None:
        pool = self._pool(groups)
        if not len(pool):
            return None
        promise, kept = None, True
        if self.goal.max_latency_ms is None:
            promise = Resampled(pool, seed=self._seed).promise(self.goal.max_loss, self.goal.confidence)
            c = promise.chosen
        else:
            c, kept = self._within(pool, self._full_ms / self.goal.max_latency_ms)
        if c == NONE:
            return None
        label, rule = pool.name(c)
        group = next(
            item
            for item in groups
            if item.candidates.method == label and rule in {own.rule for own in item.candidates.families}
        )
        seen = pool.seen(c)
        return Pick(group, pool.setting(c), seen, seen.quality - pool.full_quality, promise, kept)

    def _within(self, pool: Pool, speedup: float) -> tuple[int, bool]:
        """Return the best that is so fast, the full model in PyTorch among them, and whether any is; else the fastest."""
        best = pool.best_within(speedup)
        if best is None:
            return (NONE, True) if speedup <= 1 else (int(pool.speedup.argmax()), False)
        if speedup <= 1 and pool.full_quality > pool.seen(best).quality:
            return NONE, True
        return best, True


def _candidates(item: Deployed, split: str, families: tuple[Family, ...]) -> Candidates:
    answers = item.answers[split]
    outputs, yardstick = answers.outputs, answers.yardstick
    return Candidates(
        item.label, yardstick.metric, yardstick.num_classes, outputs.labels, outputs.ids, families
    )
