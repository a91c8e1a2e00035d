r"""Choose the fastest deployment on this machine of the full model and the recommended one, and time what is chosen.

Candidates are both models in PyTorch and in each export that was not refused, and what `export_model` made of other methods:
by every rule and threshold, and left at each exit as a static model is. What a candidate costs is the mean, over the
calibration rows, of the time that leaving at its exit takes here: the median of some rounds, at batch 1, in one process with
the full PyTorch model. The choice is made as `recommend` makes it, on that cost, or by ``goal.max_latency_ms``. Then every
deployment is measured and timed on the reported split, at its own best setting, as the very folder that would be handed
out; the chosen one is kept in ``model``, unless it is PyTorch's.

The choice depends on the clock, and so does all that this stage writes: it is exempt from byte identity.

    python pipeline_steps/choose_deployment.py --task tiers --backbone minilm --seed 0
    python pipeline_steps/choose_deployment.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --methods runs/tiers/tiny/seed0 --choice choice --deployed deployed --timings /tmp/timings.json --out /tmp/deployment
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adaptive_pipeline.stage import Stage, run_stage

if TYPE_CHECKING:
    import numpy as np


def main(stage: Stage) -> None:
    """Time, choose, time what is chosen, write."""
    import shutil

    import numpy as np

    from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Setting
    from adaptive_inference.evaluation.deployments import differing, time_engines
    from adaptive_inference.evaluation.wallclock import draw_rows
    from adaptive_inference.exits.outputs import pick_device
    from adaptive_inference.tasks.encode import encode
    from adaptive_inference.tasks.schema import load_schema, load_split
    from adaptive_inference.training.static_embedding import StaticEmbedding
    from adaptive_pipeline.deployments.at_hand import all_deployed, begin, deployables, require_onnx
    from adaptive_pipeline.deployments.choice import Chooser
    from adaptive_pipeline.deployments.measure import clock_rows, curve_of, lost, measured
    from adaptive_pipeline.runs.deployment_records import DeployedRow
    from adaptive_pipeline.runs.environment import environment
    from adaptive_pipeline.runs.records import RecommendationRecord

    require_onnx()
    params, seed, folder = stage.params, stage.cell.seed, stage.inputs["methods"]
    goal, protocol, threads = params.goal, params.evaluation, params.runtime.threads
    choice = RecommendationRecord.load(stage.inputs["choice"])
    models = deployables(folder, choice, params)
    rules = {model.key: model.rules(params) for model in models}
    device = pick_device(params.runtime.device)
    deployed = all_deployed(models, stage.inputs["deployed"], device, threads)
    record = begin(stage, models, choice, "calibration", "goal", "evaluation", "deployments", "runtime")
    full, data = deployed[0], stage.inputs["data"]
    schema = load_schema(data)

    def encoded(split: str) -> tuple[list[dict[str, Any]], np.ndarray]:
        features = encode(load_split(data, split), full.runs.tokenizer, schema.max_length)
        return features, draw_rows(len(features), protocol.timed_examples, seed)

    split = params.calibration.calibrate_on
    engines = [item.by_exit() for item in deployed]
    flat = [engine for own in engines for engine in own]
    calibrated_on, rows = encoded(split)
    spent_KRN = time_engines(flat, [calibrated_on[row] for row in rows], protocol, seed) / 1e6
    spent = np.median(spent_KRN, axis=1).mean(1)  # one interrupted round moves nothing
    times = np.split(spent, np.cumsum([len(own) for own in engines])[:-1])
    full_ms = float(times[0][-1])
    relative = [item / full_ms for item in times]
    chooser = Chooser(deployed, relative, rules, split, params.calibration.thresholds, goal, full_ms, seed)
    record.candidates, record.offer = chooser.candidates, chooser.offer()
    record.metric = full.answers[split].yardstick.metric

    evaluated, rows = encoded("evaluation")
    features = [evaluated[row] for row in rows]
    running, keys_of = [], []
    for place, (group, setting) in enumerate(chooser.settings()):
        item, pick = group.item, chooser.pick
        row = DeployedRow(
            method=item.model.key,
            deployment=item.deployment,
            adaptive=group.adaptive,
            setting=setting,
            chosen=pick.group is group if pick else place == 0,
        )
        record.rows.append(row)
        if setting is None:
            continue
        curve = curve_of(item, setting, "evaluation")
        for name, figure in measured(item, curve, full, protocol, seed).items():
            setattr(row, name, figure)
        if item.deployment == "torch":
            engine = item.engine(setting.rule, setting.threshold)
        else:
            seen = curve_of(item, setting, split).seen(0)
            point = OperatingPoint(Goal("max_loss", goal.max_loss, goal.cost), setting, True, seen)
            written, engine = item.written(point, stage.scratch / f"row{place}", threads)
            if row.chosen:
                shutil.copytree(written, stage.out / "model")
        row.differing = differing(engine, features, curve.exits[0, rows], curve.predictions[0, rows])
        running.append(engine)
        keys_of.append((row.method, row.deployment))
    static, whole = StaticEmbedding.load(stage.inputs["deployed"]), Setting("fixed", 0.0)
    figures = lost(static.predictions(evaluated, schema.kind), full, protocol, seed)
    row = DeployedRow(method="static_embedding", deployment="numpy", adaptive=False, setting=whole, **figures)
    record.rows.append(row)
    running.append(static)
    keys_of.append((row.method, row.deployment))
    timed = [row for row in record.rows if row.setting is not None]
    clocks = clock_rows(keys_of, time_engines(running, features, protocol, seed), protocol, seed)
    names = ("method", "deployment", "adaptive", "chosen")
    told = [
        {name: getattr(row, name) for name in names} | clock for row, clock in zip(timed, clocks, strict=True)
    ]
    (chosen,) = (row for row in timed if row.chosen)
    record.metrics |= {"quality": chosen.quality, "loss": chosen.loss}
    stage.timings |= {
        "environment": environment(device.type),
        "full_ms": full_ms,
        "latency": [
            {"method": item.model.key, "deployment": item.deployment, "ms": own.tolist()}
            for item, own in zip(deployed, times, strict=True)
        ],
        "rows": told,
        "goals": {"wallclock_speedup": told[timed.index(chosen)]["wallclock_speedup"]},
    }


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("methods", "choice", "deployed"), timings=True)
