"""From the records of a run, whole or partly there, to pandas: one row per operating point and seed.

A record that does not belong to the params (another method, an old seed, other hyper-parameters) is never mixed in:
its cell counts as missing, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from adaptive_inference.calibration.operating_point import Cost, static_layers
from adaptive_inference.evaluation.explained import Measured
from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.measures import KEY, main_frame
from adaptive_pipeline.reporting.names import method_key, rule_key
from adaptive_pipeline.runs.checksums import refuse_damaged
from adaptive_pipeline.runs.records import (
    CalibrationRecord,
    DataRecord,
    EvaluationRecord,
    ExplanationRecord,
    PointRow,
    TrainingRecord,
)
from adaptive_pipeline.runs.store import Runs, open_runs
from adaptive_pipeline.runs.validity import asked_for, why_unusable

#: Task and backbone: one table, one choice, one set of figures each.
PAIR = ["task", "backbone"]
#: What calibration saw, and what the clock gives, of a point.
SEEN = ("quality", "layers_speedup", "flops_speedup")
TIMED = (
    "wallclock_speedup", "wallclock_low", "wallclock_high", "median_ms", "full_median_ms", "wallclock_speedup_batch16"
)  # fmt: skip
#: Columns of `Results.points`: every field of a record's row is one.
POINTS = [
    *KEY, "seed", "cell", "goal", "threshold", "qualifies", *(name for name in PointRow.model_fields if name != "method"),
    *(f"calibration_{name}" for name in SEEN), *TIMED, "training_seconds", "machine",
    "measured", "timed",
]  # fmt: skip


@dataclass(frozen=True)
class Missing:
    """One cell without a usable evaluation."""

    cell: Cell
    why: str


@dataclass(frozen=True)
class Results:
    """All that the reports are made of, in table order whatever the order of the files.

    Attributes
    ----------
    cells
        That were evaluated.
    points
        One row per method, rule, operating point and seed; columns `POINTS` and the differences from the full model of
        the same seed. ``cell.method`` is the method whose model was run; ``method`` is the table's key (``static_K``
        comes from a member of a cascade). Qualities are fractions, speed-ups are full model / method, NaN is "not measured".
    """

    params: Params
    runs: Runs
    cells: list[Cell]
    missing: list[Missing]
    points: pd.DataFrame

    @property
    def cost(self) -> Cost:
        """The currency in which the goals are meant."""
        return self.params.goal.cost

    @cached_property
    def main(self) -> pd.DataFrame:
        """The main table, see `main_frame`."""
        return main_frame(self.points)

    @cached_property
    def each(self) -> list[Results]:
        """The same for each task and backbone alone that has an evaluated cell, in order."""
        found = []
        for pair, points in self.points.groupby(PAIR, sort=False):
            cells = [cell for cell in self.cells if (cell.task, cell.backbone) == pair]
            found.append(replace(self, cells=cells, points=points))
        return found

    @property
    def pair(self) -> tuple[str, str]:
        """Of one of `each`: task and backbone."""
        return self.cells[0].task, self.cells[0].backbone

    @property
    def title(self) -> str:
        """Of one of `each`: what tables and figures are headed with."""
        return ", ".join(self.pair)

    @property
    def metric(self) -> str:
        """Of one of `each`: what quality is measured in, as readers are told."""
        return metric_name(self.points.metric.iloc[0])

    @cached_property
    def machines(self) -> list[str]:
        """Where wall-clock was measured."""
        return sorted({*self.points.machine} - {""})

    @cached_property
    def data(self) -> list[DataRecord]:
        """The data stage's records that evaluated cells stand on, in table order."""
        cells = dict.fromkeys(replace(cell, method="") for cell in self.cells)
        found = [self.runs.records["prepare_data", cell] for cell in cells]
        return sorted(found, key=lambda record: _cell_key(self.params, record.cell))  # type: ignore[return-value]

    def of_row(self, row: Any) -> pd.DataFrame:
        """Return the points with figures that a row of the main table is the mean of."""
        same = (self.points[KEY] == [getattr(row, name) for name in KEY]).all(axis=1)
        return self.points[same & self.points.measured]

    def training(self, cell: Cell) -> TrainingRecord:
        """Return the record of a cell's training."""
        return self.runs.records["train", cell]  # type: ignore[return-value]

    def calibration(self, cell: Cell) -> CalibrationRecord:
        """Return the record of a cell's calibration."""
        return self.runs.records["calibrate_thresholds", cell]  # type: ignore[return-value]

    def evaluation(self, cell: Cell) -> EvaluationRecord:
        """Return the record of a cell's evaluation."""
        return self.runs.records["evaluate_batch1", cell]  # type: ignore[return-value]

    def explained(self, cell: Cell) -> list[Measured]:
        """Return what is known of how a cell's model is explained; nothing where that was not asked or does not hold."""
        record = self.runs.records.get(("score_rationales", cell))
        if not isinstance(record, ExplanationRecord) or not asked_for("score_rationales", cell, self.params):
            return []
        return [] if why_unusable("score_rationales", cell, self.runs, self.params) else record.explained

    def curves(self, cell: Cell) -> Mapping[str, Mapping[str, list[float]]]:
        """Return, per rule, thresholds, quality and speed-ups at each of them."""
        return self.runs.companion("evaluate_batch1", cell, "curves")


