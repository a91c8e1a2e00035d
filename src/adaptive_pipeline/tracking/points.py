"""What MLflow shows of what a stage left: metric values, and one operating point that stands for a method."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from adaptive_inference.files import digest_json, read_jsonl
from adaptive_pipeline.runs.records import EvaluationRecord, PointRow, TrainingRecord
from adaptive_pipeline.runs.store import Finished
from adaptive_pipeline.runs.text_records import Decoding, DecodingEvaluationRecord, TextTrainingRecord

#: One value of a metric at a step.
Point = tuple[str, int, float]
#: Plain figures of a timings file; its ``goals`` are metrics by name too.
CLOCK = ("seconds", "steps_per_second")
SPEEDS = ("layers_speedup", "flops_speedup", "wallclock_speedup")
#: Of this form of runs: a store that an older one filled is filled anew.
FORM = 2


def given_tag(item: Finished, kept: bool | None = None) -> str:
    """Return the digest of what a finished run shows, so that newer figures of one record replace older ones.

    ``kept``: of the kept form, which shows less; default: whether it is.
    """
    kept = item.folder is None if kept is None else kept
    return digest_json([FORM, item.record.to_json(), item.companion("timings"), kept])[:16]


def step_points(entry: dict[str, Any]) -> list[Point]:
    """Return the metric values of one line of ``history.jsonl`` (its epoch follows from the step)."""
    return [
        point for name in entry if name != "epoch" for point in _point(name, int(entry["step"]), entry[name])
    ]


def all_points(item: Finished) -> list[Point]:
    """Return every metric value of what a stage left, in order and without repeats.

    Per-step values come from ``history.jsonl``. What a training ends with, the clock's figures too, stands under ``final/``:
    it may have the name of a per-step one, and would be a point of that curve at step 0. Figures of other stages keep their
    names in all methods; an evaluation has those of `shown_point`.
    """
    points: list[Point] = []
    history = item.folder / "history.jsonl" if item.folder else None
    if history and history.is_file():
        for entry in read_jsonl(history):
            points += step_points(entry)
    timings = item.companion("timings")
    clock = {name: timings[name] for name in CLOCK if name in timings} | timings.get("goals", {})
    prefix = "final/" if isinstance(item.record, TrainingRecord | TextTrainingRecord) else ""
    for name, value in (item.record.metrics | clock | _headline(item)).items():
        points += _point(f"{prefix}{name}", 0, value)
    return list(dict.fromkeys(points))


@dataclass(frozen=True)
class Shown:
    """The operating point whose figures stand for a method.

    Attributes
    ----------
    name
        Of its goal; ``all_layers``: the method's last exit answers every row.
    within_goal
        Whether it keeps the quality that the params ask for, on the calibration split.
    figures
        On the evaluation split.
    """

    name: str
    within_goal: bool
    rule: str | None
    threshold: float | None
    figures: dict[str, float | None]

    @property
    def params(self) -> dict[str, str]:
        """How it answers, as parameters of a run; nothing where no rule decides."""
        if self.rule is None or self.threshold is None:
            return {}
        return {"rule": self.rule, "threshold": f"{self.threshold:.6g}"}


def shown_point(item: Finished) -> Shown | None:
    """Return the operating point by which an evaluation is shown, so that no method is missing where runs are compared.

    The one that calibration recommends. Where no threshold keeps the quality: of the points that reach another goal the one
    that lost least on the calibration split; where there is none, the last exit. None of a record of another stage, or one
    that measured nothing. Of decoding the threshold that stands for the method, which is 1 where no other keeps the quality.
    """
    record = item.record
    if isinstance(record, DecodingEvaluationRecord):
        return _shown_decoding(record, item)
    if not isinstance(record, EvaluationRecord):
        return None
    own = [row for row in record.rows if row.point.seen and row.attainable]
    row = next((row for row in own if row.point == record.recommended), None)
    within = row is not None
    row = row or max((row for row in own if row.method == record.cell.method), key=_least_loss, default=None)
    if row is None:
        last = max(record.exits, key=lambda item: item.layer, default=None)
        figures = {name: getattr(last, name, None) for name in SPEEDS}
        return last and Shown("all_layers", False, None, None, {"quality": last.quality} | figures)
    setting = row.point.setting
    key = (row.method, setting.rule, row.point.goal.name)
    timed = {
        (clock["method"], clock["rule"], clock["operating_point"]): clock["wallclock_speedup"]
        for clock in item.companion("timings").get("rows", [])
    }
    figures = {name: getattr(row, name, None) for name in ("quality", *SPEEDS)}
    figures |= {"wallclock_speedup": timed.get(key)}
    return Shown(row.point.goal.name, within, setting.rule, setting.threshold, figures)


def _shown_decoding(record: DecodingEvaluationRecord, item: Finished) -> Shown | None:
    row = record.shown
    if row is None:
        return None
    choice, decoded = row.choice, row.decoded
    timed = [
        clock["speedup"]
        for clock in item.companion("timings").get("rows", [])
        if clock["mode"] == "free" and clock["threshold"] == choice.threshold
    ]
    figures = {name: getattr(decoded, name) for name in ("quality", "agreement", "blocks", "flops_speedup")}
    figures |= {
        "layers_speedup": record.blocks / decoded.blocks,
        "wallclock_speedup": next(iter(timed), None),
    }
    return Shown(choice.goal, choice.reached, record.policy, choice.threshold, figures)


def curves_table(item: Finished) -> str:
    """Return the curves of all rules as a CSV table, a line per threshold; empty where there are none.

    Of decoding every threshold that was run.
    """
    if isinstance(item.record, Decoding):
        return _grid_table(item.record)
    curves = item.companion("curves")
    columns = list(dict.fromkeys(name for curve in curves.values() for name in curve if name != "thresholds"))
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["rule", "threshold", *columns])
    for rule, curve in curves.items():
        writer.writerows(
            zip(repeat(rule), curve["thresholds"], *(curve[name] for name in columns), strict=False)
        )
    return lines.getvalue() if curves else ""


def _grid_table(record: Decoding) -> str:
    rows = [one.model_dump(exclude={"kinds"}) for one in record.grid if one.threshold is not None]
    lines = io.StringIO()
    writer = csv.DictWriter(lines, ["policy", *(rows[0] if rows else ())], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"policy": record.policy} | row for row in rows)
    return lines.getvalue() if rows else ""


def _headline(item: Finished) -> dict[str, float | None]:
    shown = shown_point(item)
    return shown.figures | {"goal_met": float(shown.within_goal)} if shown else {}


def _least_loss(row: PointRow) -> tuple[float, float]:
    seen = row.point.seen
    return (seen.quality, seen.layers_speedup) if seen else (-math.inf, 0.0)


def _point(name: str, step: int, value: Any) -> list[Point]:
    if (
        name == "step"
        or isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
    ):
        return []
    return [(name, step, float(value))]
