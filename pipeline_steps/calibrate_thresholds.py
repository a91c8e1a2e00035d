r"""Fit temperatures and certainty ranges, and choose operating points, on the calibration split.

One full-depth pass of the method's model (and one of the full model, whose quality is the yardstick) gives all exits'
logits; everything else is computed from them. Writes ``calibration.json``, which a saved model reads, the answers of all
exits, and the record. Nothing here sees the reported split, unless ``calibration.calibrate_on: evaluation`` says so; then
both files say it.

    python pipeline_steps/calibrate_thresholds.py --task tiers --backbone minilm --seed 0 --method sweet \
        --data runs/tiers/minilm/seed0/data/splits --full runs/tiers/minilm/seed0/full/train/model \
        --model runs/tiers/minilm/seed0/sweet/train/model --out runs/tiers/minilm/seed0/sweet/calibration
    python pipeline_steps/calibrate_thresholds.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method full --data splits --full full/model --model full/model --out /tmp/calibration
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Fit, choose, write."""
    from adaptive_inference.calibration.answers import ANSWERS_FILE, save_answers
    from adaptive_inference.calibration.choose import choose_points, full_point, full_quality, static_points
    from adaptive_inference.calibration.curves import Yardstick, calibrate
    from adaptive_inference.calibration.fit import fit_calibrator, reliability_by_exit
    from adaptive_inference.calibration.operating_points import recommend
    from adaptive_inference.calibration.risk_control import set_apart
    from adaptive_inference.exit_rules import load_rule, load_rules
    from adaptive_inference.exits import load_model
    from adaptive_inference.exits.outputs import collect_outputs, pick_device
    from adaptive_inference.files import write_json
    from adaptive_inference.tasks.encode import encode
    from adaptive_inference.tasks.schema import load_schema, load_split

    params, method, data, goal = stage.params, stage.cell.method, stage.inputs["data"], stage.params.goal
    rules, _ = (
        load_rules(params.method(method).rules),
        load_rule("fixed"),
    )  # before the code's digest is taken
    device = pick_device(params.runtime.device)
    full = load_model(stage.inputs["full"]).to(device)
    model = full if method == "full" else load_model(stage.inputs["model"]).to(device)
    record = stage.begin("calibration", "goal", f"methods.{method}.rules", "evaluation.batch_size", "runtime")
    schema, split = load_schema(data), load_split(data, params.calibration.calibrate_on)
    fitting, certifying = set_apart(len(split), schema.kind, goal.risk, stage.cell.seed)
    features, batch_size = encode(split, model.tokenizer, schema.max_length), params.evaluation.batch_size
    raw = collect_outputs(model, features, batch_size)
    reference = raw if model is full else collect_outputs(full, features, batch_size)
    yardstick = Yardstick.of(schema, full, model, raw)
    save_answers(stage.out / ANSWERS_FILE, raw, yardstick)

    fitted_on = raw if fitting is None else raw.take(fitting)
    calibrator = fit_calibrator(fitted_on, schema.kind, params.calibration.temperature)
    outputs = calibrate(raw, calibrator)
    before, after = (reliability_by_exit(item, schema.kind) for item in (raw, outputs))
    if model is full:
        points = [full_point(reference, yardstick, goal)]
    else:
        count = params.calibration.thresholds
        points = choose_points(rules, outputs, yardstick, goal, count, reference, certifying)
    if hasattr(model, "members"):
        points += static_points(outputs, yardstick, goal, reference)
    recommended, quality = recommend(points), full_quality(reference, yardstick)
    body = {
        "temperatures": calibrator.temperatures,
        "certainty_min": calibrator.certainty_min,
        "certainty_max": calibrator.certainty_max,
        "reliability": {"before": before, "after": after},
        "full_quality": quality,
        "num_layers": yardstick.num_layers,
        "exits": model.exits,
        "calibrated_on": params.calibration.calibrate_on,
        "rows": len(split),
        "cost": goal.cost,
        "operating_points": [point.to_json() for point in points],
        "recommended": recommended and recommended.to_json(),
    }
    write_json(stage.out / "calibration.json", body)
    record.calibrated_on, record.reliability = params.calibration.calibrate_on, body["reliability"]
    record.operating_points, record.recommended = points, recommended
    record.metrics |= {"calibration_rows": len(split), "full_quality": quality}
    for k, layer in enumerate(model.exits):
        if before:  # scores have no temperature, and no confidence that could be reliable
            record.metrics[f"exit{layer}_temperature"] = calibrator.temperatures[k]
            record.metrics[f"exit{layer}_ece_before"] = before[k]["ece"]
            record.metrics[f"exit{layer}_ece_after"] = after[k]["ece"]


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("data", "full", "model"), per_method=True)
