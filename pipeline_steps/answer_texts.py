r"""Let a method of decoding write the reported split's texts: every threshold of the grid, and those that were chosen.

Every threshold of the grid is run on `grid_prompts` rows, those that calibration chose on `prompts` rows, plain `generate`
of the same weights on all of them. Nothing is timed, so that this runs beside other work; `evaluate_decoding` reads what was
written, and has the machine for itself. A killed run goes on with the requests that are left.

    python pipeline_steps/answer_texts.py --task transduce --model t5_small --seed 0 --method free
    python pipeline_steps/answer_texts.py --params presets/smoke.yaml --task transduce --model t5_tiny --seed 0 \
        --method free --data splits --assigned free/assigned/model.json --decoding free/calibration/metrics.json \
        --out /tmp/texts
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Run, write."""
    import json

    from adaptive_inference.files import write_text
    from adaptive_inference.generation.journal import Journal
    from adaptive_inference.generation.measure import answer_all
    from adaptive_pipeline.decoding.at_hand import (
        ANSWERS,
        MethodAtHand,
        decoding_keys,
        journal_file,
        way_name,
    )
    from adaptive_pipeline.decoding.seen import seen_tokens
    from adaptive_pipeline.runs.text_records import DecodingCalibrationRecord

    protocol = stage.params.generation.evaluation
    calibrated = DecodingCalibrationRecord.load(stage.inputs["decoding"].parent)
    at_hand = MethodAtHand(stage, "evaluation", protocol.prompts)
    record = stage.begin(*decoding_keys(stage), made_from=at_hand.made_from)
    most, plain = at_hand.schema.max_target, at_hand.plain()
    grid = {way_name(threshold): at_hand.way(threshold) for threshold in at_hand.thresholds}
    chosen = list(dict.fromkeys(way_name(item.threshold) for item in calibrated.chosen))
    first = at_hand.requests[: protocol.grid_prompts]
    with Journal(journal_file(stage, "answers"), record.record_id) as journal:
        answer_all([plain, *grid.values()], first, most, at_hand.cost, journal)
        answer_all([plain, *(grid[name] for name in chosen)], at_hand.requests, most, at_hand.cost, journal)
        if seen := seen_tokens(at_hand):
            answer_all([seen], first, most, at_hand.cost, journal)
    # a run that was killed has them in another order
    lines = sorted(journal.lines, key=lambda line: (line["way"], line["request"]))
    write_text(stage.out / ANSWERS, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
    record.metrics["texts"] = len(lines)


if __name__ == "__main__":
    run_stage(main, __doc__ or "", inputs=("data", "assigned", "decoding"), per_method=True, texts=True)