def collect(root: Path, params: Params) -> Results:
    """Read all records below ``root`` (a ``runs`` folder, or kept records).

    Parameters
    ----------
    params
        The grid that should be there; what is not, is named in ``Results.missing``.

    Raises
    ------
    UserError
        A file is damaged or of another shape.
    """
    runs, cells, missing, rows = open_runs(root), [], [], []
    for item in runs.finished.values():
        for file in item.files:
            refuse_damaged(file)
    grid = replace(params.grid, methods=tuple(sorted(params.methods, key=method_key)))
    for cell in grid.cells():
        why = why_unusable("evaluate_batch1", cell, runs, params)
        if why:
            missing.append(Missing(cell, why))
        else:
            cells.append(cell)
            rows += _points(cell, runs)
    cells.sort(key=lambda cell: _cell_key(params, cell))
    rows.sort(key=lambda row: _row_key(params, row))
    return Results(params, runs, cells, missing, _against_full(pd.DataFrame(rows, columns=POINTS)))


def _cell_key(params: Params, cell: Cell) -> tuple[Any, ...]:
    pair = list(params.tasks).index(cell.task), list(params.backbones).index(cell.backbone)
    return *pair, method_key(cell.method), cell.seed


def _row_key(params: Params, row: Mapping[str, Any]) -> tuple[Any, ...]:
    task, backbone, _, seed = _cell_key(params, row["cell"])
    return task, backbone, method_key(row["method"]), rule_key(row["rule"]), row["goal"].order, seed


def _points(cell: Cell, runs: Runs) -> Iterator[dict[str, Any]]:
    record, training = runs.records["evaluate_batch1", cell], runs.records["train", cell]
    assert isinstance(record, EvaluationRecord)
    assert isinstance(training, TrainingRecord)
    timings = runs.companion("evaluate_batch1", cell, "timings")
    timed = {point_key(row): row for row in timings.get("rows", ()) if row["wallclock_speedup"] is not None}
    machine = machine_name(timings.get("environment", {}))
    for row in record.rows:
        point, goal, setting = row.point, row.point.goal, row.point.setting
        clock = timed.get((row.method, setting.rule, goal.name), {})
        member = None if setting.member is None else training.exits.index(setting.member)
        body = dict(row) | {
            "task": cell.task,
            "backbone": cell.backbone,
            "rule": setting.rule,
            "operating_point": goal.name,
            "seed": cell.seed,
            "cell": cell,
            "goal": goal,
            "threshold": setting.threshold if member is None else float(member),  # a member's place: as ever
            "qualifies": point.qualifies,
            "training_seconds": _training_seconds(row.method, training, cell, runs),
            "machine": machine if clock else "",
            "measured": row.layers_speedup is not None,
            "timed": bool(clock),
        }
        body |= {f"calibration_{name}": getattr(point.seen, name, None) for name in SEEN}
        body |= {name: clock.get(name) for name in TIMED}
        body |= {"exit_counts": row.exit_counts or {}, "tiers": row.tiers or {}}
        yield {name: math.nan if value is None else value for name, value in body.items()}


def point_key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what names a point in the files beside a record: method, rule, operating point."""
    return row["method"], row["rule"], row["operating_point"]


def _training_seconds(method: str, training: TrainingRecord, cell: Cell, runs: Runs) -> float | None:
    """Return a training's seconds; a member that is the full model's copy took the full model's."""
    timings, full = (runs.companion("train", c, "timings") for c in (cell, replace(cell, method="full")))
    copied = full.get("seconds") if training.has_copy_of_full else 0.0
    if method == cell.method:
        return None if copied is None or "seconds" not in timings else timings["seconds"] + copied
    members = timings.get("members", {})  # the whole family's time is not one member's
    return members.get(str(static_layers(method)), copied or None)


def _against_full(points: pd.DataFrame) -> pd.DataFrame:
    """Add the differences from the full model of the same seed, and whether there is one."""
    same = [*PAIR, "seed"]
    full = points[points.method == "full"].drop_duplicates(same)[[*same, "quality"]]
    points = points.merge(full, how="left", on=same, suffixes=("", "_full"), indicator="full")
    return points.assign(
        quality_difference=points.quality - points.quality_full,
        with_full=points.measured & (points.full == "both"),
    )


def machine_name(environment: Mapping[str, Any]) -> str:
    """Return one line that names processor, device, threads and versions of an environment block."""
    parts = [environment.get("cpu") or environment.get("system")]
    for key, unit in (("cores", "core"), ("threads", "thread")):
        count = environment.get(key)
        if count:
            parts.append(f"{count} {unit}{'' if count == 1 else 's'}")
    if environment.get("device") not in (None, "", "cpu"):
        parts.append(f"{environment['device']} ({environment.get('driver')})")
    versions = environment.get("versions") or {}
    parts += [
        f"{name} {versions[name]}" for name in ("torch", "transformers", "python") if versions.get(name)
    ]
    return ", ".join(str(part) for part in parts if part)
