r"""Score every token of the training rows by the full model: how much its answer hangs on the token.

Methods that remove tokens learn from these scores, all of them from the same ones: they depend on the task, the backbone
and the seed, and on no setting of a method. Where `full` keeps several epochs (`keep_epochs`), they are the mean over them.
`--scores` is a kind of `token_scores`, `saliency` as a rule. Writes `scores.safetensors` (scores by the examples' ids, no
texts) and `metrics.json`.

Examples::

    python pipeline_steps/extract_saliencies.py --task tiers --backbone minilm --scores saliency --seed 0
    python pipeline_steps/extract_saliencies.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --scores saliency --data splits --full full/model --out /tmp/saliency
"""

from __future__ import annotations

from adaptive_pipeline.runs.layout import SCORES_FILE
from adaptive_pipeline.stage import Stage, run_stage
from adaptive_pipeline.training_stage import best_epochs, scored_with


def main(stage: Stage) -> None:
    """Score, write."""
    from adaptive_inference.attribution.extract import extract_scores
    from adaptive_inference.attribution.store import mean_scores
    from adaptive_inference.exits import MultiExitModel
    from adaptive_inference.exits.outputs import pick_device
    from adaptive_inference.exits.weights import load_weights
    from adaptive_inference.tasks.encode import encode
    from adaptive_inference.tasks.schema import load_schema, load_split
    from adaptive_pipeline.runs.digests import digest_path

    data, kind = stage.inputs["data"], stage.cell.method
    schema, model = load_schema(data), MultiExitModel.from_pretrained(stage.inputs["full"])
    model.to(pick_device(stage.params.runtime.device))
    record = stage.begin("evaluation.batch_size", "runtime")
    features = encode(load_split(data, "train"), model.tokenizer, schema.max_length)
    made_from = scored_with(stage, model.tokenizer, schema.max_length).made_from
    each = []
    for epoch in best_epochs(stage.inputs["full"]) or [None]:
        if epoch is not None:
            load_weights(model, epoch)
        each.append(
            extract_scores(
                model, features, kind, stage.params.evaluation.batch_size, schema.max_length, made_from
            )
        )
    scores = mean_scores(each)
    scores.save(stage.out / SCORES_FILE)
    record.scores = digest_path(stage.out / SCORES_FILE)
    record.metrics |= scores.summary()


if __name__ == "__main__":
    run_stage(main, __doc__, inputs=("data", "full"), per_kind=True)
