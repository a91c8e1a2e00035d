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
    from adaptive_inference.exits.saved import save_tokenizer
    from adaptive_inference.generation.prepared import describe_pairs, shared_sources, start_tokenizer
    from adaptive_inference.generation.texts import encode_pairs
    from adaptive_inference.tasks.schema import save_split

    cell, folder, asked = stage.cell, stage.inputs["data_folder"], stage.params.generation
    task, model = asked.tasks[cell.task], asked.models[cell.backbone]
    # the record names the files that this task reads, not all that lies in the folder
    stage.inputs = text_files(task, folder)
    record = stage.begin(f"generation.tasks.{cell.task}", f"generation.models.{cell.backbone}")
    schema, splits = make_text_splits(cell.task, task, folder, cell.seed)
    tokenizer = start_tokenizer(model, splits["train"])
    (stage.out / "tokenizer").mkdir()
    save_tokenizer(tokenizer, stage.out / "tokenizer")
    out = stage.out / "splits"
    schema.save(out)
    for split, examples in splits.items():
        save_split(out, split, examples)
        # lengths as an encoder-decoder reads: a decoder-only model's sources have a separator in place of the end token
        encoded = encode_pairs(examples, tokenizer, schema, encoder_decoder=True)
        record.splits[split] = describe_pairs(encoded)
        record.metrics[f"{split}_rows"] = len(examples)
        record.metrics[f"{split}_cut"] = encoded.cut_sources + encoded.cut_targets
    record.shared_texts = shared_sources(splits)
    record.metrics |= {"shared_texts": sum(record.shared_texts.values()), "vocabulary": len(tokenizer)}
    record.tokenizer = {"size": len(tokenizer)} | tokenizer.special_tokens_map


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("data_folder",), texts=True)
