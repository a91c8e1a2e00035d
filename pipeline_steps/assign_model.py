r"""Note which trained model a method of decoding runs: that of its training, by the model's digest.

Several methods share a training. DVC cannot say in `dvc.yaml` whose model a method needs, so this stage depends on all
trainings of the seed, and writes `model.json` for one method. It changes only when the method's own model does: what decodes
depends on it, and stays as it is when another training or another method comes.

Examples::

    python pipeline_steps/assign_model.py --task transduce --model t5_small --seed 0 --method free
    python pipeline_steps/assign_model.py --params presets/smoke.yaml --task transduce --model t5_tiny --seed 0 \
        --method free_verify --trainings runs/transduce/t5_tiny/seed0/trainings --out /tmp/free_verify/assigned
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Look the model up, write its digest."""
    from adaptive_inference.files import write_json

    method = stage.cell.method
    training = stage.params.generation.methods[method].training
    stage.add_input("model", stage.inputs["trainings"] / training / "train/model")
    record = stage.begin(f"generation.methods.{method}.training")
    write_json(stage.out / "model.json", {"training": training, "digest": record.inputs["model"]})
    record.training = training


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("trainings",), per_method=True, texts=True)
