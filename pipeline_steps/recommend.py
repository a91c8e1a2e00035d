r"""Recommend one model, rule and threshold among all methods of a seed: the fastest that keeps ``goal.max_loss``.

That it does so on rows not seen is promised with probability ``goal.confidence``: the whole choice is made again on
resampled calibration rows, and what was chosen is judged on those left out (`selection.promise`). Only what calibration
wrote is read here, nothing of the reported split.

    python pipeline_steps/recommend.py --task tiers --backbone minilm --seed 0
    python pipeline_steps/recommend.py --params presets/smoke.yaml --task tiers --backbone tiny --seed 0 \
        --candidates candidates --out /tmp/choice
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Choose, promise, write."""
    from adaptive_inference.selection.candidates import Candidates
    from adaptive_inference.selection.pool import Pool
    from adaptive_inference.selection.promise import NONE, Promise, Resampled
    from adaptive_pipeline.runs.records import Offer, Share, model_of

    params, goal = stage.params, stage.params.goal
    folder = stage.inputs["candidates"]
    full, *others = (
        Candidates.load(folder / f"{method}.safetensors")
        for method in sorted(params.methods, key=lambda name: (name != "full", name))
    )
    models = {model_of(item.method): item.made_from["model"] for item in (full, *others)}
    record = stage.begin(
        "goal", "calibration", "trained_by", made_from={"data": full.made_from["data"]} | models
    )
    pool = Pool.of(full, others, goal.cost)
    resampled = Resampled(pool, seed=stage.cell.seed)

    def offer(promise: Promise, pool: Pool = pool) -> Offer:
        c = promise.chosen
        method, setting, seen = None, None, None
        if c != NONE:
            method, setting, seen = pool.name(c)[0], pool.setting(c), pool.seen(c)
        return Offer(
            max_loss=promise.max_loss,
            method=method,
            setting=setting,
            seen=seen,
            difference=None if seen is None else seen.quality - pool.full_quality,
            margin=promise.margin,
            probability=promise.probability,
            kept_full=promise.kept_full,
            loss=promise.loss,
            low=promise.low,
            high=promise.high,
        )

    promise = resampled.promise(goal.max_loss, goal.confidence)
    record.calibrated_on = params.calibration.calibrate_on
    record.candidates, record.rows = len(pool), len(pool.labels)
    record.offer, unfit = offer(promise), params.trained_by.not_exported
    if record.offer.method in unfit and record.offer.setting.member is None:
        fit = Pool.of(full, [item for item in others if item.method not in unfit], goal.cost)
        again = Resampled(fit, seed=stage.cell.seed).promise(goal.max_loss, goal.confidence)
        record.exportable = offer(again, fit)
    record.others = [
        offer(resampled.promise(factor * goal.max_loss, goal.confidence)) for factor in (0.5, 2.0)
    ]
    record.shares = [
        Share(method=method, rule=rule, share=share) for (method, rule), share in promise.shares.items()
    ]
    more = resampled.fastest(goal.max_loss - promise.margin / 2)
    record.with_more_rows = None if more == NONE else float(pool.speedup[more])
    record.metrics |= {"margin": promise.margin, "probability": promise.probability, "loss": promise.loss}


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("candidates",), encoder=False)
