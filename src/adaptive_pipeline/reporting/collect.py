"""Read the records of a run, whole or partly there, into plain rows: one per operating point, exit and split.

A record that does not belong to the params (another method, an old seed, other hyper-parameters) is never mixed in:
its cell counts as missing, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adaptive_inference.files import read_json, read_jsonl
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.names import method_key, natural_key, rule_key, static_layers
from adaptive_pipeline.runs.records import Record
from adaptive_pipeline.runs.validity import Found, read_records, why_unusable


@dataclass(frozen=True)
class Point:
    """One operating point of one method and seed, as `evaluate_batch1` measured it.

    ``cell.method`` is the method whose model was run; ``method`` is the table's key (``static_K`` comes from the
    members of ``multi_model``). Qualities are fractions, speed-ups are full model / method.
    """

    cell: Cell
    method: str
    rule: str
    operating_point: str
    threshold: float | None
    metric: str
    quality: float | None
    quality_low: float | None
    quality_high: float | None
    layers_speedup: float | None
    flops_speedup: float | None
    exit_counts: Mapping[int, int]
    tiers: Mapping[str, Mapping[str, Any]]
    added_parameters: int | None
    qualifies: bool
    attainable: bool
    calibration_quality: float | None
    calibration_speedup: float | None  #: in layers, on the calibration split
    wallclock: Mapping[str, Any]  #: keys wallclock_speedup, wallclock_low, ...; empty where not timed
    training_seconds: float | None
    machine: str  #: of the wall-clock figures; empty where not timed

    @property
    def measured(self) -> bool:
        """Whether there are figures: a goal that no threshold reaches gives a point without any."""
        return self.layers_speedup is not None


@dataclass(frozen=True)
class Missing:
    """One cell without a usable evaluation."""

    cell: Cell
    why: str


@dataclass(frozen=True)
class CellFiles:
    """What one evaluated (task, backbone, seed, method) holds besides its points."""

    cell: Cell
    evaluation: Record
    calibration: Record
    curves: Mapping[str, Mapping[str, list[float]]]
    predictions: Mapping[str, Any]  #: empty in records older than the file
    training: Record
    training_timings: Mapping[str, Any]
    weights: Sequence[Mapping[str, Any]]  #: of the losses over training; empty where none are learned


@dataclass
class Results:
    """All that the reports are made of, in table order whatever the order of the files."""

    params: Params
    points: list[Point] = field(default_factory=list)
    cells: list[CellFiles] = field(default_factory=list)
    data: list[Record] = field(default_factory=list)
    trained: list[Record] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)

    def point_key(self, point: Point) -> tuple[Any, ...]:
        """Sort key of a row: task and backbone as in the params, then method, rule, operating point, seed."""
        return (
            *self.cell_key(point.cell)[:2],
            method_key(point.method),
            rule_key(point.rule),
            natural_key(point.operating_point),
            point.cell.seed,
        )

    def cell_key(self, cell: Cell) -> tuple[Any, ...]:
        """Sort key of a cell."""
        tasks, backbones = list(self.params.tasks), list(self.params.backbones)
        return tasks.index(cell.task), backbones.index(cell.backbone), method_key(cell.method), cell.seed

    def pairs(self) -> list[tuple[str, str]]:
        """Return the (task, backbone) pairs that have at least one evaluated cell, in order."""
        return list(dict.fromkeys((point.cell.task, point.cell.backbone) for point in self.points))


def collect(root: Path, params: Params) -> Results:
    """Read every record below ``root`` (a ``runs`` folder, or kept records of the same layout).

    Parameters
    ----------
    root : Path
        Searched for ``metrics.json``; curves stand beside it, timings in the folder above.
    params : Params
        The grid that should be there; what is not, is named in ``Results.missing``.

    Raises
    ------
    UserError
        A file is damaged or of another shape.
    """
    results = Results(params)
    found = read_records(root)
    machines: set[str] = set()
    for cell in _grid(params):
        why = why_unusable("evaluate_batch1", cell, found, params)
        if why:
            results.missing.append(Missing(cell, why))
            continue
        files, points = _read_cell(cell, found)
        results.cells.append(files)
        results.points += points
        machines |= {point.machine for point in points if point.machine}
    used = {(cell.cell.task, cell.cell.backbone, cell.cell.seed) for cell in results.cells}
    for (stage, cell), (record, _) in found.items():
        if (cell.task, cell.backbone, cell.seed) in used:
            if stage == "prepare_data":
                results.data.append(record)
            elif stage == "train" and cell.method in params.methods:
                results.trained.append(record)
    results.data.sort(key=lambda record: results.cell_key(record.cell))
    results.trained.sort(key=lambda record: results.cell_key(record.cell))
    results.cells.sort(key=lambda files: results.cell_key(files.cell))
    results.points.sort(key=results.point_key)
    results.machines = sorted(machines)
    return results


def _grid(params: Params) -> Iterator[Cell]:
    for task in params.tasks:
        for backbone in params.backbones:
            for seed in params.seeds:
                for method in sorted(params.methods, key=method_key):
                    yield Cell(task, backbone, seed, method)


def _read_cell(cell: Cell, found: Found) -> tuple[CellFiles, list[Point]]:
    record, folder = found["evaluate_batch1", cell]
    timings = _optional(folder.parent / "timings.json")
    timed = {
        (row["method"], row["rule"], row["operating_point"]): row
        for row in timings.get("rows") or []
        if row.get("wallclock_speedup") is not None
    }
    machine = machine_name(timings.get("environment") or {})
    training, training_folder = found["train", cell]
    seconds = _optional(training_folder.parent / "train_timings.json")
    full = _optional(found["train", replace(cell, method="full")][1].parent / "train_timings.json")
    points = []
    for row in record.details.get("rows") or []:
        key = (row["method"], row["rule"], row["operating_point"])
        wallclock = timed.get(key, {})
        points.append(
            Point(
                cell=cell,
                method=row["method"],
                rule=row["rule"],
                operating_point=row["operating_point"],
                threshold=row.get("threshold"),
                metric=row["metric"],
                quality=row.get("quality"),
                quality_low=row.get("quality_low"),
                quality_high=row.get("quality_high"),
                layers_speedup=row.get("layers_speedup"),
                flops_speedup=row.get("flops_speedup"),
                exit_counts={
                    int(k): int(n) for k, n in sorted((row.get("exit_counts") or {}).items(), key=_by_number)
                },
                tiers=row.get("tiers") or {},
                added_parameters=row.get("added_parameters"),
                qualifies=bool(row.get("qualifies", True)),
                attainable=bool(row.get("attainable", True)),
                calibration_quality=row.get("calibration_quality"),
                calibration_speedup=row.get("calibration_layers_speedup"),
                wallclock=wallclock,
                training_seconds=_training_seconds(row["method"], training, seconds, full),
                machine=machine if wallclock else "",
            )
        )
    calibration = found["calibrate_thresholds", cell][0]
    files = (_optional(folder / name) for name in ("curves.json", "predictions.json"))
    trajectory = training_folder / "weights.jsonl"
    weights = read_jsonl(trajectory) if trajectory.is_file() else []
    return CellFiles(cell, record, calibration, *files, training, seconds, weights), points


def has_copy_of_full(training: Record) -> bool:
    """Whether a member of a family of models is a copy of the full model."""
    return any(isinstance(item, dict) and item.get("copied_from_full") for item in training.details.values())


def _training_seconds(
    method: str, training: Record, timings: Mapping[str, Any], full: Mapping[str, Any]
) -> float | None:
    """Return a training's seconds; a member that is the full model's copy took the full model's."""
    layers, members = static_layers(method), timings.get("members") or {}
    copied = full.get("seconds") if has_copy_of_full(training) else 0.0
    if method == training.cell.method:
        return None if copied is None or "seconds" not in timings else timings["seconds"] + copied
    return members.get(str(layers), copied or None)  # the whole family's time is not one member's


def _by_number(item: tuple[str, Any]) -> int:
    return int(item[0])


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def machine_name(environment: Mapping[str, Any]) -> str:
    """Return one line that names processor, device, threads and versions of an environment block."""
    versions = environment.get("versions") or {}
    parts = [environment.get("cpu") or environment.get("system")]
    for key, unit in (("cores", "core"), ("threads", "thread")):
        count = environment.get(key)
        if count:
            parts.append(f"{count} {unit}{'' if count == 1 else 's'}")
    if environment.get("device") not in (None, "", "cpu"):
        parts.append(f"{environment['device']} ({environment.get('driver')})")
    parts += [
        f"{name} {versions[name]}" for name in ("torch", "transformers", "python") if versions.get(name)
    ]
    return ", ".join(str(part) for part in parts if part)
