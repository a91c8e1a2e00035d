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
from adaptive_pipeline.training_stage import recipe_of, take_timings, training_keys


def main(stage: Stage) -> None:
    """Train the members one after the other and save them as one model."""
    from adaptive_inference.backbones.load import load_tokenizer
    from adaptive_inference.exits import MultiExitModel, MultiModel
    from adaptive_inference.files import write_jsonl
    from adaptive_inference.objectives import load_objective
    from adaptive_inference.training.members import MemberTrainer
    from adaptive_inference.training.rows import Rows
    from adaptive_pipeline.runs.records import Member

    backbone, recipe = stage.params.backbone(stage.cell.backbone), recipe_of(stage, stage.cell.method)
    objective = load_objective(recipe.method.objective, recipe.method)
    full = MultiExitModel.from_pretrained(stage.inputs["full"])
    tokenizer = load_tokenizer(backbone.weights, backbone.revision)
    rows = Rows.load(stage.inputs["data"], recipe.schema, tokenizer)
    record = stage.begin(*training_keys(stage.cell))

    trainer = MemberTrainer(
        backbone, objective, rows, recipe, stage.scratch, stage.tracker.log, record.record_id
    )
    family = trainer.train_all(backbone.exits, full, recipe_of(stage, "full"))

    MultiModel([member.model for member in family.members]).save_pretrained(stage.out / "model")
    write_jsonl(stage.out / "history.jsonl", family.history)
    record.metrics |= family.metrics
    record.exits, record.rows = list(backbone.exits), rows.lengths(recipe.schema.max_length)
    record.members = [Member(layer=member.layer, steps=member.steps) for member in family.members]
    take_timings(stage, family.timings)


if __name__ == "__main__":
    run_stage(main, __doc__, inputs=("data", "full"), per_method=True, timings=True)
