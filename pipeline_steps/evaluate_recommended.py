r"""Measure and time what was recommended, that very model at that threshold, on the reported split.

Its loss is against the full model of the same seed, which answers where nothing faster is recommended. Also looks whether
the reported texts are like those of the calibration split: where they are not, no promise can hold (`selection.drift`).

    python pipeline_steps/evaluate_recommended.py --task tiers --backbone minilm --seed 0
    python pipeline_steps/evaluate_recommended.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --methods runs/tiers/tiny/seed0 --choice choice --timings /tmp/timings.json --out /tmp/evaluation
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Measure, time, write."""
    from adaptive_inference.calibration.answers import Answers
    from adaptive_inference.calibration.calibrator import Calibrator
    from adaptive_inference.calibration.curves import calibrate
    from adaptive_inference.calibration.operating_point import Goal, OperatingPoint
    from adaptive_inference.engine import Engine
    from adaptive_inference.evaluation.candidate import Candidate
    from adaptive_inference.evaluation.points import sweep_point
    from adaptive_inference.evaluation.statistics import loss_in_points
    from adaptive_inference.evaluation.wallclock import WallClock, time_points
    from adaptive_inference.exit_rules import load_rules
    from adaptive_inference.exits import load_model
    from adaptive_inference.exits.outputs import pick_device
    from adaptive_inference.files import read_json
    from adaptive_inference.selection.drift import two_sample_test
    from adaptive_inference.tasks.encode import encode
    from adaptive_inference.tasks.quality import predict, quality
    from adaptive_inference.tasks.schema import load_schema, load_split
    from adaptive_pipeline.runs.environment import environment
    from adaptive_pipeline.runs.records import Drift, RecommendationRecord

    params, seed, protocol = stage.params, stage.cell.seed, stage.params.evaluation
    choice = RecommendationRecord.load(stage.inputs["choice"]).offer
    device = pick_device(params.runtime.device)
    model_of = choice.method or "full"
    folder = stage.inputs["methods"] / model_of
    full = Answers.load(stage.inputs["methods"] / "full/answers/evaluation.safetensors")
    answers = Answers.load(folder / "answers/evaluation.safetensors")
    answers.check_full(full)
    stage.add_input("full", stage.inputs["methods"] / "full/train/model")
    stage.add_input("model", folder / "train/model")
    data = stage.add_input("data", stage.inputs["methods"] / "data/splits")
    load_rules(params.method(model_of).rules)  # code of one's own, too; before the code's digest is taken
    baseline = Engine(load_model(stage.inputs["full"]).to(device), "fixed")
    record = stage.begin("evaluation", "runtime", "goal", made_from=answers.made_from)
    raw, yardstick = answers.outputs, answers.yardstick
    whole = predict(full.outputs.logits[:, -1], yardstick.kind)
    score = quality(yardstick.metric, whole, raw.labels, yardstick.num_classes)
    record.metric, record.rows, record.full_quality = yardstick.metric, len(raw.labels), score
    seen_before = Answers.load(folder / "answers/calibration.safetensors")
    if params.calibration.calibrate_on == "calibration":  # else the reported rows are those calibrated on
        found = two_sample_test(seen_before.outputs, raw, yardstick.kind, seed)
        record.drift = None if found is None else Drift(**found)
    stage.timings |= {"environment": environment(device.type)}
    if choice.setting is None:
        record.quality, record.loss, record.layers_speedup, record.flops_speedup = score, 0.0, 1.0, 1.0
        record.metrics |= {"quality": score, "loss": 0.0, "layers_speedup": 1.0, "flops_speedup": 1.0}
        return

    calibrator = Calibrator.from_json(read_json(folder / "calibration/calibration.json"))
    model = load_model(stage.inputs["model"]).to(device)
    own = Candidate(model_of, model, calibrate(raw, calibrator), calibrator, yardstick)
    goal = Goal("max_loss", params.goal.max_loss, params.goal.cost)
    point = OperatingPoint(goal, choice.setting, True, choice.seen)
    who = own.answering(point)
    curve = sweep_point(point, who)
    seen = curve.seen(0)

    record.method, record.setting = who.method, choice.setting
    record.quality = seen.quality
    record.loss, record.low, record.high = loss_in_points(
        yardstick.metric,
        whole,
        curve.predictions[0],
        raw.labels,
        yardstick.num_classes,
        protocol.bootstrap,
        seed,
    )
    record.layers_speedup, record.flops_speedup = seen.layers_speedup, seen.flops_speedup
    names = ("quality", "loss", "layers_speedup", "flops_speedup")
    record.metrics |= {name: getattr(record, name) for name in names}
    if seed in protocol.timed_seeds:
        schema = load_schema(data)
        features = encode(load_split(data, "evaluation"), model.tokenizer, schema.max_length)
        clock = WallClock(baseline, features, protocol, seed)
        rows, agreement = time_points(clock, [(point, who)], Engine)
        stage.timings |= {"rows": rows, "goals": {"wallclock_speedup": rows[0]["wallclock_speedup"]}}
        counts = ("rows", "near_threshold", "differing")
        record.agreement = {name: agreement[0][name] for name in counts}


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("methods", "choice"), timings=True)
