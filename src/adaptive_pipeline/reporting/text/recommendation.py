"""What to use, in plain words and for machines: chosen on the calibration split, measured on the evaluation split."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from adaptive_inference.calibration.operating_point import COST_WORDS
from adaptive_inference.serving.card import metric_name
from adaptive_pipeline.params import Params
from adaptive_pipeline.reporting.choice import Choice
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.names import method_name, rule_name
from adaptive_pipeline.reporting.text.deployment import deployed_words, deployment_json, deployment_lines
from adaptive_pipeline.reporting.text.markdown import number
from adaptive_pipeline.reporting.text.sentences import chance_sentence, leak_warning, nothing_evaluated

TIED = 0.1  #: share of the resamples from which on another choice is named beside the chosen one
WORTH_MORE_ROWS = 1.1  #: ratio of speed-ups from which on more calibration rows are advised

# ---- for machines ----------------------------------------------------------------------------------------------------


def as_json(choices: list[Choice], results: Results, root: str, models: Collection[str]) -> dict[str, Any]:
    """Return the content of ``recommendation.json``.

    ``root`` is the results folder as the user writes it; ``models`` are the model folders that stand in it.
    """
    goal = results.params.goal
    return {
        "max_loss_points": goal.max_loss,
        "confidence": goal.confidence,
        "goal_cost": goal.cost,
        "missing_cells": len(results.missing),
        "choices": [_choice_json(choice, root, choice.model in models) for choice in choices],
    }


def _choice_json(choice: Choice, root: str, there: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"task": choice.task, "backbone": choice.backbone, "qualifies": choice.faster}
    if choice.chance:
        body["full_model_against_one_answer"] = asdict(choice.chance)
    if choice.chosen is None or choice.measured is None or choice.cell is None:
        return body | {"why": choice.why}
    chosen, measured = choice.chosen, choice.measured
    reported = (
        "metric",
        "rows",
        "quality",
        "full_quality",
        "loss",
        "low",
        "high",
        "layers_speedup",
        "flops_speedup",
    )
    clocked = ("wallclock_speedup", "wallclock_low", "wallclock_high", "median_ms", "full_median_ms")
    return body | {
        "trained_as": choice.cell.method,
        "seed": choice.cell.seed,
        "offer": choice.offer.model_dump(mode="json"),
        "half_and_twice": [offer.model_dump(mode="json") for offer in chosen.others],
        "chosen_in": [share.model_dump(mode="json") for share in chosen.shares],
        "candidates": chosen.candidates,
        "calibration_rows": chosen.rows,
        "speedup_with_four_times_the_rows": chosen.with_more_rows,
        "evaluation": {name: getattr(measured, name) for name in reported} | {"goal_held": choice.held},
        "wallclock": {name: choice.clock.get(name) for name in clocked} if choice.clock else None,
        "drift": None if measured.drift is None else {"found": measured.drift.found, **measured.drift.model_dump()},
        "command": choice.command(root) if there else None,
    } | ({"deployment": deployment_json(choice.deployment)} if choice.deployment else {})  # fmt: skip


# ---- for readers -----------------------------------------------------------------------------------------------------


def as_markdown(choices: list[Choice], results: Results, root: str, models: Collection[str]) -> str:
    """Return the text of ``recommendation.md``; see `as_json`."""
    goal = results.params.goal
    lines = [
        "# Recommendation",
        "",
        f"Goal: the fastest model that loses at most {_points(goal.max_loss)} against the full model on texts that were not "
        f"seen, with a probability of {goal.confidence:.0%}. Fast means few {COST_WORDS[goal.cost]}. "
        f"{_where(results.params)}",
        "",
        *leak_warning(results.params),
    ]
    if not choices:
        lines += [nothing_evaluated(results.params), ""]
    for choice in choices:
        lines += [f"## {choice.task}, {choice.backbone}", ""]
        lines += choice_lines(choice, results.params, root, choice.model in models)
    if results.missing:
        count = len(results.missing)
        lines += [
            f"**Incomplete:** {count} {'cell is' if count == 1 else 'cells are'} missing (`tables/missing.csv`); "
            "the answer may change when the run is complete.",
            "",
        ]
    return "\n".join(lines)


def _where(params: Params) -> str:
    """Say on which rows the choice was made."""
    if params.calibration.calibrate_on == "evaluation":
        return "Chosen on the evaluation split itself, so that nothing is promised."
    return "Chosen on the calibration split; the evaluation split only measures it."


def choice_lines(choice: Choice, params: Params, root: str, there: bool) -> list[str]:
    """Return what is said of one task and backbone, without its heading."""
    if choice.chosen is None:
        return [f"No recommendation: {choice.why}.", ""]
    items = []
    if choice.faster:
        items = [_promise(choice), _measured(choice, params.goal.confidence), _speed(choice)]
    if choice.deployment:
        items = [*deployment_lines(choice), *_in_torch(choice, params), *items]
    items += [_tied(choice), _others(choice, params), _more_rows(choice, params), _drift(choice)]
    if choice.chance:
        items.append(chance_sentence(choice.chance))
    items.append(
        f"Predict with it:\n\n      {choice.command(root)}"
        if there
        else "The weights are not here, only records. `make preset NAME=...` and `make run` train the models again."
    )
    return [headline(choice), "", *(f"- {item}" for item in items if item), ""]


def headline(choice: Choice) -> str:
    """Return the sentence that says what to use."""
    if choice.deployment and (choice.faster or choice.deployment.name != "torch"):
        return f"**Use {deployed_words(choice)}.**"
    if not choice.faster:
        count = choice.chosen.candidates if choice.chosen else 0
        return (
            f"**Use the full model.** None of the {count} faster candidates can be promised to lose at most "
            f"{_points(choice.offer.max_loss)}."
        )
    return f"**Use {_words(choice)}.**"


def _words(choice: Choice) -> str:
    """Say in words what is recommended: which model, and when a text leaves it."""
    offer, cell = choice.offer, choice.cell
    assert cell is not None
    assert offer.setting is not None
    setting, trained = offer.setting, f"trained as {method_name(cell.method)} (seed {cell.seed})"
    if setting.member is not None:
        return f"the first {setting.member} layers alone, a member of the cascade {trained}"
    if setting.rule == "fixed":
        last = len(choice.exits) - 1
        return f"the model {trained}; every text leaves after layer {choice.exits[min(int(setting.threshold or 0), last)]}"
    return f"the model {trained}; a text leaves by {rule_name(setting.rule)} at threshold {setting.threshold:.4g}"


def _promise(choice: Choice) -> str:
    offer = choice.offer
    rows = choice.chosen.rows if choice.chosen else 0
    kept = ""
    if round(offer.kept_full, 2) > 0:
        kept = f"; {offer.kept_full:.0%} of the resamples kept the full model instead, which loses nothing"
    return (
        f"Promised: on new texts it {_changes(offer.loss, '.1f')} on average (a loss of {number(offer.low, '.1f')} to "
        f"{number(offer.high, '.1f')} in four of five resamples). The choice, made again on resampled texts, lost at most "
        f"{_points(offer.max_loss)} in {offer.probability:.0%} of them{kept}. This is estimated from {rows} calibration "
        f"texts, on which it {_changes(-100 * (offer.difference or 0.0), '.2f')}."
    )


def _changes(loss: float, form: str) -> str:
    """Say a loss in points, or that it is a gain."""
    return f"{'gains' if loss < 0 else 'loses'} {format(abs(loss), form)} points"


def _measured(choice: Choice, confidence: float) -> str:
    found = choice.measured
    assert found is not None
    assert found.quality is not None
    assert found.loss is not None
    between = (
        ""
        if found.low is None
        else f" (95 % interval of the loss: {number(found.low, '.2f')} to {number(found.high, '.2f')})"
    )
    text = (
        f"Measured on {found.rows} evaluation texts: it {_changes(found.loss, '.2f')}{between}, "
        f"{metric_name(found.metric)} {found.quality:.4f} against {found.full_quality:.4f} of the full model. "
    )
    if choice.held:
        return text + "**The goal is kept there.**"
    return text + (
        "**That is more than the goal.** The choice stands, because it was made without looking there; asked for was that "
        f"it be kept in {confidence:.0%} of cases, not in all"
        + (", and these texts differ from the calibration texts (below)." if _drift(choice) else ".")
    )


def _speed(choice: Choice) -> str:
    found, clock = choice.measured, choice.clock
    assert found is not None
    text = f"Speed: {found.layers_speedup:.2f}x fewer layers, {found.flops_speedup:.2f}x fewer FLOPs"
    if not clock:
        return text + "; not timed."
    low, high = clock["wallclock_low"], clock["wallclock_high"]
    between = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    return (
        f"{text}, {clock['wallclock_speedup']:.2f}x faster on the clock{between}: {clock['median_ms']:.1f} ms a text at "
        f"batch 1, the full model {clock['full_median_ms']:.1f} ms ({choice.machine})."
    )


def _tied(choice: Choice) -> str:
    """Name what else the resamples chose."""
    assert choice.chosen is not None
    own = None
    if choice.faster and choice.offer.setting:
        own = (choice.offer.method, choice.offer.setting.rule)
    others = [item for item in choice.chosen.shares if item.share >= TIED and (item.method, item.rule) != own]
    if not others:
        return ""
    named = [
        f"{method_name(item.method)}{f' by {rule_name(item.rule)}' if item.rule else ''} ({item.share:.0%} of the resamples)"
        for item in others
        if item.method != "full" or choice.faster
    ]
    return f"Tied with it, as far as these rows tell: {', '.join(named)}." if named else ""


def _others(choice: Choice, params: Params) -> str:
    """Say what half and twice the loss would buy."""
    assert choice.chosen is not None
    said = []
    for offer in choice.chosen.others:
        speedup = offer.seen.speedup(params.goal.cost) if offer.seen else None
        what = "the full model"
        if speedup:
            what = f"{speedup:.2f}x fewer {COST_WORDS[params.goal.cost]} ({method_name(offer.method or '')})"
        said.append(f"at most {_points(offer.max_loss)} lost, {what}")
    return f"With another goal: {'; '.join(said)}." if said else ""


def _more_rows(choice: Choice, params: Params) -> str:
    assert choice.chosen is not None
    more, seen = choice.chosen.with_more_rows, choice.offer.seen
    now = (seen.speedup(params.goal.cost) if seen else None) or 1.0
    if not more or more < WORTH_MORE_ROWS * now:
        return ""
    return (
        f"With four times the calibration texts ({4 * choice.chosen.rows}) about {more:.1f}x fewer "
        f"{COST_WORDS[params.goal.cost]} could be expected: from few texts only little can be promised."
    )


def _in_torch(choice: Choice, params: Params) -> list[str]:
    """Return what was chosen before deployments were timed; what follows it is told of that model."""
    if not choice.faster or not choice.deployment:
        return []
    same = choice.deployment.offer.method == choice.offer.method
    said = "The method was chosen in PyTorch" if same else "In PyTorch another one was chosen"
    return [f"{said}, by {COST_WORDS[params.goal.cost]}: {_words(choice)}."]


def _drift(choice: Choice) -> str:
    drift = choice.measured.drift if choice.measured else None
    if drift is None or not drift.found:
        return ""
    return (
        "**The evaluation texts are not like the calibration texts**: by length and confidence a classifier tells them "
        f"apart (AUC {drift.auc:.2f}, where 0.5 would mean alike; p = {drift.p_value:.1g}). A promise holds for texts like "
        "those calibrated on; for other texts calibrate again on some of them: `adaptive-inference calibrate`."
    )


def _points(value: float) -> str:
    text = number(value, ".2f").rstrip("0").rstrip(".")
    return f"{text} {'point' if text == '1' else 'points'}"


def model_remarks(choice: Choice, params: Params) -> list[str]:
    """Return what a model card tells of the comparison that its model comes from."""
    if choice.deployment:
        return [headline(choice), *deployment_lines(choice), _drift(choice)]
    if not choice.faster:
        return [headline(choice)] if choice.chosen else []
    return [_promise(choice), _measured(choice, params.goal.confidence), _speed(choice), _drift(choice)]
