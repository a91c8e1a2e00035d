r"""Measure a method of decoding on the reported split: texts, blocks and FLOPs per token, and batch-1 wall-clock.

The texts are those that `answer_texts` wrote. Some rows are timed, interleaved with plain `generate` of the same weights,
once as texts end by themselves and once at a fixed length; a killed run goes on with the requests that are left.
`pictures/` shows texts with the depth of each token.

    python pipeline_steps/evaluate_decoding.py --task transduce --model t5_small --seed 0 --method free
    python pipeline_steps/evaluate_decoding.py --params presets/smoke.yaml --task transduce --model t5_tiny --seed 0 \
        --method free --data splits --assigned free/assigned/model.json --decoding free/calibration/metrics.json \
        --texts free/texts/answers.jsonl --timings /tmp/timings.json --out /tmp/evaluation
"""

from __future__ import annotations

from adaptive_pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Read, time, write."""
    from adaptive_inference.files import read_jsonl, write_json
    from adaptive_pipeline.decoding.at_hand import FULL, MethodAtHand, check_texts, decoding_keys, way_name
    from adaptive_pipeline.decoding.seen import SEEN
    from adaptive_pipeline.decoding.times import time_chosen
    from adaptive_pipeline.decoding.tokens import confidences_of, draw_texts, shown_threshold
    from adaptive_pipeline.runs.environment import environment
    from adaptive_pipeline.runs.text_records import ChosenRow, DecodingCalibrationRecord
    from adaptive_pipeline.tracking.store import PICTURES

    protocol, seed = stage.params.generation.evaluation, stage.cell.seed
    calibrated = DecodingCalibrationRecord.load(stage.inputs["decoding"].parent)
    at_hand = MethodAtHand(stage, "evaluation", protocol.prompts)
    record = stage.begin(*decoding_keys(stage), made_from=at_hand.made_from)
    at_hand.fill(record)
    check_texts(stage, at_hand)
    grid = [way_name(threshold) for threshold in at_hand.thresholds]
    chosen = list(dict.fromkeys(way_name(item.threshold) for item in calibrated.chosen))
    lines = read_jsonl(stage.inputs["texts"])
    rows_on_grid = len(at_hand.requests[: protocol.grid_prompts])
    on_grid = [line for line in lines if line["request"] < rows_on_grid]
    decoded = at_hand.decoded(on_grid, grid, seed)
    record.full, record.grid = decoded[FULL], [decoded[name] for name in grid]
    on_all = at_hand.decoded(lines, chosen, seed)
    record.chosen = [
        ChosenRow(choice=item, decoded=on_all[way_name(item.threshold)], full=on_all[FULL])
        for item in calibrated.chosen
    ]
    name = way_name(shown_threshold(calibrated.chosen))
    shown = [line for line in on_grid if line["way"] == name]
    if told := [line for line in on_grid if line["way"] == SEEN]:
        counts = confidences_of(told, shown, estimated=at_hand.method.adaptive is not None)
        write_json(stage.out / "confidences.json", counts.model_dump(mode="json"))
    draw_texts(at_hand, shown, stage.out / PICTURES)

    rows = time_chosen(stage, at_hand, calibrated.chosen)
    best = record.shown
    goals = {f"{row.mode}_speedup": row.speedup for row in rows if best and row.goal == best.choice.goal}
    stage.timings |= {
        "environment": environment(at_hand.device.type),
        "rows": [row.model_dump(mode="json") for row in rows],
        "goals": goals,
    }
    if best:
        kept = ("quality", "agreement", "blocks", "flops_speedup")
        record.metrics |= {name: getattr(best.decoded, name) for name in kept}
        record.metrics |= {"full_quality": best.full.quality, "threshold": best.choice.threshold}


if __name__ == "__main__":
    run_stage(
        main,
        __doc__ or "",
        inputs=("data", "assigned", "decoding", "texts"),
        per_method=True,
        texts=True,
        timings=True,
    )
