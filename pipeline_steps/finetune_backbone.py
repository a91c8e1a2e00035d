r"""Fine-tune the full model: the whole encoder with one exit after its last layer.

Every speed-up is measured against this model. Reads the splits of a task and writes `model/` (loadable),
`history.jsonl` and `metrics.json`. A killed run resumes when it is started again.

Examples::

    python pipeline_steps/finetune_backbone.py --task tiers --backbone minilm --seed 0 \
        --data runs/tiers/minilm/seed0/data/splits --out runs/tiers/minilm/seed0/full/train \
        --timings runs/tiers/minilm/seed0/full/train_timings.json
    python pipeline_steps/finetune_backbone.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --data runs/tiers/tiny/seed0/data/splits --out /tmp/full/train --timings /tmp/full/train_timings.json
"""

from __future__ import annotations

from dataclasses import replace

from stage import Stage, run_stage
from training_stage import training_keys


def main(stage: Stage) -> None:
    """Train and save."""
    from adaptive_inference.data.task import load_schema
    from adaptive_inference.exits.build import build_model, full_exits
    from adaptive_inference.objectives import load_objective
    from adaptive_inference.records import environment
    from adaptive_inference.training.cell import Rows, parameter_counts, write_history
    from adaptive_inference.training.fit import fit

    stage.cell = cell = replace(stage.cell, method="full")
    params, seed = stage.params, cell.seed
    backbone = params.backbone(cell.backbone)
    training, method = params.training_of(cell.task, "full")

    schema = load_schema(stage.inputs["data"])
    objective = load_objective(method.objective, method)
    model = build_model(backbone, schema, seed, objective.needs_certainty, exits=full_exits(backbone))
    rows = Rows.load(stage.inputs["data"], schema, model.tokenizer)
    record = stage.begin(*training_keys(cell))

    result = fit(
        model,
        objective,
        rows.train,
        rows.development,
        schema,
        training,
        method,
        params.runtime,
        seed,
        stage.scratch,
        on_log=stage.tracker.log,
        identity=record.record_id,
    )

    model.save_pretrained(stage.out / "model")
    write_history(stage.out, result.history)
    record.metrics |= result.metrics | parameter_counts(model)
    record.details |= {"exits": list(model.exits), "steps": result.steps, "rows": rows.details}
    stage.timings |= result.timings | {"environment": environment()}


if __name__ == "__main__":
    run_stage(main, __doc__, inputs=("data",), timings=True)
