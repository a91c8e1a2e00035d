r"""Train a multi-model: for each exit layer k a model of its own, the first k layers and one head, fine-tuned alone.

Its members are the static first-k-layers baselines too. When the last exit is the encoder's last layer and the method
trains as `full` does, the full model is that member and is copied instead of trained twice. Reads the splits of a task
and the full model; writes `model/` (loadable), `history.jsonl` and `metrics.json`. A killed run resumes when it is
started again; members that were finished are kept.

Examples::

    python pipeline_steps/train_multi_model.py --task tiers --backbone minilm --seed 0 --method multi_model \
        --data runs/tiers/minilm/seed0/data/splits --full runs/tiers/minilm/seed0/full/train/model \
        --out runs/tiers/minilm/seed0/multi_model/train \
        --timings runs/tiers/minilm/seed0/multi_model/train_timings.json
    python pipeline_steps/train_multi_model.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method multi_model --data runs/tiers/tiny/seed0/data/splits --full runs/tiers/tiny/seed0/full/train/model \
        --out /tmp/multi_model/train --timings /tmp/multi_model/train_timings.json
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage
from adaptive_pipeline.training_stage import training_keys


def main(stage: Stage) -> None:
    """Train the members one after the other and save them as one model."""
    from adaptive_inference.exits import MultiExitModel, MultiModel
    from adaptive_inference.exits.outputs import pick_device
    from adaptive_inference.objectives import load_objective
    from adaptive_inference.tasks.schema import load_schema
    from adaptive_inference.training.cell import write_history
    from adaptive_inference.training.members import MemberTrainer
    from adaptive_pipeline.runs.environment import environment

    params, cell = stage.params, stage.cell
    backbone = params.backbone(cell.backbone)
    training, method = params.training_of(cell.task, cell.method)
    as_full, full = params.training_of(cell.task, "full")

    schema = load_schema(stage.inputs["data"])
    objective = load_objective(method.objective, method)
    full_model = MultiExitModel.from_pretrained(stage.inputs["full"])
    trains_as_full = training == as_full and method.objective == full.objective
    record = stage.begin(*training_keys(cell))

    trainer = MemberTrainer(
        backbone,
        objective,
        schema,
        training,
        method,
        params.runtime,
        cell.seed,
        stage.inputs["data"],
        stage.scratch,
        stage.tracker.log,
        identity=record.record_id,
    )
    members = []
    for layer in backbone.exits:
        is_full = trains_as_full and full_model.exits == (layer,)
        members.append(trainer.copy(full_model) if is_full else trainer.train(layer))

    MultiModel([member.model for member in members]).save_pretrained(stage.out / "model")
    write_history(stage.out, [row for member in members for row in member.history])
    for member in members:
        record.metrics |= member.metrics
        record.details[f"member{member.layer}"] = member.details
    parameters = sum(item.numel() for member in members for item in member.model.parameters())
    full_parameters = sum(item.numel() for item in full_model.parameters())
    record.metrics |= {"parameters": parameters, "added_parameters": parameters - full_parameters}
    record.details |= {"exits": list(backbone.exits), "rows": trainer.rows.details}
    seconds, steps = (sum(getattr(member, name) for member in members) for name in ("seconds", "steps_run"))
    stage.timings |= {
        "environment": environment(pick_device(params.runtime.device).type),
        "seconds": seconds,
        "steps_per_second": steps / max(seconds, 1e-9),
    }
    stage.timings["members"] = {str(member.layer): member.seconds for member in members if member.seconds}


if __name__ == "__main__":
    run_stage(main, __doc__, inputs=("data", "full"), per_method=True, timings=True)
