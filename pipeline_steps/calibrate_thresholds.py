r"""Fit temperatures and certainty ranges, and choose operating points, on the calibration split.

One full-depth pass of the method's model (and one of the full model, whose quality is the yardstick) gives all exits'
logits; everything else is computed from them. Writes ``calibration.json``, which a saved model reads, and the record.
Nothing here sees the reported split, unless ``calibration.calibrate_on: evaluation`` says so; then both files say it.

    python pipeline_steps/calibrate_thresholds.py --task tiers --backbone minilm --seed 0 --method sweet \
        --data runs/tiers/minilm/seed0/data/splits --full runs/tiers/minilm/seed0/full/train/model \
        --model runs/tiers/minilm/seed0/sweet/train/model --out runs/tiers/minilm/seed0/sweet/calibration
    python pipeline_steps/calibrate_thresholds.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method full --data splits --full full/model --model full/model --out /tmp/calibration
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from adaptive_pipeline.stage import Stage, run_stage

if TYPE_CHECKING:
    import numpy as np

    from adaptive_inference.calibration.curves import Yardstick
    from adaptive_inference.exit_rules import ExitRule
    from adaptive_inference.exits.outputs import ExitOutputs
    from adaptive_inference.settings.protocol import Risk

logger = logging.getLogger("adaptive_inference")


def main(stage: Stage) -> None:
    """Fit, choose, write."""
    from adaptive_inference.calibration.curves import Yardstick, calibrate, exit_quality
    from adaptive_inference.calibration.fit import fit_calibrator, reliability_by_exit
    from adaptive_inference.calibration.operating_points import recommend, static_points
    from adaptive_inference.calibration.risk_control import check_kind, halves
    from adaptive_inference.exit_rules import load_rule, load_rules
    from adaptive_inference.exits import load_model
    from adaptive_inference.exits.outputs import collect_outputs, pick_device
    from adaptive_inference.files import write_json
    from adaptive_inference.tasks.encode import encode
    from adaptive_inference.tasks.schema import load_schema, load_split

    params, method, data = stage.params, stage.cell.method, stage.inputs["data"]
    names = params.method(method).rules
    rules, full_depth = load_rules(names), load_rule("fixed")
    device = pick_device(params.runtime.device)
    full = load_model(stage.inputs["full"]).to(device)
    model = full if method == "full" else load_model(stage.inputs["model"]).to(device)
    record = stage.begin("calibration", "goal", f"methods.{method}.rules", "evaluation.batch_size", "runtime")
    schema, split = load_schema(data), load_split(data, params.calibration.calibrate_on)
    fitting = certifying = None
    if params.goal.risk:  # nothing that decides a prediction may have seen the rows that certify
        check_kind(schema.kind)
        warn_of_few(len(split), params.goal.risk)
        fitting, certifying = halves(len(split), stage.cell.seed)
    features, batch_size = encode(split, model.tokenizer, schema.max_length), params.evaluation.batch_size
    raw = collect_outputs(model, features, batch_size)
    yardstick = Yardstick(schema.metric, schema.kind, schema.outputs, full.exits[-1])
    reference = raw if model is full else collect_outputs(full, features, batch_size)
    full_quality = exit_quality(reference, yardstick)[-1]["quality"]

    fitted_on = raw if fitting is None else raw.take(fitting)
    calibrator = fit_calibrator(fitted_on, schema.kind, params.calibration.temperature)
    outputs = calibrate(raw, calibrator)
    before, after = (reliability_by_exit(item, schema.kind) for item in (raw, outputs))
    points = choose_points(stage, rules, outputs, yardstick, full_quality, reference, certifying)
    if hasattr(model, "members"):
        alone = [item["quality"] for item in exit_quality(outputs, yardstick)]
        points += static_points(model.exits, alone, yardstick.num_layers, full_quality, params.goal.max_loss)
    own = [p for p in points if "method" not in p and rules.get(p["rule"], full_depth).attainable]
    body = {
        "temperatures": calibrator.temperatures,
        "certainty_min": calibrator.certainty_min,
        "certainty_max": calibrator.certainty_max,
        "reliability": {"before": before, "after": after},
        "full_quality": full_quality,
        "num_layers": yardstick.num_layers,
        "exits": model.exits,
        "calibrated_on": params.calibration.calibrate_on,
        "rows": len(split),
        "operating_points": points,
        "recommended": recommend(own, len(model.exits)),
    }
    write_json(stage.out / "calibration.json", body)
    record.metrics |= {"calibration_rows": len(split), "full_quality": full_quality}
    for k, layer in enumerate(model.exits):
        if before:  # scores have no temperature, and no confidence that could be reliable
            record.metrics[f"exit{layer}_temperature"] = calibrator.temperatures[k]
            record.metrics[f"exit{layer}_ece_before"] = before[k]["ece"]
            record.metrics[f"exit{layer}_ece_after"] = after[k]["ece"]
    record.details = {
        key: body[key] for key in ("calibrated_on", "operating_points", "recommended", "reliability")
    }


def choose_points(
    stage: Stage,
    rules: dict[str, ExitRule],
    outputs: ExitOutputs,
    yardstick: Yardstick,
    full_quality: float,
    full: ExitOutputs,
    certifying: np.ndarray | None,
) -> list[dict[str, Any]]:
    """Return one operating point per rule and goal; the full model, and a model of one exit that is fixed, have one.

    ``full`` are the full model's outputs on the same rows, ``certifying`` the rows that certify a risk, if one is asked for.
    """
    from adaptive_inference.calibration.curves import sweep_all
    from adaptive_inference.calibration.operating_points import choose, point, risk_point, whole_point
    from adaptive_inference.calibration.risk_control import LOSSES

    if stage.cell.method == "full":
        return [point("full", "fixed", len(outputs.exits) - 1, full_quality, 1.0, True)]
    goal, points = stage.params.goal, []
    for name, curve in sweep_all(rules, outputs, yardstick, stage.params.calibration.thresholds).items():
        columns = (curve.thresholds, curve.quality, curve.layers_speedup)
        if name == "fixed" and len(outputs.exits) == 1:
            quality, speedup = curve.quality[0], curve.layers_speedup[0]
            points.append(whole_point("whole", 0, quality, speedup, full_quality, goal.max_loss))
        else:
            points += choose(name, *columns, full_quality, goal.max_loss, goal.min_speedup)
        if goal.risk and rules[name].attainable:
            full_answers = full.logits[:, -1].argmax(-1)
            losses = LOSSES[goal.risk.loss](curve.predictions, full_answers, outputs.labels)[:, certifying]
            points.append(risk_point(name, *columns, losses, goal.risk.delta, goal.risk.epsilon))
    return points


def warn_of_few(rows: int, risk: Risk) -> None:
    """Say in the log that no threshold can be certified on so few rows; the points will say it again."""
    from adaptive_inference.calibration.risk_control import check_rows
    from adaptive_inference.errors import UserError

    try:
        check_rows(rows, risk.delta, risk.epsilon)
    except UserError as error:
        logger.warning("no threshold will qualify: %s", error)


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("data", "full", "model"), per_method=True)
