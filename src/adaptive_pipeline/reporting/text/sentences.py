"""Sentences about one result, the same wherever they are told."""

from __future__ import annotations

from adaptive_inference.calibration.operating_point import COST_WORDS, Cost
from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.statistics.chance import Chance
from adaptive_pipeline.reporting.text.markdown import counted, number


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


def nothing_evaluated(params: Params) -> str:
    """Say why there is nothing to tell of classifiers."""
    return "Nothing is evaluated yet." if params.tasks else "The params name no task of classifiers."


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
