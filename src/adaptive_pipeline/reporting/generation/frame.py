"""From the records of decoding to pandas: one row per chosen threshold and seed, and their means over seeds.

As for classifiers (`reporting.frame`), a record that does not belong to the params is never mixed in: its cell is missing,
with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import pandas as pd
from pydantic import ValidationError

from adaptive_inference.errors import UserError
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.frame import Missing, machine_name
from adaptive_pipeline.reporting.generation.areas import quality_areas
from adaptive_pipeline.reporting.measures import highest, joined, lowest, mean, std
from adaptive_pipeline.reporting.names import difficulty_key, method_key, text_metric_name
from adaptive_pipeline.runs.record import Part
from adaptive_pipeline.runs.store import Runs
from adaptive_pipeline.runs.text_records import (
    SHOWN_FIRST,
    ChosenRow,
    ChosenThreshold,
    Confidences,
    Decoded,
    DecodingCalibrationRecord,
    DecodingEvaluationRecord,
    TimedRow,
)
from adaptive_pipeline.runs.validity import why_unusable

PAIR = ["task", "model"]
KEY = [*PAIR, "method", "goal"]
STAGE = "evaluate_decoding"
MODES = ("free", "fixed")
#: Figures of a decoded threshold that have a column of their own; `rows` are called prompts there.
DECODED = (
    "quality", "quality_low", "quality_high", "agreement", "same_texts", "blocks", "paper_blocks", "block_calls",
    "calls_speedup", "shallow_share", "flops", "flops_speedup", "loss",
)  # fmt: skip
#: Of a timed row, per mode.
TIMED = (
    "requests", "repeats", "seconds", "full_seconds", "tokens_per_second", "full_tokens_per_second", "tokens_speedup",
    "speedup", "speedup_low", "speedup_high",
)  # fmt: skip
SHARED = ("training", "policy", "exit_layer", "decoder_blocks", "metric")
#: Columns of `TextResults.points`.
POINTS = [
    *KEY, "seed", "cell", *SHARED, "goal_value", "threshold", "reached", "met", "prompts", *DECODED, "own_full_quality",
    "quality_share", "full_quality", "share_of_full", "area", *(f"{mode}_{name}" for mode in MODES for name in TIMED),
    "machine",
]  # fmt: skip
#: Columns of `TextResults.grid`.
GRID = [
    *PAIR, "method", "seed", "split", *SHARED, "threshold", "prompts", "tokens", *DECODED, "own_full_quality",
    "quality_share",
]  # fmt: skip
#: Columns of `TextResults.kinds`; ``goal`` is empty for what is of the grid.
KINDS = [
    *PAIR,
    "method",
    "seed",
    "goal",
    "threshold",
    "all_agreement",
    "kind",
    "tokens",
    "blocks",
    "agreement",
]


@dataclass(frozen=True)
class TextResults:
    """All that the reports on decoding are made of, in table order.

    Attributes
    ----------
    cells
        That were evaluated.
    points
        One row per method, goal and seed, on the reported split; columns `POINTS`. Two qualities are those of all blocks:
        ``own_full_quality`` of the same weights on the same rows, ``full_quality`` of the method `full` on its own.
    grid
        One row per threshold, seed and split, columns `GRID`: every one was really run.
    kinds
        Tokens of known difficulty, one row per kind; columns `KINDS`.
    """

    params: Params
    runs: Runs
    cells: list[Cell]
    missing: list[Missing]
    points: pd.DataFrame
    grid: pd.DataFrame
    kinds: pd.DataFrame

    @cached_property
    def main(self) -> pd.DataFrame:
        """One row per method and goal, means over seeds: see `MEASURES`."""
        return main_frame(self.points)

    @cached_property
    def each(self) -> list[TextResults]:
        """The same for each task and model alone that has an evaluated cell, in order."""
        pairs = dict.fromkeys((cell.task, cell.backbone) for cell in self.cells)
        return [self._of(*pair) for pair in pairs]

    def _of(self, task: str, model: str) -> TextResults:
        frames = {name: getattr(self, name) for name in ("points", "grid", "kinds")}
        own = {name: frame[(frame.task == task) & (frame.model == model)] for name, frame in frames.items()}
        cells = [cell for cell in self.cells if (cell.task, cell.backbone) == (task, model)]
        return replace(self, cells=cells, **own)

    @cached_property
    def shown_kinds(self) -> pd.DataFrame:
        """Tokens of known difficulty at the threshold that stands for each method, seeds pooled: means over tokens.

        Columns ``task``, ``model``, ``method``, ``goal``, ``kind``, ``tokens``, ``blocks``, ``agreement``.
        """
        keys, rows = [*KEY, "kind"], []
        chosen = self.kinds[self.kinds.goal != ""]
        for _, every in chosen.groupby([*PAIR, "method"], sort=False):
            shown = min(every.goal, key=SHOWN_FIRST.index)
            for key, own in every[every.goal == shown].groupby(keys, sort=False):
                means = {
                    name: (own[name] * own.tokens).sum() / own.tokens.sum()
                    for name in ("blocks", "agreement")
                }
                rows.append(dict(zip(keys, key, strict=True)) | {"tokens": int(own.tokens.sum())} | means)
        return pd.DataFrame(rows, columns=[*keys, "tokens", "blocks", "agreement"])

    @property
    def pair(self) -> tuple[str, str]:
        """Of one of `each`: task and model."""
        return self.cells[0].task, self.cells[0].backbone

    @property
    def title(self) -> str:
        """Of one of `each`: what tables and figures are headed with."""
        return ", ".join(self.pair)

    @property
    def metric(self) -> str:
        """Of one of `each`: what quality is measured in."""
        return text_metric_name(self.evaluation(self.cells[0]).metric)

    @property
    def methods(self) -> list[str]:
        """Of one of `each`: the methods that were evaluated, in table order."""
        return list(dict.fromkeys(cell.method for cell in self.cells))

    def evaluation(self, cell: Cell) -> DecodingEvaluationRecord:
        """Return the record of a cell's evaluation."""
        return self.runs.records[STAGE, cell]  # type: ignore[return-value]

    def confidences(self, cell: Cell) -> Confidences | None:
        """Return what was counted of a cell's confidences; None where nothing was."""
        body = self.runs.companion(STAGE, cell, "confidences")
        return _read(Confidences, body, cell) if body else None


