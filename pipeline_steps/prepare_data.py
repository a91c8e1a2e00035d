r"""Cut a task into its four splits and describe them.

Reads the rows (generated, a file of data/, or the hub), checks them, draws development, calibration and training rows
from the seed, and writes ``splits/`` (four JSONL files and the schema) with a record of their statistics. Nothing here
depends on the backbone but the token lengths in the record.

    python pipeline_steps/prepare_data.py --task tiers --backbone minilm --seed 0 --data-folder data \
        --out runs/tiers/minilm/seed0/data
    python pipeline_steps/prepare_data.py --params presets/sst2-minilm.yaml --task sst2 --backbone minilm --seed 1 \
        --data-folder data --out /tmp/sst2
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Write the splits, their schema and their statistics."""
    from adaptive_inference.backbones._own_head import check_own_head
    from adaptive_inference.backbones.load import check_fit, load_tokenizer
    from adaptive_inference.data.splits import data_files, make_splits
    from adaptive_inference.data.statistics import describe, shared_texts
    from adaptive_inference.tasks.schema import save_split

    name, folder = stage.cell.task, stage.inputs["data_folder"]
    task, backbone = stage.params.task(name), stage.params.backbone(stage.cell.backbone)
    check_fit(backbone, backbone.exits, name, task.max_length)  # here, before anything trains on these rows
    tokenizer = load_tokenizer(backbone.weights, backbone.revision)
    # the record names the files that this task reads, not all that lies in the folder
    stage.inputs = data_files(task, folder)
    record = stage.begin(f"tasks.{name}", f"backbones.{stage.cell.backbone}")
    schema, splits = make_splits(name, task, folder, stage.cell.seed)
    check_own_head(backbone, name, schema.kind, schema.labels)
    statistics = {split: describe(examples, schema, tokenizer) for split, examples in splits.items()}
    shared = shared_texts(splits)

    out = stage.out / "splits"
    schema.save(out)
    for split, examples in splits.items():
        save_split(out, split, examples)
    for split, body in statistics.items():
        record.metrics |= {
            f"{split}_rows": body["rows"],
            f"{split}_truncated": body["truncated"],
            f"{split}_median_tokens": body["tokens"]["50"],
        }
    record.metrics["shared_texts"] = sum(shared.values())
    record.splits, record.shared_texts, record.task_schema = statistics, shared, schema.to_dict()


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("data_folder",))
