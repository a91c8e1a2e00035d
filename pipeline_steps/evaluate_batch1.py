r"""Measure a method on the reported split: quality, layers, FLOPs, and batch-1 wall-clock against the full model.

The answers of all exits were collected before (`collect_answers`); every threshold of every rule comes from them. The
operating points were chosen on the calibration split; here they are only measured. On ``evaluation.timed_seeds`` the engine
then runs each point at batch 1, interleaved with the full model in this process, and must stop where the sweep says.

    python pipeline_steps/evaluate_batch1.py --task tiers --backbone minilm --seed 0 --method sweet
    python pipeline_steps/evaluate_batch1.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method full --data splits --full full/model --model full/model --answers full/answers \
        --calibration calibration.json --timings /tmp/timings.json --out /tmp/evaluation
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Sweep, time, write."""
    from adaptive_inference.calibration.answers import Answers
    from adaptive_inference.calibration.calibrator import Calibrator
    from adaptive_inference.calibration.curves import calibrate, exit_quality
    from adaptive_inference.calibration.operating_point import OperatingPoint
    from adaptive_inference.engine import Engine
    from adaptive_inference.evaluation.as_published import speedup_as_published
    from adaptive_inference.evaluation.candidate import Candidate
    from adaptive_inference.evaluation.overhead import nothing_removed
    from adaptive_inference.evaluation.overthinking import overthinking
    from adaptive_inference.evaluation.points import headlines, measure_point
    from adaptive_inference.evaluation.predictions import point_predictions, predictions_text
    from adaptive_inference.evaluation.wallclock import WallClock, time_points
    from adaptive_inference.exit_rules import load_rules
    from adaptive_inference.exits import load_model
    from adaptive_inference.exits.outputs import pick_device
    from adaptive_inference.files import read_json, write_json, write_text
    from adaptive_inference.tasks.encode import encode
    from adaptive_inference.tasks.quality import predict
    from adaptive_inference.tasks.schema import load_schema, load_split
    from adaptive_pipeline.runs.environment import environment
    from adaptive_pipeline.runs.records import Agreement, ExitRow, PointRow

    params, method, seed, data = stage.params, stage.cell.method, stage.cell.seed, stage.inputs["data"]
    protocol = params.evaluation
    rules = load_rules(params.method(method).rules)
    device = pick_device(params.runtime.device)
    full = load_model(stage.inputs["full"]).to(device)
    model = full if method == "full" else load_model(stage.inputs["model"]).to(device)
    baseline = Engine(full, "fixed")  # loads rule and runner by need: before the code's digest is taken
    answers = Answers.load(stage.inputs["answers"] / "evaluation.safetensors")
    keys = ("evaluation", f"methods.{method}.rules", "calibration.thresholds", "runtime")
    record = stage.begin(*keys, made_from=answers.made_from)
    raw, yardstick = answers.outputs, answers.yardstick

    calibration = read_json(stage.inputs["calibration"])
    calibrator = Calibrator.from_json(calibration)
    own = Candidate(method, model, calibrate(raw, calibrator), calibrator, yardstick)
    curves = own.curves(rules, params.calibration.thresholds)
    write_json(stage.out / "curves.json", {name: curve.to_json() for name, curve in curves.items()})
    points = [OperatingPoint.from_json(item) for item in calibration["operating_points"]]
    answering = [(point, own.answering(point)) for point in points]
    schema = load_schema(data)
    features = encode(load_split(data, "evaluation"), model.tokenizer, schema.max_length)
    if raw.survivors is not None:
        answering.append(nothing_removed(own, features, protocol.batch_size))
    predictions = [point_predictions(point, candidate) for point, candidate in answering]
    write_text(stage.out / "predictions.json", predictions_text(own, predictions))

    parameters = full.parameter_count
    rows = [measure_point(*item, parameters, protocol.bootstrap, seed) for item in answering]
    timed, agreement = [], []
    if seed in protocol.timed_seeds:
        clock = WallClock(baseline, features, protocol, seed)
        timed, agreement = time_points(clock, answering, Engine)
    if calibration["recommended"]:
        record.recommended = OperatingPoint.from_json(calibration["recommended"])
    record.metrics, goals = headlines(rows, record.recommended, timed)
    stage.timings |= {"environment": environment(device.type), "rows": timed, "goals": goals}

    published = speedup_as_published(model, features, protocol.batch_size)
    if published is not None:
        record.metrics["published_speedup"] = published
    record.calibrated_on = calibration["calibrated_on"]
    record.rows = [PointRow(**row) for row in rows]
    record.agreement = [Agreement(**item) for item in agreement]
    record.exits = [ExitRow(**item) for item in exit_quality(own.outputs, yardstick)]
    record.metrics |= {f"exit{item.layer}_quality": item.quality for item in record.exits}
    if yardstick.kind == "classification":
        answers_NE = predict(own.outputs.logits, yardstick.kind)
        record.overthinking = overthinking(answers_NE, raw.labels, raw.exits)


if __name__ == "__main__":
    run_stage(
        main,
        __doc__ or "",
        inputs=("data", "full", "model", "answers", "calibration"),
        per_method=True,
        timings=True,
    )