def collect_texts(runs: Runs, params: Params) -> TextResults:
    """Read what the params ask for of the second grid from records that were opened.

    Raises
    ------
    UserError
        A file beside a record is of another shape.
    """
    cells, missing, points, grid, kinds = [], [], [], [], []
    for cell in sorted(params.text_grid.cells(), key=lambda cell: _cell_key(params, cell)):
        if why := why_unusable(STAGE, cell, runs, params):
            missing.append(Missing(cell, why))
            continue
        cells.append(cell)
        record, calibration = runs.records[STAGE, cell], runs.records["calibrate_decoding", cell]
        assert isinstance(record, DecodingEvaluationRecord)
        assert isinstance(calibration, DecodingCalibrationRecord)
        points += _points(cell, record, runs)
        grid += [*_grid(cell, calibration, "calibration"), *_grid(cell, record, "evaluation")]
        kinds += _kinds(cell, record)
    frames = {"points": (points, POINTS), "grid": (grid, GRID), "kinds": (kinds, KINDS)}
    made = {name: pd.DataFrame(rows, columns=columns) for name, (rows, columns) in frames.items()}
    areas = quality_areas(made["grid"])
    keys = made["points"][["task", "model", "seed", "method"]].itertuples(index=False, name=None)
    made["points"]["area"] = [areas.get(key, math.nan) for key in keys]
    return TextResults(
        params, runs, cells, missing, _against_full(made["points"]), made["grid"], made["kinds"]
    )


def _cell_key(params: Params, cell: Cell) -> tuple[Any, ...]:
    pair = list(params.generation.tasks).index(cell.task), list(params.generation.models).index(cell.backbone)
    return *pair, method_key(cell.method), cell.seed


# ---- rows ------------------------------------------------------------------------------------------------------------


def _points(cell: Cell, record: DecodingEvaluationRecord, runs: Runs) -> Iterator[dict[str, Any]]:
    timings = runs.companion(STAGE, cell, "timings")
    timed = [_read(TimedRow, row, cell) for row in timings.get("rows", ())]
    for row in sorted(record.chosen, key=lambda row: SHOWN_FIRST.index(row.choice.goal)):
        choice = row.choice
        clock = {mode: _clock(timed, choice, mode) for mode in MODES}
        body = _shared(cell, record) | _decoded(row.decoded, row.full) | {
            "goal": choice.goal,
            "cell": cell,
            "goal_value": choice.value,
            "threshold": choice.threshold,
            "reached": choice.reached,
            "met": met(row),
            "machine": machine_name(timings.get("environment", {})) if any(clock.values()) else "",
        }  # fmt: skip
        for mode, seen in clock.items():
            body |= {f"{mode}_{name}": value for name, value in seen.items()}
        yield _filled(body)


def met(row: ChosenRow) -> bool | None:
    """Return whether the reported split, too, shows what was asked for; None where it does not tell."""
    choice, decoded, full = row.choice, row.decoded, row.full
    if choice.value is None:
        return None
    if choice.goal == "min_quality":
        return decoded.quality >= choice.value * full.quality
    return None if decoded.loss is None else decoded.loss <= choice.value


def _clock(timed: list[TimedRow], choice: ChosenThreshold, mode: str) -> Mapping[str, Any]:
    """Return the figures of a threshold on the clock: its goal's own, or those of another goal that chose the same one."""
    same = [row for row in timed if row.mode == mode and row.threshold == choice.threshold]
    row = min(same, key=lambda row: row.goal != choice.goal, default=None)
    if row is None:
        return {}
    speed = {"tokens_speedup": row.tokens_per_second / row.full_tokens_per_second}
    return {name: value for name, value in (row.model_dump() | speed).items() if name in TIMED}


