"""Which method to use: chosen on the calibration split, reported on the evaluation split."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from adaptive_inference.by_name import is_own, short_name
from adaptive_inference.calibration.operating_point import COST_WORDS, ROUNDING, Cost, static_layers
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.names import method_name, rule_name
from adaptive_pipeline.reporting.statistics.chance import Chance, against_chance
from adaptive_pipeline.reporting.text.sentences import (
    chance_sentence,
    currency_note,
    evaluation_sentence,
    leak_warning,
)

#: What ``recommendation.json`` tells of the evaluation split.
REPORTED = (
    "metric", "quality_mean", "quality_std", "quality_low", "quality_high", "quality_difference", "seeds", "layers_speedup",
    "flops_speedup", "wallclock_speedup", "wallclock_low", "wallclock_high",
)  # fmt: skip


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
    """What to use for one task and backbone."""

    task: str
    backbone: str
    model: str  #: folder of the assembled model below the results, e.g. ``model`` or ``model/TASK``
    cost: Cost  #: the currency in which "faster" is meant
    why: str  #: one sentence
    row: Any = None  #: the recommended row of the main table; the full model's where nothing faster qualifies; None: unknown
    point: Any = None  #: that of the seed whose model is handed out, a row of `Results.points`
    faster: bool = False  #: whether a method other than the full model qualifies and is faster
    measure: str = ""  #: the column that candidates were ranked by
    candidates: int = 0  #: operating points compared, the full model aside
    qualifying: int = 0
    chance: Chance | None = None  #: where the full model is not shown to beat one answer for all texts
    own_code: tuple[str, ...] = ()  #: code of one's own that the model needs to answer

    def command(self, root: str) -> str:
        """Return the command that predicts with the model that stands in the results folder ``root``."""
        return " ".join(
            [
                f"adaptive-inference predict {root}/{self.model}",
                *(f"--own-code {item}" for item in self.own_code),
            ]
        )

    @property
    def known(self) -> bool:
        """Whether there is an answer, be it the full model."""
        return self.row is not None

    @property
    def marked(self) -> Marked | None:
        """What tables and figures mark; None where the full model is all that can be recommended."""
        if not self.faster:
            return None
        point = self.point
        flops, clock, milliseconds = (
            None if pd.isna(value) else float(value)
            for value in (point.flops_speedup, point.wallclock_speedup, point.median_ms)
        )
        return Marked(
            point.method,
            point.rule,
            point.threshold,
            point.seed,
            point.quality,
            point.layers_speedup,
            flops,
            clock,
            milliseconds,
        )

    @property
    def ranked_by(self) -> str:
        """How candidates were ranked, and where that was measured."""
        if self.measure == "wallclock_speedup":
            return "wall-clock, measured on texts of the evaluation split"
        return f"{COST_WORDS[self.cost]} run on the calibration split"


def recommend(results: Results) -> list[Choice]:
    """Choose, for each task and backbone, the fastest operating point within ``goal.max_loss`` points.

    A candidate qualifies if its quality on the *calibration* split, as the mean over seeds of the difference to the
    full model of the same seed, is at most ``max_loss`` hundredths lower, in every seed that the full model has.
    Candidates must be faster: cheaper on the calibration split, in the goal's currency (so the full model's own copy is
    none) and, where it was measured, wall-clock with an interval above 1. They are ranked by measured wall-clock if all of
    them were timed, else by cost. Wall-clock is timed on texts of the evaluation split, so *speed* is chosen there, labels
    aside; quality never is. Rules that look at the labels (the oracle) are no candidates, nor are points of certified risk:
    the guarantee of each would not survive a choice among them.
    """
    several = len(results.params.backbones) > 1
    choices = []
    for one in results.each:
        task, backbone = one.pair
        folders = [task] * (several or len(results.params.tasks) > 1) + [backbone] * several
        choice = Choice(task, backbone, "/".join(["model", *folders]), results.cost, **_choose(one))
        own_code = _own_code(choice, results.params)
        choices.append(replace(choice, chance=against_chance(one), own_code=own_code))
    return choices


def _own_code(choice: Choice, params: Params) -> tuple[str, ...]:
    """Return the code of one's own by which the recommended model leaves and its encoder is driven."""
    if choice.row is None:
        return ()
    rules = params.method(choice.point.cell.method).rules
    named = [rule.partition("(")[0] for rule in rules if short_name(rule) == choice.row.rule]
    named.append(params.backbone(choice.backbone).adapter or "")
    return tuple(name for name in named if is_own(name))


