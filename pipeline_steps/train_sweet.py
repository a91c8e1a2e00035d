r"""Train one encoder with exits after several layers: early exit (EE), SWEET, or learning to exit (LTE).

Which of them is said by the method's section: `objective` and `gradient`. Reads the splits of a task and writes
`model/` (loadable), `history.jsonl` and `metrics.json`. A killed run resumes when it is started again.

Examples::

    python pipeline_steps/train_sweet.py --task tiers --backbone minilm --seed 0 --method sweet \
        --data runs/tiers/minilm/seed0/data/splits --out runs/tiers/minilm/seed0/sweet/train \
        --timings runs/tiers/minilm/seed0/sweet/train_timings.json
    python pipeline_steps/train_sweet.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method early_exit --data runs/tiers/tiny/seed0/data/splits \
        --out /tmp/early_exit/train --timings /tmp/early_exit/train_timings.json
"""

from __future__ import annotations

from stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Train and save."""
    from adaptive_inference.data.task import load_schema
    from adaptive_inference.exits.build import build_model
    from adaptive_inference.objectives import load_objective
    from adaptive_inference.records import environment
    from adaptive_inference.training.cell import Rows, parameter_counts, write_history
    from adaptive_inference.training.fit import fit

    params, cell = stage.params, stage.cell
    backbone, method = params.backbone(cell.backbone), params.method(cell.method).train

    schema = load_schema(stage.inputs["data"])
    objective = load_objective(method.objective, method)
    model = build_model(backbone, schema, cell.seed, objective.needs_certainty)
    rows = Rows.load(stage.inputs["data"], schema, model.tokenizer)
    record = stage.begin("training", f"methods.{cell.method}.train", f"backbones.{cell.backbone}", "runtime")

    result = fit(
        model,
        objective,
        rows.train,
        rows.development,
        schema,
        params.training_of(cell.method),
        method,
        params.runtime,
        cell.seed,
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
    run_stage(main, __doc__, inputs=("data",), per_method=True, timings=True)
