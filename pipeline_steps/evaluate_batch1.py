r"""Measure a method on the reported split: quality, layers, FLOPs, and batch-1 wall-clock against the full model.

All exits' logits are computed once; every threshold of every rule comes from them. The operating points were chosen on
the calibration split; here they are only measured. On ``evaluation.timed_seeds`` the engine then runs each point at
batch 1, interleaved with the full model in this process, and must stop where the offline sweep says.

    python pipeline_steps/evaluate_batch1.py --task tiers --backbone minilm --seed 0 --method sweet \
        --data runs/tiers/minilm/seed0/data/splits --full runs/tiers/minilm/seed0/full/train/model \
        --model runs/tiers/minilm/seed0/sweet/train/model --timings runs/tiers/minilm/seed0/sweet/timings.json \
        --calibration runs/tiers/minilm/seed0/sweet/calibration/calibration.json \
        --out runs/tiers/minilm/seed0/sweet/evaluation
    python pipeline_steps/evaluate_batch1.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method full --data splits --full full/model --model full/model --calibration calibration.json \
        --timings /tmp/timings.json --out /tmp/evaluation
"""

from __future__ import annotations

from typing import Any

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Collect, sweep, time, write."""
    from adaptive_inference.calibration.calibrator import Calibrator
    from adaptive_inference.calibration.curves import Yardstick, calibrate, exit_quality
    from adaptive_inference.cost.flops import flops_by_exit, parameter_count
    from adaptive_inference.evaluation.candidate import Candidate
    from adaptive_inference.evaluation.overthinking import overthinking
    from adaptive_inference.evaluation.points import measure_point
    from adaptive_inference.evaluation.predictions import point_predictions, predictions_text
    from adaptive_inference.evaluation.wallclock import WallClock
    from adaptive_inference.exit_rules import load_rule, load_rules
    from adaptive_inference.exits import load_model
    from adaptive_inference.exits.outputs import collect_outputs, pick_device
    from adaptive_inference.files import read_json, write_json, write_text
    from adaptive_inference.tasks.encode import encode
    from adaptive_inference.tasks.quality import predict
    from adaptive_inference.tasks.schema import load_schema, load_split
    from adaptive_pipeline.runs.environment import environment

    params, method, seed, data = stage.params, stage.cell.method, stage.cell.seed, stage.inputs["data"]
    names, protocol = params.method(method).rules, params.evaluation
    rules = load_rules(names) | {"fixed": load_rule("fixed")}  # before the code's digest is taken
    device = pick_device(params.runtime.device)
    full = load_model(stage.inputs["full"]).to(device)
    model = full if method == "full" else load_model(stage.inputs["model"]).to(device)
    record = stage.begin("evaluation", f"methods.{method}.rules", "calibration.thresholds", "runtime")
    schema, split = load_schema(data), load_split(data, "evaluation")
    features = encode(split, model.tokenizer, schema.max_length)
    calibration = read_json(stage.inputs["calibration"])
    calibrator = Calibrator.from_json(calibration)
    outputs = calibrate(collect_outputs(model, features, protocol.batch_size, split.tiers), calibrator)

    full_flops = flops_by_exit(full, outputs.lengths)[:, -1]
    base = Yardstick(schema.metric, schema.kind, schema.outputs, full.exits[-1], full_flops)
    own = Candidate(method, model, outputs, calibrator, base)
    curves = own.curves(names, params.calibration.thresholds)
    write_json(stage.out / "curves.json", {name: curve.to_json() for name, curve in curves.items()})

    rows, answers, timed, agreements, timeable = [], [], [], [], {}
    for point in calibration["operating_points"]:
        candidate = own.answering(point)
        rows.append(measure_point(point, candidate, parameter_count(full), protocol.bootstrap, seed))
        answers.append(point_predictions(point, candidate))
        if point["threshold"] is not None and rules[point["rule"]].attainable:
            same = (candidate.method, point["rule"], point["threshold"])  # two goals may choose one threshold
            timeable.setdefault(same, []).append((point, candidate))
    if timeable and seed in protocol.timed_seeds:
        clock = WallClock(full, features, protocol, seed)
        measured = clock.measure([alike[0] for alike in timeable.values()])
        for (same, alike), (timing, agreement) in zip(timeable.items(), measured, strict=True):
            for point, _ in alike:
                key = dict(zip(("method", "rule", "threshold"), same, strict=True))
                key["operating_point"] = point["name"]
                timed.append(key | timing)
                agreements.append(key | agreement)
    write_text(stage.out / "predictions.json", predictions_text(own, answers))
    stage.timings |= {"environment": environment(device.type), "rows": timed}

    record.details = {"rows": rows, "engine_agreement": agreements}
    record.details["exits"] = exit_quality(outputs, own.yardstick(rules["fixed"]))
    if schema.kind == "classification":
        answers_NE = predict(outputs.logits, schema.kind)
        record.details["overthinking"] = overthinking(answers_NE, outputs.labels, outputs.exits)
    record.details |= {key: calibration["recommended"][key] for key in ("rule", "operating_point")}
    record.details["calibrated_on"] = calibration["calibrated_on"]
    record.metrics = headline(rows, method, calibration["recommended"])
    record.metrics |= {f"exit{item['layer']}_quality": item["quality"] for item in record.details["exits"]}


def headline(rows: list[dict[str, Any]], method: str, recommended: dict[str, Any]) -> dict[str, float | None]:
    """Return the figures of the recommended operating point; null where no threshold keeps the quality."""
    wanted = method, recommended["rule"], recommended["operating_point"]
    found = (row for row in rows if (row["method"], row["rule"], row["operating_point"]) == wanted)
    row = next(found, {})
    return {name: row.get(name) for name in ("quality", "layers_speedup", "flops_speedup")}


if __name__ == "__main__":
    run_stage(
        main, __doc__ or "", inputs=("data", "full", "model", "calibration"), per_method=True, timings=True
    )
