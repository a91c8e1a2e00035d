r"""Fit temperatures and certainty ranges, and choose operating points, on the calibration split.

Everything is computed from the answers of the method's exits, and of the full model, whose quality is the yardstick. Writes
``calibration.json``, which a saved model reads, the record, and what the method offers to the choice among all
methods (`recommend`): its answers under every rule and threshold. Nothing here sees the reported split, unless
``calibration.calibrate_on: evaluation`` says so; then both files say it.

    python pipeline_steps/calibrate_thresholds.py --task tiers --backbone minilm --seed 0 --method sweet
    python pipeline_steps/calibrate_thresholds.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method full --answers full/answers --full-answers full/answers --out /tmp/calibration
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Fit, choose, write."""
    from adaptive_inference.calibration.answers import Answers
    from adaptive_inference.calibration.body import calibration_body
    from adaptive_inference.calibration.choose import choose_points, full_point, static_points
    from adaptive_inference.calibration.curves import calibrate
    from adaptive_inference.calibration.fit import fit_calibrator
    from adaptive_inference.calibration.operating_points import recommend
    from adaptive_inference.calibration.risk_control import set_apart
    from adaptive_inference.exit_rules import load_rule, load_rules
    from adaptive_inference.files import write_json
    from adaptive_inference.selection.candidates import Candidates
    from adaptive_inference.selection.families import families_of

    params, method, goal = stage.params, stage.cell.method, stage.params.goal
    rules, _ = (
        load_rules(params.method(method).rules),
        load_rule("fixed"),
    )  # before the code's digest is taken
    split = params.calibration.calibrate_on
    file = f"{split}.safetensors"
    answers = Answers.load(stage.inputs["answers"] / file)
    full = Answers.load(stage.inputs["full_answers"] / file)
    answers.check_full(full)
    reference = full.outputs
    record = stage.begin("calibration", "goal", f"methods.{method}.rules", made_from=answers.made_from)
    raw, yardstick, kind = answers.outputs, answers.yardstick, answers.yardstick.kind
    fitting, certifying = set_apart(len(raw.labels), kind, goal.risk, stage.cell.seed)

    fitted_on = raw if fitting is None else raw.take(fitting)
    calibrator = fit_calibrator(fitted_on, kind, params.calibration.temperature)
    outputs = calibrate(raw, calibrator)
    if method == "full":
        points = [full_point(reference, yardstick, goal)]
    else:
        count = params.calibration.thresholds
        points = choose_points(rules, outputs, yardstick, goal, count, reference, certifying)
    if answers.cascade:
        points += static_points(outputs, yardstick, goal, reference)
    offering = {"fixed": load_rule("fixed")} if method == "full" else rules
    families = families_of(offering, outputs, yardstick, params.calibration.thresholds, answers.cascade)
    offered = Candidates(
        method, yardstick.metric, yardstick.num_classes, raw.labels, raw.ids, families, answers.made_from
    )
    offered.save(stage.files["candidates"])
    body = calibration_body(
        raw, calibrator, points, yardstick, reference, cost=goal.cost, calibrated_on=split
    )
    write_json(stage.out / "calibration.json", body)
    record.calibrated_on, record.reliability = split, body["reliability"]
    record.operating_points, record.recommended = points, recommend(points)
    record.metrics |= {"calibration_rows": len(raw.labels), "full_quality": body["full_quality"]}
    before, after = body["reliability"]["before"], body["reliability"]["after"]
    for k, layer in enumerate(raw.exits):
        if before:  # scores have no temperature, and no confidence that could be reliable
            record.metrics[f"exit{layer}_temperature"] = calibrator.temperatures[k]
            record.metrics[f"exit{layer}_ece_before"] = before[k]["ece"]
            record.metrics[f"exit{layer}_ece_after"] = after[k]["ece"]
            record.metrics[f"exit{layer}_failure_auroc"] = after[k]["failure_auroc"]


if __name__ == "__main__":
    run_stage(
        main,
        __doc__ or "",
        inputs=("answers", "full_answers"),
        files=("candidates",),
        per_method=True,
        encoder=False,
    )
