r"""Hold explanations of a model against rationales: scores of its tokens, and which tokens survive to which layer.

For `full`, every kind of scores; for a model that removes tokens, its predictors' contributions and what is kept, layer by
layer. Writes `metrics.json` and `pictures/`, an HTML page and a PNG for each of a few examples; the pictures hold texts.

Examples::

    python pipeline_steps/score_rationales.py --task tiers --backbone minilm --seed 0 --method adapler
    python pipeline_steps/score_rationales.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --method full --data splits --full full/model --model full/model --out /tmp/rationales
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Explain, compare, draw."""
    from adaptive_inference.evaluation.explanations import explain
    from adaptive_inference.exits import load_model
    from adaptive_inference.exits.outputs import pick_device
    from adaptive_inference.tasks.schema import load_split
    from adaptive_pipeline.reporting.pictures import write_pictures
    from adaptive_pipeline.tracking.store import PICTURES

    params, device = stage.params, pick_device(stage.params.runtime.device)
    full = load_model(stage.inputs["full"]).to(device)
    model = full if stage.cell.method == "full" else load_model(stage.inputs["model"]).to(device)
    asked = ("rows", "integrated_gradients_rows", "pictures")
    keys = (
        *(f"explanations.{key}" for key in asked),
        "evaluation.batch_size",
        "evaluation.bootstrap",
        "runtime",
    )
    record = stage.begin(*keys)
    explained = explain(
        model,
        full,
        load_split(stage.inputs["data"], "evaluation"),
        **{key: getattr(params.explanations, key) for key in asked},
        batch_size=params.evaluation.batch_size,
        resamples=params.evaluation.bootstrap,
        seed=stage.cell.seed,
    )
    record.explained, record.metrics = explained.measured, explained.metrics
    write_pictures(explained.pictures, stage.out / PICTURES)


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("data", "full", "model"), per_method=True)
