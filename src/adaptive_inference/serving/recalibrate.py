"""New temperatures and thresholds for a saved model, from labelled rows of its user's. Loads torch with a model only.

Where the rows that a model meets differ from those that it was calibrated on, its old threshold leaves too early or too
late; nothing but calibration on such rows mends that. The full model is not at hand: the model's own last exit stands for
it, in quality and, at its depth, in cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.calibration.calibrator import Calibrator
from adaptive_inference.calibration.choose import choose_points, full_quality
from adaptive_inference.calibration.curves import Curve, calibrate, sweep
from adaptive_inference.calibration.fit import fit_calibrator
from adaptive_inference.calibration.operating_point import OperatingPoint, Setting
from adaptive_inference.calibration.operating_points import recommend
from adaptive_inference.cost.flops import flops_speedup, layers_speedup
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits.deployment import WEIGHTS_KEY
from adaptive_inference.serving.confidences import Confidences, answer_confidences
from adaptive_inference.serving.onnx_model import OnnxModel
from adaptive_inference.serving.setting import choose_setting, usable_points
from adaptive_inference.settings.protocol import Goal
from adaptive_inference.tasks.quality import quality
from adaptive_inference.tasks.schema import Schema, Split

if TYPE_CHECKING:
    from adaptive_inference.exit_rules import ExitRule
    from adaptive_inference.exits.model import ExitModule
    from adaptive_inference.exits.outputs import ExitOutputs

#: Fewer rows than this say nothing of a threshold, in halves least of all.
FEWEST_ROWS = 20
#: Thresholds of each rule's grid.
THRESHOLDS = 100


@dataclass(frozen=True)
class Measured:
    """What a setting gives on some rows.

    Attributes
    ----------
    quality
        By the task's metric, a fraction.
    loss
        Points (hundredths) lost against the model at full depth on the same rows.
    layers_speedup, flops_speedup
        Cost of full depth / own cost; FLOPs None where those of the full model are not known.
    """

    quality: float
    loss: float
    layers_speedup: float
    flops_speedup: float | None


@dataclass(frozen=True)
class Recalibrated:
    """A new calibration and what it is worth.

    Attributes
    ----------
    calibration
        Content of ``calibration.json``.
    full_quality
        Of the model at full depth.
    old, new
        Settings before and now.
    before, after
        What they give on the rows that the new calibration was made on.
    held_out
        What to expect on new rows: each half answered with temperatures and threshold of the other half.
    """

    calibration: dict[str, Any]
    full_quality: float
    old: Setting
    new: Setting
    before: Measured
    after: Measured
    held_out: Measured


def rules_of(calibration: Mapping[str, Any] | None, schema: Schema, asked: Sequence[str]) -> list[str]:
    """Return the rules to calibrate: those asked for, else the model's own, else confidence (of a score: fixed).

    Raises
    ------
    UserError
        A rule is unknown, needs the true labels, or does not work for the kind of task.
    """
    own = sorted({point.setting.rule for point in usable_points(calibration)})
    names = list(asked) or own or ["confidence" if schema.kind == "classification" else "fixed"]
    for name in names:
        rule = load_rule(name)
        if not rule.attainable:
            raise UserError(f"exit rule {name!r} needs the true labels and cannot answer; name another rule")
        rule.check(schema.kind, has_certainty=True)
    return names


def recalibrate(
    model: ExitModule | OnnxModel, split: Split, rules: Sequence[str], max_loss: float, batch_size: int = 32
) -> Recalibrated:
    """Fit temperatures, choose thresholds, and measure both on halves that did not take part.

    Parameters
    ----------
    model
        With schema and tokenizer, on the device where it is to answer the rows; or an exported one, whose graphs are
        stopped where they are cut, and whose full FLOPs are not known.
    split
        Labelled rows.
    rules
        Names, see `rules_of`.
    max_loss
        Points of quality that may be lost against the model at full depth.
    batch_size
        Rows per forward.

    Raises
    ------
    UserError
        There are too few rows, or a rule reads certainty heads that the model does not have, or can decide where graphs are
        not cut.
    """
    from adaptive_inference.tasks.encode import encode

    if len(split) < FEWEST_ROWS:
        raise UserError(f"{len(split)} rows are too few to choose a threshold; give at least {FEWEST_ROWS}")
    loaded = {name: load_rule(name) for name in rules}
    for rule in loaded.values():
        rule.check(model.schema.kind, model.has_certainty)
    features = encode(split, model.tokenizer, model.schema.max_length)
    if isinstance(model, OnnxModel):
        raw = model.collect(features)
        found = from_outputs(raw, model.yardstick, loaded, max_loss, model.schema, model.calibration)
        model.check(found.new)
        body = found.calibration | {WEIGHTS_KEY: model.deployment.weights}
        return replace(found, calibration=body)
    from adaptive_inference.exits.outputs import collect_outputs

    raw = collect_outputs(model, features, batch_size)
    return from_outputs(raw, _yardstick(model, raw), loaded, max_loss, model.schema, model.calibration)


def _yardstick(model: ExitModule, raw: ExitOutputs) -> Yardstick:
    """Return what the rows are measured with; FLOPs only where the model's last exit is as deep as the full model."""
    last = getattr(model, "members", [model])[-1]  # of a cascade: what its last member costs alone
    yardstick = Yardstick.of(model.schema, last.without_reduction(), model, raw)
    layers = (model.calibration or {}).get("num_layers", yardstick.num_layers)
    if layers == yardstick.num_layers:
        return yardstick
    return replace(yardstick, num_layers=layers, full_flops=None, flops=None)


