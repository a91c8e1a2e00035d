"""What is said of the deployment that was chosen: what it is, what it is promised to lose, how fast it is here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptive_inference.calibration.operating_point import Setting
from adaptive_pipeline.reporting.choice import Choice, Deployment
from adaptive_pipeline.reporting.names import method_name, rule_name
from adaptive_pipeline.reporting.text.markdown import number

CLOCK = (
    "median_ms", "wallclock_speedup", "wallclock_low", "wallclock_high", "same_deployment_speedup",
    "static_int8_speedup", "static_int8_low", "static_int8_high",
)  # fmt: skip


def deployment_json(found: Deployment) -> dict[str, Any]:
    """Return it for machines."""
    measured = ("quality", "loss", "low", "high", "layers_speedup", "flops_speedup", "differing")
    held = found.offer.asked != "max_loss" or found.held
    return {
        "offer": found.offer.model_dump(mode="json"),
        "method": found.row.method,
        "candidates": found.candidates,
        "evaluation": {name: getattr(found.row, name) for name in measured} | {"goal_held": held},
        "wallclock": {name: found.clock.get(name) for name in CLOCK},
        "refused": {f"{item.method} {item.deployment}": item.why for item in found.refused},
    }


def deployed_words(choice: Choice) -> str:
    """Say in words what is deployed: which model, as what, and when a text leaves it."""
    found = choice.deployment
    assert found is not None
    assert choice.cell is not None
    name = f"as `{found.name}`"
    if found.offer.method == "full":
        return f"the full model (seed {choice.cell.seed}), {name}; every text runs through all of it"
    setting = found.offer.setting
    assert setting is not None
    trained = f"trained as {method_name(found.offer.method)} (seed {choice.cell.seed})"
    if setting.member is not None:
        return f"the first {setting.member} layers alone, a member of the cascade {trained}, {name}"
    return f"the model {trained}, {name}; {_leaves(setting, found)}"


def _leaves(setting: Setting, found: Deployment) -> str:
    if setting.rule != "fixed":
        return f"a text leaves by {rule_name(setting.rule)} at threshold {setting.threshold:.4g}"
    assert found.row.layers_speedup is not None
    return f"every text leaves at the same exit ({found.row.layers_speedup:.2f}x fewer layers)"


def deployment_lines(choice: Choice) -> list[str]:
    """Return what is told of the deployment that was chosen, an item each."""
    found = choice.deployment
    assert found is not None
    return [_promise(found), _measured(found), speed_line(found), *_refused(choice, found)]


def _promise(found: Deployment) -> str:
    offer = found.offer
    if offer.asked == "max_latency_ms":
        among = f"of {found.candidates} candidates, deployments among them"
        if offer.kept:
            return f"Asked for: at most {offer.limit:g} ms a text in the mean. The best on the calibration split {among}."
        return f"**Nothing is within {offer.limit:g} ms a text**: this is the fastest {among}."
    if offer.loss is None or offer.probability is None:
        return f"No faster deployment is promised to lose at most {offer.limit:g} points."
    return (
        f"Promised, among {found.candidates} candidates in all deployments: on new texts it loses "
        f"{number(offer.loss, '.1f')} points on average ({number(offer.low, '.1f')} to {number(offer.high, '.1f')} in four "
        f"of five resamples), and at most {offer.limit:g} in {offer.probability:.0%} of the resamples. Temperatures and "
        "threshold are fitted on its own answers."
    )


def _measured(found: Deployment) -> str:
    row = found.row
    assert row.quality is not None
    between = (
        "" if row.low is None else f" (95 % interval {number(row.low, '.2f')} to {number(row.high, '.2f')})"
    )
    text = (
        f"Measured on the evaluation split: a loss of {number(row.loss, '.2f')} points{between} against the full model in "
        f"PyTorch, quality {row.quality:.4f}."
    )
    if found.offer.asked != "max_loss" or found.held:
        return text
    return f"{text} **That is more than the goal**; the choice was made without looking there."


def speed_line(found: Deployment) -> str:
    """Say how fast it is, against each of its opponents."""
    clock = found.clock
    parts = [f"{_ratio(clock, 'wallclock')} as fast as the full model in PyTorch"]
    if found.offer.method == "full" and found.name == "onnx_int8":
        parts.append("the static int8 model itself, which no early exit is promised to beat here")
    elif clock.get("static_int8_speedup"):
        parts.append(f"{_ratio(clock, 'static_int8')} as fast as the full model in int8")
    text = f"Speed: {clock['median_ms']:.2f} ms a text at batch 1, {', '.join(parts)} ({found.machine})."
    return f"{text} All deployments: `tables/deployments.md`."


def _ratio(clock: Mapping[str, Any], name: str) -> str:
    low, high = clock.get(f"{name}_low"), clock.get(f"{name}_high")
    between = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{clock[f'{name}_speedup']:.2f}x{between}"


def _refused(choice: Choice, found: Deployment) -> list[str]:
    """Say what was refused for its loss, or was recommended; ``deployments.md`` has the methods that have no graphs."""
    told = [item for item in found.refused if item.loss is not None or item.method == choice.offer.method]
    said = [f"{method_name(item.method)} as `{item.deployment}` ({item.why})" for item in told]
    return [f"Refused: {'; '.join(said)}."] if said else []
