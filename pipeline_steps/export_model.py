r"""Export the full model and the recommended one for ONNX Runtime, in fp32 and int8, and calibrate each export.

So is every other method, as what ``deployments`` of the params asks for.

Each is a folder of graphs that can be stopped at every exit, with its answers to the calibration and the evaluation split
and temperatures fitted on its own answers, since confidences move when weights are rounded. One whose full depth loses more
than ``goal.deployment_loss`` points against the same model in PyTorch is refused: int8 is known to collapse on some models.
What leaving early saves in time is for `choose_deployment` to measure.

The cheapest opponent is trained beside them: a classifier without layers, of the encoder's token embeddings.

    python pipeline_steps/export_model.py --task tiers --backbone minilm --seed 0
    python pipeline_steps/export_model.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --methods runs/tiers/tiny/seed0 --choice choice --out /tmp/deployed
"""

from __future__ import annotations

import shutil

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Export, answer, calibrate, write."""
    from dataclasses import replace

    from adaptive_inference.backbones.packaged import WEIGHT_FILE
    from adaptive_inference.calibration.body import calibration_body
    from adaptive_inference.calibration.choose import choose_points, full_quality
    from adaptive_inference.calibration.curves import calibrate
    from adaptive_inference.calibration.fit import fit_calibrator
    from adaptive_inference.calibration.risk_control import set_apart
    from adaptive_inference.errors import UserError
    from adaptive_inference.exits import MultiExitModel
    from adaptive_inference.exits.deployment import WEIGHTS_KEY
    from adaptive_inference.exits.layout import CALIBRATION_FILE, open_model
    from adaptive_inference.files import write_json
    from adaptive_inference.serving.export import copy_files
    from adaptive_inference.tasks.encode import encode
    from adaptive_inference.tasks.quality import quality
    from adaptive_inference.tasks.schema import load_split
    from adaptive_inference.training.static_embedding import FILE, fit_static_embedding
    from adaptive_pipeline.deployments.at_hand import ONNX, SPLITS, begin, deployables, require_onnx
    from adaptive_pipeline.runs.deployment_records import Exported
    from adaptive_pipeline.runs.records import RecommendationRecord

    require_onnx()
    from adaptive_inference.serving.onnx_export import write_deployment
    from adaptive_inference.serving.onnx_model import OnnxModel

    params, goal, seed = stage.params, stage.params.goal, stage.inputs["methods"]
    choice = RecommendationRecord.load(stage.inputs["choice"])
    models = deployables(seed, choice, params)
    rules = {model.key: model.rules(params) for model in models}  # before the code's digest is taken
    record = begin(stage, models, choice, "calibration", "goal", "deployments", "runtime")
    data = stage.inputs["data"]
    split = params.calibration.calibrate_on
    reference = models[0].answers[split].outputs

    for model in models:
        weights = stage.scratch / "weights" / model.key
        model.write(weights, model.calibration, None)
        for name in (item for item in ONNX if item in model.deployments):
            folder, exported = stage.out / model.key / name, Exported(method=model.key, deployment=name)
            record.models.append(exported)
            try:
                write_deployment(weights, name, folder, everywhere=True)
            except UserError as error:
                exported.why = str(error).replace(f"{weights}", model.key)
                continue
            copy_files(weights, folder, (WEIGHT_FILE, CALIBRATION_FILE))
            graphs = OnnxModel(open_model(folder), params.runtime.threads)
            found = {}
            for part in SPLITS:
                like = model.answers[part]
                features = encode(load_split(data, part), graphs.tokenizer, graphs.schema.max_length)
                found[part] = replace(like, outputs=graphs.collect(features, like.outputs.tiers))
                found[part].save(folder / f"{part}.safetensors")
            exported.quality = full_quality(found[split].outputs, found[split].yardstick)
            whole = model.answers[split]
            exported.loss = 100 * (full_quality(whole.outputs, whole.yardstick) - exported.quality)
            exported.bytes = sum(file.stat().st_size for file in folder.glob("*.onnx"))
            record.metrics[f"{model.key}_{name}_loss"] = exported.loss
            if exported.loss > goal.deployment_loss:
                exported.why = (
                    f"at full depth it loses {exported.loss:.2f} points against PyTorch on the calibration split, more "
                    f"than goal.deployment_loss {goal.deployment_loss:g}"
                )
                shutil.rmtree(folder)
                continue
            raw, yardstick = found[split].outputs, found[split].yardstick
            fitting, certifying = set_apart(len(raw.labels), yardstick.kind, goal.risk, stage.cell.seed)
            fitted_on = raw if fitting is None else raw.take(fitting)
            calibrator = fit_calibrator(fitted_on, yardstick.kind, params.calibration.temperature)
            points = choose_points(
                rules[model.key],
                calibrate(raw, calibrator),
                yardstick,
                goal,
                params.calibration.thresholds,
                reference,
                certifying,
            )
            body = calibration_body(
                raw, calibrator, points, yardstick, reference, cost=goal.cost, calibrated_on=split
            )
            write_json(folder / CALIBRATION_FILE, body | {WEIGHTS_KEY: graphs.deployment.weights})
        shutil.rmtree(weights)

    full, yardstick = MultiExitModel.from_pretrained(models[0].home), models[0].answers[split].yardstick
    rows = {
        name: encode(load_split(data, name), full.tokenizer, full.schema.max_length)
        for name in ("train", "development", split)
    }
    table = full.backbone.model.get_input_embeddings().weight.detach().numpy()
    static = fit_static_embedding(table, rows["train"], rows["development"], full.schema, stage.cell.seed)
    static.save(stage.out)
    said = static.predictions(rows[split], yardstick.kind)
    found = quality(yardstick.metric, said, reference.labels, yardstick.num_classes)
    whole = full_quality(reference, yardstick)
    size = (stage.out / FILE).stat().st_size
    record.models.append(
        Exported(
            method="static_embedding",
            deployment="numpy",
            quality=found,
            loss=100 * (whole - found),
            bytes=size,
        )
    )


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("methods", "choice"))