def from_outputs(
    raw: ExitOutputs,
    yardstick: Yardstick,
    rules: Mapping[str, ExitRule],
    max_loss: float,
    schema: Schema,
    old: Mapping[str, Any] | None,
) -> Recalibrated:
    """Do the same from the answers of all exits, not calibrated; ``old`` is the calibration before, None: there was none."""
    points = usable_points(old)
    cost = (old or {}).get("cost", "layers") if yardstick.full_flops is not None else "layers"
    ratios = sorted({point.goal.value for point in points if point.goal.kind == "min_speedup"})
    asked = Goal(cost=cost, max_loss=max_loss, min_speedup=ratios)
    calibrator, chosen = _calibrated(raw, yardstick, rules, asked)
    best, full = recommend(chosen), full_quality(raw, yardstick)
    whole = Setting("fixed", len(raw.exits) - 1.0)
    before = choose_setting(old, len(raw.exits), schema, None, None)
    earlier = Calibrator.identity(len(raw.exits)) if old is None else Calibrator.from_json(old)
    new = whole if best is None else best.setting
    body = {
        "temperatures": calibrator.temperatures,
        "certainty_min": calibrator.certainty_min,
        "certainty_max": calibrator.certainty_max,
        "full_quality": full,
        "num_layers": yardstick.num_layers,
        "exits": raw.exits,
        "calibrated_on": "rows of one's own",
        "rows": len(raw.labels),
        "cost": cost,
        "operating_points": [point.to_json() for point in chosen],
        "recommended": best and best.to_json(),
    }
    confidences = answer_confidences(raw, body, new)
    if confidences is not None:
        body["confidences"] = Confidences.of(confidences).to_json()
    return Recalibrated(
        body,
        full,
        before,
        new,
        _measured(_curve(before, earlier, raw, yardstick), full),
        _measured(_curve(new, calibrator, raw, yardstick), full),
        _held_out(raw, yardstick, rules, asked, whole),
    )


def _calibrated(
    raw: ExitOutputs, yardstick: Yardstick, rules: Mapping[str, ExitRule], asked: Goal
) -> tuple[Calibrator, list[OperatingPoint]]:
    calibrator = fit_calibrator(raw, yardstick.kind, temperature=True)
    return calibrator, choose_points(
        rules, calibrate(raw, calibrator), yardstick, asked, THRESHOLDS, full=raw
    )


def _curve(setting: Setting, calibrator: Calibrator, raw: ExitOutputs, yardstick: Yardstick) -> Curve:
    """Return the curve of a single threshold."""
    threshold = len(raw.exits) - 1.0 if setting.threshold is None else setting.threshold
    return sweep(load_rule(setting.rule), calibrate(raw, calibrator), yardstick, np.array([threshold]))


def _measured(curve: Curve, full: float) -> Measured:
    seen = curve.seen(0)
    return Measured(seen.quality, 100 * (full - seen.quality), seen.layers_speedup, seen.flops_speedup)


def _held_out(
    raw: ExitOutputs, yardstick: Yardstick, rules: Mapping[str, ExitRule], asked: Goal, whole: Setting
) -> Measured:
    """Answer each half of the rows, drawn once, with what the other half chose."""
    order = np.random.default_rng(0).permutation(len(raw.labels))
    halves = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    predictions = np.empty(len(order), dtype=np.float64)
    layers, spent = np.empty(len(order)), np.zeros(len(order))
    for fitting, answering in (halves, halves[::-1]):
        calibrator, points = _calibrated(raw.take(fitting), _take(yardstick, fitting), rules, asked)
        best = recommend(points)
        setting = whole if best is None else best.setting
        there = _take(yardstick, answering)
        curve = _curve(setting, calibrator, raw.take(answering), there)
        predictions[answering] = curve.predictions[0]
        layers[answering] = np.asarray(raw.layers_cost)[curve.exits[0]]
        flops = there.flops_under(load_rule(setting.rule))
        if flops is not None:
            spent[answering] = flops[np.arange(len(answering)), curve.exits[0]]
    found = quality(yardstick.metric, predictions, raw.labels, yardstick.num_classes)
    fewer = None if yardstick.full_flops is None else float(flops_speedup(yardstick.full_flops, spent))
    loss = 100 * (full_quality(raw, yardstick) - float(found))
    return Measured(float(found), loss, float(layers_speedup(yardstick.num_layers, layers)), fewer)


def _take(yardstick: Yardstick, rows: np.ndarray) -> Yardstick:
    """Return the yardstick of some rows, by their indices."""
    if yardstick.full_flops is None or yardstick.flops is None:
        return yardstick
    return replace(yardstick, full_flops=yardstick.full_flops[rows], flops=yardstick.flops[rows])
