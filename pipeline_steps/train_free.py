r"""Train a decoder by a loss over its blocks: plain, weighted over all blocks (CALM), or shallow-deep (FREE).

Several methods of decoding share what is trained here. A training that `generation.trained_by.continue_free` lists begins
with the weights that the training `generation.pretrained` left, as the papers fine-tune a pre-trained model. Reads the
splits and the tokenizer, and writes `model/` (loadable), `history.jsonl` and `metrics.json`. CALM's classifier, where it is
asked for, is trained afterwards on the model as it is. A killed run resumes when it is started again.

    python pipeline_steps/train_free.py --task transduce --model t5_small --seed 0 --training shallow_deep
    python pipeline_steps/train_free.py --params presets/smoke.yaml --task transduce --model t5_tiny --seed 0 \
        --training ce --data splits --tokenizer tokenizer --out /tmp/ce/train --timings /tmp/ce/train_timings.json
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Train, save; then the classifier."""
    import torch

    from adaptive_inference.backbones._stock import stock_tokenizer
    from adaptive_inference.generation.classifier import fit_classifier, save_classifier
    from adaptive_inference.generation.fit import fit
    from adaptive_inference.generation.lora import add_adapters, merge
    from adaptive_inference.generation.model_dir import TrainedFor, load_decoder, save_decoder
    from adaptive_inference.generation.rows import training_rows
    from adaptive_inference.generation.start import start_decoder
    from adaptive_inference.generation.trainer import LayerTraining, TextRecipe
    from adaptive_inference.tasks.text_schema import TextSchema
    from adaptive_pipeline.training_stage import take_timings

    cell, params, asked = stage.cell, stage.params, stage.params.generation
    loss, settings = asked.trainings[cell.method], asked.models[cell.backbone]
    data, tokenizer = stage.inputs["data"], stock_tokenizer(stage.inputs["tokenizer"])
    continued = cell.method in asked.trained_by.continue_free
    if continued:
        stage.add_input("start", stage.out.parents[1] / asked.pretrained / "train/model")
        model = load_decoder(stage.inputs["start"]).model
    else:
        model = start_decoder(settings, tokenizer, cell.seed)
    kind = model.config.is_encoder_decoder
    rows = training_rows(data, tokenizer, kind, asked.training.batch_size)
    record = stage.begin(
        "generation.training",
        f"generation.trainings.{cell.method}",
        f"generation.models.{cell.backbone}",
        "runtime",
        *(["generation.pretrained"] if continued else []),
    )
    recipe = TextRecipe(asked.training, loss, params.runtime, cell.seed)
    torch.manual_seed(cell.seed)  # a projection, or adapters, start from it
    adapted = add_adapters(model, settings.lora) if settings.lora else None
    trained = LayerTraining(model, loss)
    result = fit(trained, rows, recipe, stage.scratch, stage.tracker.log, record.record_id)
    result.write(stage.out)
    model = merge(adapted) if adapted is not None else model

    blocks = trained.states.blocks
    trained_for = TrainedFor(
        model.config.model_type, blocks, loss.loss, loss.exit_layer, TextSchema.load(data).to_dict()
    )
    save_decoder(stage.out / "model", model, tokenizer, trained_for, trained.loss.projection)
    record.metrics |= result.metrics | {"parameters": sum(item.numel() for item in model.parameters())}
    if loss.classifier:
        found = fit_classifier(
            model, loss.classifier, rows.train, rows.development, rows.collate, params.runtime, cell.seed
        )
        save_classifier(found.classifier, stage.out / "model")
        record.metrics["classifier_development_loss"] = found.development_loss
        record.metrics["classifier_constant_loss"] = found.constant_loss
    record.built_on = asked.pretrained if continued else ""
    record.architecture, record.encoder_decoder = model.config.model_type, kind
    record.blocks, record.loss, record.exit_layer = blocks, loss.loss, loss.exit_layer
    record.classifier, record.steps = loss.classifier, result.steps
    take_timings(stage, result.timings)


if __name__ == "__main__":
    run_stage(main, __doc__, inputs=("data", "tokenizer"), per_training=True, texts=True, timings=True)
