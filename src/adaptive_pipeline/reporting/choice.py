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
from adaptive_pipeline.runs.deployment_records import (
    DeployedRow,
    DeploymentOffer,
    DeploymentRecord,
    Exported,
    ExportRecord,
)
from adaptive_pipeline.runs.records import (
    Offer,
    RecommendationRecord,
    RecommendedRecord,
)
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
class Deployment:
    """Which deployment is chosen, and what all give: the records of `export_model` and `choose_deployment`.

    Attributes
    ----------
    offer
        What is chosen.
    rows, clocks
        Of each model and deployment, what was measured and what the clock says, empty where nothing was promised.
    exported
        Of each export, what it loses at full depth, and why it is refused.
    candidates
        How many were chosen among.
    machine
        Where it was chosen.
    """

    offer: DeploymentOffer
    rows: tuple[DeployedRow, ...]
    clocks: tuple[Mapping[str, Any], ...]
    exported: tuple[Exported, ...]
    candidates: int
    machine: str

    @property
    def name(self) -> str:
        """One of `exits.deployment.DEPLOYMENTS`."""
        return self.offer.deployment

    @property
    def row(self) -> DeployedRow:
        """What was measured of the chosen one."""
        return next(row for row in self.rows if row.chosen)

    @property
    def clock(self) -> Mapping[str, Any]:
        """What the clock says of the chosen one."""
        return next(clock for row, clock in zip(self.rows, self.clocks, strict=True) if row.chosen)

    @property
    def held(self) -> bool:
        """Whether the evaluation split, too, shows no more loss than the goal allows; of a goal of points."""
        assert self.row.loss is not None
        return self.row.loss <= self.offer.limit + 100 * ROUNDING

    @property
    def refused(self) -> list[Exported]:
        """What was not exported, with the reason."""
        return [item for item in self.exported if item.why]


def deployment_of(results: Results, cell: Cell) -> Deployment | None:
    """Return what is known of the deployments of a task, backbone and seed; None where no record of them can be reported."""
    serves_all = replace(cell, method="")
    found = [results.runs.records.get((stage, serves_all)) for stage in ("export_model", "choose_deployment")]
    exported, chosen = found
    if (
        not isinstance(exported, ExportRecord)
        or not isinstance(chosen, DeploymentRecord)
        or chosen.offer is None
    ):
        return None
    if any(
        why_unusable(record.stage, serves_all, results.runs, results.params) for record in (exported, chosen)
    ):
        return None
    timings = results.runs.companion("choose_deployment", serves_all, "timings")
    clocks = {_row_key(row): row for row in timings.get("rows", ())}
    return Deployment(
        chosen.offer,
        tuple(chosen.rows),
        tuple(clocks.get(_row_key(dict(row)), {}) for row in chosen.rows),
        tuple(exported.models),
        chosen.candidates,
        machine_name(timings.get("environment", {})),
    )


def _row_key(row: Mapping[str, Any]) -> tuple[str, str, bool]:
    return row["method"], row["deployment"], row["adaptive"]


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
    deployment
        What it is to be run as; None where that was not chosen.
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
    deployment: Deployment | None = None

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

    @property
    def used(self) -> Cell:
        """The cell of the model that is handed out: that of the chosen deployment, or of what is recommended."""
        assert self.cell is not None
        return (
            self.cell if self.deployment is None else replace(self.cell, method=self.deployment.offer.method)
        )

    def point(self, params: Params) -> OperatingPoint | None:
        """Return the operating point to predict with; None of the full model."""
        offer = self.offer if self.deployment is None else self.deployment.offer
        if offer.setting is None or offer.method == "full":
            return None
        goal = Goal("max_loss", params.goal.max_loss, params.goal.cost)
        return OperatingPoint(goal, offer.setting, True, offer.seen)

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
        deployment=deployment_of(results, cell),
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
    graphs = choice.deployment is not None and choice.deployment.name != "torch"
    named = [] if graphs else [params.backbone(choice.backbone).adapter or ""]
    point = choice.point(params)
    if point is not None:
        rules = params.method(choice.used.method).rules
        named += [rule.partition("(")[0] for rule in rules if short_name(rule) == point.setting.rule]
    return tuple(dict.fromkeys(name for name in named if is_own(name)))
