r"""Choose the thresholds of a method of decoding, on calibration rows only.

Every threshold of the grid is really run, beside plain `generate` of the same weights, since a threshold changes what later
tokens see. One threshold is certified: Learn-then-Test bounds its loss (docs/methods/free.md). Another keeps a share of the
full model's quality at the least cost, without a promise. A killed run goes on with the requests that are left.

    python pipeline_steps/calibrate_decoding.py --task transduce --model t5_small --seed 0 --method free
    python pipeline_steps/calibrate_decoding.py --params presets/smoke.yaml --task transduce --model t5_tiny --seed 0 \
        --method free_verify --data splits --assigned free_verify/assigned/model.json --out /tmp/calibration
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Run the grid, choose, write."""
    from adaptive_inference.generation.consistency import certified_threshold, risk_losses, textual_losses
    from adaptive_inference.generation.journal import Journal
    from adaptive_inference.generation.measure import answer_all
    from adaptive_inference.tasks.text_quality import score_each
    from adaptive_pipeline.decoding.at_hand import FULL, MethodAtHand, decoding_keys, journal_file
    from adaptive_pipeline.decoding.choice import chosen_thresholds
    from adaptive_pipeline.runs.text_records import ChosenThreshold

    asked = stage.params.generation.calibration
    at_hand = MethodAtHand(stage, "calibration", asked.prompts)
    record = stage.begin(*decoding_keys(stage), made_from=at_hand.made_from)
    ways = [at_hand.way(threshold) for threshold in at_hand.thresholds]
    with Journal(journal_file(stage, "answers"), record.record_id) as journal:
        most = at_hand.schema.max_target
        answer_all([at_hand.plain(), *ways], at_hand.requests, most, at_hand.cost, journal)

    names = [way.name for way in ways]
    decoded = at_hand.decoded(journal.lines, names, stage.cell.seed)
    early_TN, full_N = ([at_hand.texts(journal.lines, name) for name in given] for given in (names, [FULL]))

    def score(text: str, accepted: Sequence[str]) -> float:
        return float(score_each(at_hand.schema.metric, [text], [accepted])[0])

    if asked.consistency == "textual":
        losses_TN = textual_losses(early_TN, full_N[0], score)
    else:
        accepted = [example.accepted for example in at_hand.examples]
        losses_TN = risk_losses(early_TN, full_N[0], accepted, score)
    at_hand.fill(record)
    record.consistency, record.full = asked.consistency, decoded[FULL]
    record.grid = [
        decoded[name].model_copy(update={"loss": float(losses_N.mean())})
        for name, losses_N in zip(names, losses_TN, strict=True)
    ]
    if at_hand.thresholds == [None]:
        record.chosen = [ChosenThreshold(goal="none", value=None, threshold=None, reached=True)]
    else:
        found = certified_threshold(at_hand.thresholds, losses_TN, asked.delta, asked.epsilon)
        record.chosen = chosen_thresholds(record.grid, record.full.quality, found.threshold, asked)
    record.metrics |= {"calibration_rows": len(at_hand.requests), "full_quality": record.full.quality}
    record.metrics |= {f"{item.goal}_threshold": item.threshold for item in record.chosen}


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("data", "assigned"), per_method=True, texts=True)
