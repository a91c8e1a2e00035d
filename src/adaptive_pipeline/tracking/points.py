"""What MLflow shows of a record: metric values, parameters and tags. Only forwards; nothing is chosen here."""

from __future__ import annotations

import math
import re
import subprocess
from typing import Any

from adaptive_inference.files import digest_json, read_jsonl
from adaptive_pipeline.runs.records import Record
from adaptive_pipeline.runs.store import Finished

#: One value of a metric at a step.
Point = tuple[str, int, float]
#: Plain figures of a timings file; its ``goals`` are metrics by name too.
CLOCK = ("seconds", "steps_per_second")


def run_tags(record: Record) -> dict[str, str]:
    """Return the tags by which runs are found and compared."""
    cell = record.cell
    tags = {"stage": record.stage, "task": cell.task, "backbone": cell.backbone, "method": cell.method}
    return tags | {"seed": str(cell.seed), "record_id": record.record_id, "git_commit": _git_commit()}


def given_tag(item: Finished, kept: bool | None = None) -> str:
    """Return the digest of what a finished run shows, so that newer figures of one record replace older ones.

    ``kept``: of the kept form, which shows less; default: whether it is.
    """
    kept = item.folder is None if kept is None else kept
    return digest_json([item.record.to_json(), item.companion("timings"), kept])[:16]


def flat_params(params: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters under dotted names, as text; empty ones are left out."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, dict):
            flat |= flat_params(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)[:6000]
    return flat


def step_points(entry: dict[str, Any]) -> list[Point]:
    """Return the metric values of one line of ``history.jsonl`` (its epoch follows from the step)."""
    return [
        point for name in entry if name != "epoch" for point in _point(name, int(entry["step"]), entry[name])
    ]


def all_points(item: Finished) -> list[Point]:
    """Return every metric value of what a stage left, in order and without repeats.

    Final metrics, and the clock's, keep their names in all methods; per-step ones come from ``history.jsonl``; the curves
    of a rule are ``RULE_quality``, ``RULE_layers_speedup`` and so on over the number of the threshold. MLflow refuses
    brackets and the like in a name, so the options of a rule are set apart by spaces: ``patience tolerance 0.1_quality``.
    """
    points: list[Point] = []
    history = item.folder / "history.jsonl" if item.folder else None
    if history and history.is_file():
        for entry in read_jsonl(history):
            points += step_points(entry)
    for key, curve in item.companion("curves").items():
        rule = re.sub(r"[^\w.\-]+", " ", key).strip()
        for name, values in curve.items():
            for step, value in enumerate(values):
                points += _point(f"{rule}_{name}", step, value)
    timings = item.companion("timings")
    clock = {name: timings[name] for name in CLOCK if name in timings} | timings.get("goals", {})
    for name, value in (item.record.metrics | clock).items():
        points += _point(name, 0, value)
    return list(dict.fromkeys(points))


def _point(name: str, step: int, value: Any) -> list[Point]:
    if (
        name == "step"
        or isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
    ):
        return []
    return [(name, step, float(value))]


def _git_commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"
