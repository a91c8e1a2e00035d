r"""Cut a task that writes text into its four splits, and train or take the tokenizer.

Reads the pairs of texts (generated, files of data/, or the hub), draws development, calibration and training rows from the
seed, and writes `splits/` (four JSONL files and the schema) and `tokenizer/` with a record of their statistics. Of the model
nothing is used but its tokenizer; one that is trained sees the training rows alone.

    python pipeline_steps/prepare_texts.py --task transduce --model t5_small --seed 0 --data-folder data
    python pipeline_steps/prepare_texts.py --params presets/free-multi30k.yaml --task multi30k --model t5 --seed 0 \
        --data-folder data --out /tmp/multi30k
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Write the splits, the tokenizer and their statistics."""
    from adaptive_inference.data.text_splits import make_text_splits, text_files
    from adaptive_inference.generation.texts import describe_texts
    from adaptive_inference.generation.tokenizer import describe_tokenizer, make_tokenizer, save_tokenizer
    from adaptive_inference.tasks.schema import save_split

    cell, folder, asked = stage.cell, stage.inputs["data_folder"], stage.params.generation
    task, model = asked.tasks[cell.task], asked.models[cell.backbone]
    # the record names the files that this task reads, not all that lies in the folder
    stage.inputs = text_files(task, folder)
    record = stage.begin(f"generation.tasks.{cell.task}", f"generation.models.{cell.backbone}")
    schema, splits = make_text_splits(cell.task, task, folder, cell.seed)
    tokenizer = make_tokenizer(model, task, splits["train"])
    save_tokenizer(tokenizer, stage.out / "tokenizer")
    out = stage.out / "splits"
    schema.save(out)
    for split, examples in splits.items():
        save_split(out, split, examples)
        record.splits[split] = body = describe_texts(examples, tokenizer, schema)
        record.metrics |= {f"{split}_rows": body["rows"], f"{split}_cut": body["cut"]}
    record.tokenizer = describe_tokenizer(tokenizer)


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("data_folder",), texts=True)
