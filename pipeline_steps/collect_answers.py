r"""Run a method's model once over the calibration and the reported split, and keep every exit's answers to every row.

All that is calibrated, chosen and swept afterwards comes from these answers; no model is loaded for it again. Writes
``calibration.safetensors`` and ``evaluation.safetensors``: logits, certainties, labels, ids, lengths and FLOPs, no texts.
Nothing is timed here, so this stage runs beside others; `evaluate_batch1` times some rows with the machine to itself.

    python pipeline_steps/collect_answers.py --task tiers --backbone minilm --seed 0 --method sweet
    python pipeline_steps/collect_answers.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method full --data splits --full full/model --model full/model --out /tmp/answers
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Answer both splits, write."""
    from adaptive_inference.calibration.answers import Answers
    from adaptive_inference.cost.yardstick import Yardstick
    from adaptive_inference.exits import load_model
    from adaptive_inference.exits.outputs import collect_outputs, pick_device
    from adaptive_inference.tasks.encode import encode
    from adaptive_inference.tasks.schema import load_schema, load_split

    device, data = pick_device(stage.params.runtime.device), stage.inputs["data"]
    full = load_model(stage.inputs["full"]).to(device)
    model = full if stage.cell.method == "full" else load_model(stage.inputs["model"]).to(device)
    record, schema = stage.begin("evaluation.batch_size", "runtime"), load_schema(data)
    made_from = record.inputs | {"collect_answers": record.record_id}
    for name in ("calibration", "evaluation"):
        split = load_split(data, name)
        features = encode(split, model.tokenizer, schema.max_length)
        outputs = collect_outputs(model, features, stage.params.evaluation.batch_size, split.tiers)
        yardstick = Yardstick.of(schema, full, model, outputs)
        answers = Answers(outputs, yardstick, hasattr(model, "members"), made_from)
        answers.save(stage.out / f"{name}.safetensors")
        record.metrics[f"{name}_rows"] = len(split)


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("data", "full", "model"), per_method=True)