def _choose(results: Results) -> dict[str, Any]:
    """Return what is to be said of one task and backbone: fields of `Choice`."""
    rows, cost, max_loss = results.main, results.cost, results.params.goal.max_loss
    risk = rows.goal.map(lambda goal: goal.kind == "risk").astype(bool)
    full = next(rows[(rows.method == "full") & (rows.seeds > 0)].itertuples(), None)
    others = rows[(rows.method != "full") & rows.attainable & ~risk]
    found: dict[str, Any] = {"candidates": len(others)}
    if full is None:
        return found | {"why": "the full model has no record yet, so nothing can be held against it"}
    complete = others.in_seeds.map(lambda seeds: set(full.in_seeds) <= set(seeds)).astype(bool)
    fit = others[complete & within(others.calibration_difference, max_loss)]
    cheaper = fit[f"calibration_{cost}_speedup"] > 1.0
    faster = fit[cheaper & ~(fit.wallclock_low <= 1.0)]
    measure = _common_measure(faster, cost) if len(faster) else ""
    found |= {"qualifying": len(fit), "measure": measure}
    if faster.empty:
        why = (
            f"{len(fit)} of {len(others)} operating points qualify, but none is faster than the full model"
            if len(fit)
            else f"none of {len(others)} operating points stays within {max_loss:g} points of the full model"
        )
        return found | {"why": why, "row": full, "point": _seed_of(results, full, max_loss)}
    ranked = faster.sort_values([measure, "calibration_quality"], ascending=False, kind="stable")
    best = next(ranked.itertuples())
    why = f"the fastest of the {len(fit)} (of {len(others)}) operating points that qualify"
    return found | {"why": why, "row": best, "point": _seed_of(results, best, max_loss), "faster": True}


def within(difference: Any, max_loss: float) -> Any:
    """Whether differences of quality (fractions, negative: worse) stay within ``max_loss`` hundredths; missing: no."""
    return difference >= -max_loss / 100 - ROUNDING


def _common_measure(rows: pd.DataFrame, cost: Cost) -> str:
    """Return wall-clock if every row has it, of the same seeds (ratios are never mixed); else the goal's currency."""
    timed = rows.wallclock_speedup.notna().all() and rows.timed_in.nunique() == 1
    return "wallclock_speedup" if timed else f"calibration_{cost}_speedup"


def _seed_of(results: Results, row: Any, max_loss: float) -> Any:
    """Return the seed to hand out: within the goal by itself, best on the calibration split, lowest seed on a tie."""
    points = results.of_row(row)
    lost = points.calibration_difference.notna() & ~within(points.calibration_difference, max_loss)
    ranked = points.assign(lost=lost, better=-points.calibration_quality).sort_values(
        ["lost", "better", "seed"]
    )
    return next(ranked.itertuples())


# ---- for machines ----------------------------------------------------------------------------------------------------


def as_json(choices: list[Choice], results: Results, root: str, models: Collection[str]) -> dict[str, Any]:
    """Return the content of ``recommendation.json``.

    ``root`` is the results folder as the user writes it; ``models`` are the model folders that stand in it.
    """
    return {
        "max_loss_points": results.params.goal.max_loss,
        "missing_cells": len(results.missing),
        "choices": [_choice_json(choice, root, choice.model in models) for choice in choices],
    } | ({} if results.cost == "layers" else {"goal_cost": results.cost})


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
    row, point, speedup = choice.row, choice.point, f"{choice.cost}_speedup"
    if row is None:
        return body
    return body | {
        "method": row.method,
        "trained_as": point.cell.method,
        "rule": row.rule,
        "operating_point": row.operating_point,
        "threshold": point.threshold,
        "seed": point.seed,
        "chosen_on_calibration": {
            "quality": row.calibration_quality,
            "quality_difference": row.calibration_difference,
            speedup: getattr(row, f"calibration_{speedup}"),
        },
        "ranked_by": choice.measure or None,
        "evaluation": {name: getattr(row, name) for name in REPORTED},
        "command": choice.command(root) if there else None,
    }


# ---- for readers -----------------------------------------------------------------------------------------------------


def as_markdown(choices: list[Choice], results: Results, root: str, models: Collection[str]) -> str:
    """Return the text of ``recommendation.md``; see `as_json`."""
    goal = results.params.goal.max_loss
    lines = [
        "# Recommendation",
        "",
        f"Goal: the fastest method that loses at most {goal:g} {'point' if goal == 1 else 'points'} (hundredths) against "
        "the full fine-tuned model. Quality chosen on the calibration split, reported on the evaluation split.",
        *currency_note(results.cost),
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
    row = choice.row
    if row is None:
        return [*lines, f"No answer yet: {choice.why}.", ""]
    lines += _faster_lines(choice) if choice.faster else [
        f"**None qualifies**: {choice.why}. Use the **full model**.", ""
    ]  # fmt: skip
    lines += [f"- Evaluation split: {evaluation_sentence(row)}."]
    if choice.chance:
        lines += [f"- {chance_sentence(choice.chance)}"]
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
            f"      {choice.command(root)}",
            "",
        ]
    return [
        *lines,
        "- Only records were kept, no weights. `make preset NAME=...` and `make run` train the models again; then "
        "`adaptive-inference predict results/model` answers with the recommended one.",
        "",
    ]


def _faster_lines(choice: Choice) -> list[str]:
    row, point = choice.row, choice.point
    how = (
        "every text runs through all of them"
        if static_layers(row.method) is not None or row.goal.kind == "whole"
        else f"rule **{rule_name(row.rule)}** at threshold {point.threshold:.6g}, "
        f"`{row.operating_point}`: {row.goal.words}"
    )
    speedup = getattr(row, f"calibration_{choice.cost}_speedup")
    return [
        f"Use **{method_name(row.method)}** ({how}), seed {point.seed}: {choice.why}, ranked by {choice.ranked_by}.",
        "",
        f"- Calibration split: quality {row.calibration_quality:.4f}, {row.calibration_difference:+.4f} against the "
        f"full model; {speedup:.2f}x by {COST_WORDS[choice.cost]}.",
    ]
