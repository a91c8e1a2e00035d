"""Sentences about one result, the same wherever they are told."""

from __future__ import annotations

from typing import Any

import pandas as pd

from adaptive_inference.calibration.operating_point import COST_WORDS, Cost
from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.measures import SPEEDS
from adaptive_pipeline.reporting.statistics.chance import Chance
from adaptive_pipeline.reporting.text.markdown import counted, number


def evaluation_sentence(row: Any) -> str:
    """Say quality, interval, difference and the three speed-ups of a row; what was not measured is left out."""
    if pd.isna(row.quality_mean):
        return f"{metric_name(row.metric)} could not be measured"
    text = f"{metric_name(row.metric)} {row.quality_mean:.4f}{_interval(row.quality_low, row.quality_high, '.4f')}"
    text += f" over {counted(row.seeds, 'seed')}"
    if pd.notna(row.quality_std):
        text += f" (std {row.quality_std:.4f})"
    if row.method == "full":
        return text
    if pd.notna(row.quality_difference):
        text += f", {row.quality_difference:+.4f} against the full model"
    speeds = []
    for measure in SPEEDS:
        value = getattr(row, measure.name)
        if pd.notna(value):
            speeds.append(f"{value:{measure.form}}x by {measure.label}")
            if measure.among == "timed":
                some = f" (seed{'s' * (len(row.timed_in) > 1)} {', '.join(map(str, row.timed_in))})"
                speeds[-1] += some if len(row.timed_in) < row.seeds else ""
                speeds[-1] += _interval(row.wallclock_low, row.wallclock_high, measure.form)
    return f"{text}; {', '.join(speeds)}" if speeds else text


def _interval(low: float, high: float, form: str) -> str:
    return "" if pd.isna(low) or pd.isna(high) else f" [{low:{form}}, {high:{form}}]"


def chance_sentence(chance: Chance) -> str:
    """Say that the full model is not shown to have learned its task."""
    answer = f"always answering `{chance.answer}`" if chance.answer else "one answer for all texts"
    verdict = "is worse than" if chance.high < 0 else "is not shown to be better than"
    return (
        f"**The full model {verdict} {answer}** ({metric_name(chance.metric)} {chance.full:.4f} against "
        f"{chance.constant:.4f}; 95 % interval of the difference {number(chance.low, '+.4f')} to "
        f"{number(chance.high, '+.4f')}, {chance.rows} rows, {counted(chance.seeds, 'seed')}): "
        "that a method loses little against it says nothing here."
    )


def leak_warning(params: Params) -> list[str]:
    """Return the lines that say so where thresholds were chosen on the reported rows themselves."""
    if params.calibration.calibrate_on == "calibration":
        return []
    return [
        "**Calibrated on the evaluation split** (`calibration.calibrate_on: evaluation`): what is called calibration here "
        "saw the reported rows, so every figure is flattered. Only for reproducing published numbers.",
        "",
    ]


def currency_note(cost: Cost) -> list[str]:
    """Say in what the goals count where it is not in layers, which readers take for granted."""
    if cost == "layers":
        return []
    return [f'Goals count {COST_WORDS[cost]}: "fastest" and "times lower" are meant in {COST_WORDS[cost]}.']
