"""Which method to use: chosen on the calibration split, reported on the evaluation split."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.aggregate import TOLERANCE, Row, aggregate
from adaptive_pipeline.reporting.chance import Chance, chance_warning
from adaptive_pipeline.reporting.collect import Point, Results
from adaptive_pipeline.reporting.names import is_certified, method_name, point_name, rule_name, static_layers

#: Measures of speed by which candidates are ranked, best first, and where each was measured.
MEASURES = {
    "wallclock_speedup": "wall-clock, measured on texts of the evaluation split",
    "calibration_speedup": "layers run on the calibration split",
    "layers_speedup": "layers run",
}


@dataclass(frozen=True)
class Choice:
    """What to use for one task and backbone."""

    task: str
    backbone: str
    row: (
        Row | None
    )  #: the recommended row; the full model's where nothing faster qualifies; None: nothing is known
    point: Point | None  #: the seed whose model is handed out
    faster: bool  #: whether a method other than the full model qualifies and is faster
    measure: str  #: the speed that candidates were ranked by; a key of `MEASURES`
    candidates: int  #: operating points compared, the full model aside
    qualifying: int
    model: str  #: folder of the assembled model below the results, e.g. ``model`` or ``model/TASK``
    why: str  #: one sentence
    chance: Chance | None = None  #: where the full model is not shown to beat one answer for all texts


def recommend(results: Results) -> list[Choice]:
    """Choose, for each task and backbone, the fastest operating point within ``goal.max_loss`` points.

    A candidate qualifies if its quality on the *calibration* split, as the mean over seeds of the difference to the
    full model of the same seed, is at most ``max_loss`` hundredths lower, in every seed that the full model has.
    Candidates must be faster: fewer layers on the calibration split (so the full model's own copy is none) and, where it
    was measured, wall-clock with an interval above 1. They are ranked by measured wall-clock if all of them were timed,
    else by layers. Wall-clock is timed on texts of the evaluation split, so *speed* is chosen there, labels aside; quality
    never is. Rules that look at the labels (the oracle) are no candidates, nor are points of certified risk: the guarantee
    of each would not survive a choice among them.
    """
    rows = aggregate(results)
    pairs = results.pairs()
    several_tasks = len(results.params.tasks) > 1
    several_backbones = len(results.params.backbones) > 1
    choices = []
    for task, backbone in pairs:
        folder = "/".join(
            ["model"]
            + ([task] if several_tasks or several_backbones else [])
            + ([backbone] if several_backbones else [])
        )
        here = [row for row in rows if (row.task, row.backbone) == (task, backbone)]
        choice = _choose(task, backbone, here, results.params.goal.max_loss, folder)
        choices.append(replace(choice, chance=chance_warning(results, task, backbone)))
    return choices


def _choose(task: str, backbone: str, rows: list[Row], max_loss: float, folder: str) -> Choice:
    full = next((row for row in rows if row.method == "full" and row.points), None)
    others = [
        row
        for row in rows
        if row.method != "full" and row.attainable and not is_certified(row.operating_point)
    ]
    if full is None:
        why = "the full model has no record yet, so nothing can be held against it"
        return Choice(task, backbone, None, None, False, "", len(others), 0, folder, why)
    seeds = _seeds(full)
    fit = [row for row in others if seeds <= _seeds(row) and within(row.calibration_difference, max_loss)]
    faster = [row for row in fit if _is_faster(row)]
    measure = _common_measure(faster) if faster else ""
    ranked = sorted(
        faster,
        key=lambda row: (-_speed(row, measure), -(row.calibration_quality or 0.0)),
    )
    if not ranked:
        why = (
            f"none of {len(others)} operating points stays within {max_loss:g} points of the full model"
            if not fit
            else f"{len(fit)} of {len(others)} operating points qualify, but none is faster than the full model"
        )
        return Choice(
            task, backbone, full, _seed_of(full), False, measure, len(others), len(fit), folder, why
        )
    best = ranked[0]
    base = {point.cell.seed: point.calibration_quality for point in full.points}
    why = f"the fastest of the {len(fit)} (of {len(others)}) operating points that qualify"
    point = _seed_of(best, base, max_loss)
    return Choice(task, backbone, best, point, True, measure, len(others), len(fit), folder, why)


def _seeds(row: Row) -> set[int]:
    return {point.cell.seed for point in row.points}


def within(difference: float | None, max_loss: float) -> bool:
    """Whether a difference of quality (a fraction, negative: worse) stays within ``max_loss`` hundredths."""
    return difference is not None and difference >= -max_loss / 100 - TOLERANCE


def _is_faster(row: Row) -> bool:
    """Whether a row saves layers on the calibration split and, where timed, is surely no slower than the full model."""
    slower = row.wallclock_low is not None and row.wallclock_low <= 1.0
    return (row.calibration_speedup or 0.0) > 1.0 and not slower


def _common_measure(rows: list[Row]) -> str:
    """Return the best measure of speed that every row has, of the same seeds: ratios are never mixed."""
    alike = len({tuple(point.cell.seed for point in row.points if point.wallclock) for row in rows}) == 1
    measures = [name for name in MEASURES if alike or name != "wallclock_speedup"]
    return next(
        (name for name in measures if all(getattr(row, name) is not None for row in rows)), "layers_speedup"
    )


def _speed(row: Row, measure: str) -> float:
    return getattr(row, measure) or 0.0


def _seed_of(row: Row, base: Mapping[int, float | None] | None = None, max_loss: float = 0.0) -> Point:
    """Return the seed to hand out: within the goal by itself, best on the calibration split, lowest seed on a tie."""

    def fits(point: Point) -> bool:
        reference = (base or {}).get(point.cell.seed)
        if reference is None or point.calibration_quality is None:
            return True
        return within(point.calibration_quality - reference, max_loss)

    return min(
        row.points, key=lambda point: (not fits(point), -(point.calibration_quality or 0.0), point.cell.seed)
    )


def as_json(choices: list[Choice], results: Results, root: str, models: Collection[str]) -> dict[str, Any]:
    """Return the content of ``recommendation.json``.

    ``root`` is the results folder as the user writes it; ``models`` are the model folders that stand in it.
    """
    return {
        "max_loss_points": results.params.goal.max_loss,
        "missing_cells": len(results.missing),
        "choices": [_choice_json(choice, root, choice.model in models) for choice in choices],
    }


def _choice_json(choice: Choice, root: str, there: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "task": choice.task,
        "backbone": choice.backbone,
        "qualifies": choice.faster,
        "why": choice.why,
        "candidates": choice.candidates,
        "qualifying": choice.qualifying,
    }
    if choice.chance:
        body["full_model_against_one_answer"] = asdict(choice.chance)
    row, point = choice.row, choice.point
    if row is None or point is None:
        return body
    reported = [
        "metric",
        "quality_mean",
        "quality_std",
        "quality_low",
        "quality_high",
        "quality_difference",
        "seeds",
        "layers_speedup",
        "flops_speedup",
        "wallclock_speedup",
        "wallclock_low",
        "wallclock_high",
    ]
    return body | {
        "method": row.method,
        "trained_as": point.cell.method,
        "rule": row.rule,
        "operating_point": row.operating_point,
        "threshold": point.threshold,
        "seed": point.cell.seed,
        "chosen_on_calibration": {
            "quality": row.calibration_quality,
            "quality_difference": row.calibration_difference,
            "layers_speedup": row.calibration_speedup,
        },
        "ranked_by": choice.measure or None,
        "evaluation": {name: getattr(row, name) for name in reported},
        "command": f"adaptive-inference predict {root}/{choice.model}" if there else None,
    }


def as_markdown(choices: list[Choice], results: Results, root: str, models: Collection[str]) -> str:
    """Return the text of ``recommendation.md``; see `as_json`."""
    goal = results.params.goal.max_loss
    lines = [
        "# Recommendation",
        "",
        f"Goal: the fastest method that loses at most {goal:g} {'point' if goal == 1 else 'points'} (hundredths) against "
        "the full fine-tuned model. Quality chosen on the calibration split, reported on the evaluation split.",
        "",
        *leak_warning(results.params),
    ]
    if not choices:
        lines += ["Nothing is evaluated yet.", ""]
    for choice in choices:
        lines += _choice_lines(choice, goal, root, choice.model in models)
    if results.missing:
        count = len(results.missing)
        lines += [
            f"**Incomplete:** {count} {'cell is' if count == 1 else 'cells are'} missing (`tables/missing.csv`); "
            "the answer may change when the run is complete.",
            "",
        ]
    return "\n".join(lines)


def _choice_lines(choice: Choice, goal: float, root: str, there: bool) -> list[str]:
    lines = [f"## {choice.task}, {choice.backbone}", ""]
    row, point = choice.row, choice.point
    if row is None or point is None:
        return [*lines, f"No answer yet: {choice.why}.", ""]
    if choice.faster:
        how = (
            "every text runs through all of them"
            if static_layers(row.method) is not None or row.operating_point == "whole"
            else f"rule **{rule_name(row.rule)}** at threshold {point.threshold:.6g}, "
            f"`{row.operating_point}`: {point_name(row.operating_point)}"
        )
        lines += [
            f"Use **{method_name(row.method)}** ({how}), seed {point.cell.seed}: {choice.why}, ranked by "
            f"{MEASURES[choice.measure]}.",
            "",
            f"- Calibration split: quality {row.calibration_quality:.4f}, {row.calibration_difference:+.4f} against the "
            f"full model; {row.calibration_speedup:.2f}x by layers.",
        ]
    else:
        lines += [f"**None qualifies**: {choice.why}. Use the **full model**.", ""]
    lines += [f"- Evaluation split: {evaluation_sentence(row)}."]
    if choice.chance:
        lines += [f"- {choice.chance.sentence}"]
    if choice.faster and not within(row.quality_difference, goal):
        lines += [
            "- **On the evaluation split the loss is larger than the goal.** The choice stands, because it was made "
            "without looking there; use a smaller `goal.max_loss` or more calibration rows if that is too much."
        ]
    if there:
        return [
            *lines,
            "- Predict with it:",
            "",
            f"      adaptive-inference predict {root}/{choice.model}",
            "",
        ]
    return [
        *lines,
        "- Only records were kept, no weights. `make preset NAME=...` and `make run` train the models again; then "
        "`adaptive-inference predict results/model` answers with the recommended one.",
        "",
    ]


def leak_warning(params: Params) -> list[str]:
    """Return the lines that say so where thresholds were chosen on the reported rows themselves."""
    if params.calibration.calibrate_on == "calibration":
        return []
    return [
        "**Calibrated on the evaluation split** (`calibration.calibrate_on: evaluation`): what is called calibration here "
        "saw the reported rows, so every figure is flattered. Only for reproducing published numbers.",
        "",
    ]


def evaluation_sentence(row: Row) -> str:
    """Say quality, interval, difference and the three speed-ups of a row; what was not measured is left out."""
    if row.quality_mean is None:
        return f"{metric_name(row.metric)} could not be measured"
    text = f"{metric_name(row.metric)} {row.quality_mean:.4f}"
    if row.quality_low is not None and row.quality_high is not None:
        text += f" [{row.quality_low:.4f}, {row.quality_high:.4f}]"
    text += f" over {row.seeds} {'seed' if row.seeds == 1 else 'seeds'}"
    if row.quality_std is not None:
        text += f" (std {row.quality_std:.4f})"
    if row.quality_difference is not None and row.method != "full":
        text += f", {row.quality_difference:+.4f} against the full model"
    speeds = [
        f"{value:.2f}x by {name}"
        for name, value in (("layers", row.layers_speedup), ("FLOPs", row.flops_speedup))
        if value is not None
    ]
    if row.wallclock_speedup is not None:
        interval = (
            f" [{row.wallclock_low:.2f}, {row.wallclock_high:.2f}]"
            if row.wallclock_low is not None and row.wallclock_high is not None
            else ""
        )
        timed = ", ".join(str(point.cell.seed) for point in row.points if point.wallclock)
        of = "" if row.timed_seeds == row.seeds else f" (seed{'' if row.timed_seeds == 1 else 's'} {timed})"
        speeds.append(f"{row.wallclock_speedup:.2f}x by wall-clock{of}{interval}")
    return f"{text}; {', '.join(speeds)}" if speeds and row.method != "full" else text