def _grid(
    cell: Cell, record: DecodingCalibrationRecord | DecodingEvaluationRecord, split: str
) -> Iterator[dict[str, Any]]:
    for one in record.grid:
        shown = {"split": split, "threshold": one.threshold, "tokens": one.tokens}
        yield _filled(_shared(cell, record) | _decoded(one, record.full) | shown)


def _kinds(cell: Cell, record: DecodingEvaluationRecord) -> Iterator[dict[str, Any]]:
    chosen = [(row.choice.goal, row.decoded) for row in record.chosen]
    for goal, one in [*chosen, *(("", one) for one in record.grid)]:
        for kind, tokens in sorted(one.kinds.items(), key=lambda item: difficulty_key(item[0])):
            yield _filled(
                _shared(cell, record)
                | {"goal": goal, "threshold": one.threshold, "all_agreement": one.agreement, "kind": kind}
                | tokens.model_dump()
            )


def _shared(cell: Cell, record: DecodingCalibrationRecord | DecodingEvaluationRecord) -> dict[str, Any]:
    return {
        "task": cell.task,
        "model": cell.backbone,
        "method": cell.method,
        "seed": cell.seed,
        "training": record.training,
        "policy": record.policy,
        "exit_layer": record.exit_layer,
        "decoder_blocks": record.blocks,
        "metric": record.metric,
    }


def _decoded(one: Decoded, full: Decoded | None) -> dict[str, Any]:
    """Return the figures of a threshold, beside all blocks of the same weights on the same rows."""
    own = full.quality if full else math.nan
    return {name: getattr(one, name) for name in DECODED} | {
        "prompts": one.rows,
        "own_full_quality": own,
        "quality_share": one.quality / own if own else math.nan,
    }


def _filled(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None and name != "met" else value for name, value in body.items()}


def _against_full(points: pd.DataFrame) -> pd.DataFrame:
    """Add the quality of the method `full` of the same seed, which was trained for nothing but its last block."""
    same = [*PAIR, "seed"]
    full = points[points.method == "full"].drop_duplicates(same)[[*same, "quality"]]
    merged = points.drop(columns="full_quality").merge(full, how="left", on=same, suffixes=("", "_f"))
    merged = merged.rename(columns={"quality_f": "full_quality"})
    known = merged.full_quality.where(merged.full_quality > 0)
    return merged.assign(share_of_full=merged.quality / known)[POINTS]


Shape = TypeVar("Shape", bound=Part)


def _read(shape: type[Shape], body: Mapping[str, Any], cell: Cell) -> Shape:
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"a file beside the evaluation of {cell.name} is of another shape "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']}); run {STAGE} again"
        ) from error


# ---- over seeds ------------------------------------------------------------------------------------------------------


def _first(values: pd.Series) -> Any:
    return values.iloc[0]


def _known_mean(values: pd.Series) -> float:
    """Return the mean over the seeds that have a value."""
    return mean(values.dropna())


def _out_of(values: pd.Series) -> str:
    """Return e.g. ``1/2``: how many of those that are known are true; empty where none is."""
    known = [bool(value) for value in values if value is not None]
    return f"{sum(known)}/{len(known)}" if known else ""


#: Column of the main table -> column of the points, and the average over seeds. Never renamed or moved: later ones go last.
MEASURES: dict[str, tuple[str, Callable[[pd.Series], Any]]] = {
    **{name: (name, _first) for name in SHARED},
    "goal_value": ("goal_value", _first),
    "threshold": ("threshold", mean),
    "seeds": ("seed", len),
    "reached_seeds": ("reached", _out_of),
    "met_seeds": ("met", _out_of),
    "prompts": ("prompts", lowest),
    "quality_mean": ("quality", mean),
    "quality_std": ("quality", std),
    "quality_low": ("quality_low", lowest),
    "quality_high": ("quality_high", highest),
    "own_full_quality": ("own_full_quality", mean),
    "quality_share": ("quality_share", mean),
    "full_quality": ("full_quality", mean),
    "share_of_full": ("share_of_full", mean),
    **{name: (name, mean) for name in DECODED[3:]},
    "area": ("area", mean),
    "timed_seeds": ("free_speedup", lambda values: values.count() or math.nan),
    **{
        f"{mode}_{name}": (
            f"{mode}_{name}",
            {"speedup_low": pd.Series.min, "speedup_high": pd.Series.max}.get(name, _known_mean),
        )
        for mode in MODES
        for name in TIMED
    },
    "machine": ("machine", joined),
}


def main_frame(points: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method and goal, in table order, from the points of single seeds."""
    rows = [
        dict(zip(KEY, key, strict=True))
        | {name: how(own[source]) for name, (source, how) in MEASURES.items()}
        for key, own in points.groupby(KEY, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*KEY, *MEASURES])
