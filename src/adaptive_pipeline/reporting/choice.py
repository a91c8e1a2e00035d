"""What is recommended for each task and backbone: the records of two stages, put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from adaptive_inference.by_name import is_own, short_name
from adaptive_inference.calibration.operating_point import ROUNDING, Goal, OperatingPoint
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.frame import Results, machine_name
from adaptive_pipeline.reporting.statistics.chance import Chance, against_chance
from adaptive_pipeline.runs.records import Offer, RecommendationRecord, RecommendedRecord
from adaptive_pipeline.runs.validity import why_unusable


@dataclass(frozen=True)
class Marked:
    """The recommended model as tables and figures mark it, measured on the evaluation split.

    Attributes
    ----------
    method
        Key of its rows in the main table.
    quality
        A fraction.
    wallclock_speedup, milliseconds
        Of batch 1; None where it was not timed.
    """

    method: str
    rule: str
    threshold: float | None
    seed: int
    quality: float
    layers_speedup: float
    flops_speedup: float | None = None
    wallclock_speedup: float | None = None
    milliseconds: float | None = None


@dataclass(frozen=True)
class Choice:
    """What to use for one task and backbone.

    Attributes
    ----------
    model
        Folder of the assembled model below the results, e.g. ``model`` or ``model/TASK``.
    cell
        Of the model that is handed out; the full model's where nothing faster is promised; None where nothing is known.
    chosen, measured
        The records of `recommend` and `evaluate_recommended`, of the cell's seed.
    why
        Why there is no answer; else empty.
    clock
        Row of the timings; empty where it was not timed.
    machine
        Where it was timed.
    exits
        Exit layers of the model that is handed out.
    chance
        Where the full model is not shown to beat one answer for all texts.
    own_code
        Code of one's own that the model needs to answer.
    """

    task: str
    backbone: str
    model: str
    cell: Cell | None = None
    chosen: RecommendationRecord | None = None
    measured: RecommendedRecord | None = None
    why: str = ""
    clock: Mapping[str, Any] = field(default_factory=dict)
    machine: str = ""
    exits: tuple[int, ...] = ()
    chance: Chance | None = None
    own_code: tuple[str, ...] = ()

    @property
    def offer(self) -> Offer:
        """What was offered under the goal."""
        assert self.chosen is not None
        assert self.chosen.offer is not None
        return self.chosen.offer

    @property
    def known(self) -> bool:
        """Whether there is an answer, be it the full model."""
        return self.chosen is not None

    @property
    def faster(self) -> bool:
        """Whether a model other than the full one is recommended."""
        return self.chosen is not None and self.offer.method is not None

    @property
    def held(self) -> bool:
        """Whether the evaluation split, too, shows no more loss than the goal allows."""
        assert self.measured is not None
        assert self.measured.loss is not None
        return self.measured.loss <= self.offer.max_loss + 100 * ROUNDING

    @cached_property
    def marked(self) -> Marked | None:
        """What tables and figures mark; None where the full model is all that is recommended."""
        found, setting = self.measured, self.offer.setting if self.faster else None
        if found is None or setting is None:
            return None
        assert found.method is not None
        assert found.quality is not None
        assert found.layers_speedup is not None
        return Marked(
            found.method,
            setting.rule,
            setting.threshold,
            found.cell.seed,
            found.quality,
            found.layers_speedup,
            found.flops_speedup,
            self.clock.get("wallclock_speedup"),
            self.clock.get("median_ms"),
        )

    def point(self, params: Params) -> OperatingPoint | None:
        """Return the operating point to predict with; None of the full model."""
        if not self.faster:
            return None
        assert self.offer.setting is not None
        goal = Goal("max_loss", self.offer.max_loss, params.goal.cost)
        return OperatingPoint(goal, self.offer.setting, True, self.offer.seen)

    def command(self, root: str) -> str:
        """Return the command that predicts with the model that stands in the results folder ``root``."""
        return " ".join(
            [
                f"adaptive-inference predict {root}/{self.model}",
                *(f"--own-code {item}" for item in self.own_code),
            ]
        )


def recommend(results: Results) -> list[Choice]:
    """Return what is recommended for each task and backbone: that of the seed whose full model did best in development."""
    several = len(results.params.backbones) > 1
    choices = []
    for one in results.each:
        task, backbone = one.pair
        folders = [task] * (several or len(results.params.tasks) > 1) + [backbone] * several
        choices.append(_choose(one, "/".join(["model", *folders])))
    return choices


def _choose(results: Results, model: str) -> Choice:
    task, backbone = results.pair
    choice = Choice(task, backbone, model, chance=against_chance(results))
    full = [cell for cell in results.cells if cell.method == "full"]
    if not full:
        return replace(choice, why="the full model has no record yet, so nothing can be held against it")
    cell = max(full, key=lambda cell: (_development_quality(results, cell), -cell.seed))
    serves_all = replace(cell, method="")
    for stage in ("recommend", "evaluate_recommended"):
        if why := why_unusable(stage, serves_all, results.runs, results.params):
            return replace(choice, cell=cell, why=why)
    chosen = results.runs.records["recommend", serves_all]
    measured = results.runs.records["evaluate_recommended", serves_all]
    assert isinstance(chosen, RecommendationRecord)
    assert isinstance(measured, RecommendedRecord)
    timings = results.runs.companion("evaluate_recommended", serves_all, "timings")
    clock = next(iter(timings.get("rows", ())), {})
    found = replace(
        choice,
        cell=cell,
        chosen=chosen,
        measured=measured,
        clock=clock,
        machine=machine_name(timings.get("environment", {})) if clock else "",
    )
    if found.faster:
        found = replace(found, cell=replace(cell, method=found.offer.method))
    assert found.cell is not None
    exits = tuple(results.training(found.cell).exits)
    return replace(found, exits=exits, own_code=_own_code(found, results.params))


def _development_quality(results: Results, cell: Cell) -> float:
    """Return the quality of a full model on the development rows, which chose its epoch."""
    training = results.training(cell)
    value = training.metrics.get(f"development{training.exits[-1]}_quality") if training.exits else None
    return float("-inf") if value is None or pd.isna(value) else float(value)


def _own_code(choice: Choice, params: Params) -> tuple[str, ...]:
    """Return the code of one's own by which the recommended model leaves and its encoder is driven."""
    named = [params.backbone(choice.backbone).adapter or ""]
    if choice.faster and choice.offer.setting and choice.offer.method:
        rules = params.method(choice.offer.method).rules
        named += [rule.partition("(")[0] for rule in rules if short_name(rule) == choice.offer.setting.rule]
    return tuple(dict.fromkeys(name for name in named if is_own(name)))
