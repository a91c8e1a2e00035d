"""Wall-clock of a method of decoding at its chosen thresholds, for the stage that evaluates it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptive_pipeline.decoding.at_hand import FULL, RESAMPLES, MethodAtHand, journal_file, way_name
from adaptive_pipeline.runs.text_records import ChosenThreshold, TimedRow

if TYPE_CHECKING:
    from adaptive_pipeline.stage import Stage

WARMUP = 2  # requests


def time_chosen(stage: Stage, at_hand: MethodAtHand, chosen: Sequence[ChosenThreshold]) -> list[TimedRow]:
    """Time every chosen threshold beside plain ``generate``, free-running and at a fixed length, request by request."""
    import torch

    from adaptive_inference.evaluation.request_latency import summarise_times, time_requests
    from adaptive_inference.generation.journal import Journal

    protocol = stage.params.generation.evaluation
    lengths = {"free": at_hand.schema.max_target, "fixed": protocol.fixed_length}
    names = {way_name(item.threshold): item.threshold for item in chosen}
    rows = []
    for mode, length in lengths.items():
        ways = [at_hand.way(threshold) for threshold in names.values()]
        with Journal(journal_file(stage, f"times-{mode}"), stage.record.record_id) as journal:
            time_requests(
                at_hand.plain(),
                ways,
                at_hand.requests[: protocol.timed_prompts],
                length,
                journal,
                repeats=protocol.repeats,
                warmup=WARMUP,
                fixed=mode == "fixed",
                synchronize=torch.cuda.synchronize if at_hand.device.type == "cuda" else None,
            )
        found = {row["way"]: row for row in summarise_times(journal.lines, FULL, RESAMPLES, stage.cell.seed)}
        for item in chosen:
            row = found[way_name(item.threshold)]
            rows.append(
                TimedRow(
                    goal=item.goal,
                    threshold=item.threshold,
                    mode=mode,
                    requests=row["examples"],
                    repeats=row["repeats"],
                    seconds=row["median_ms"] / 1e3,
                    full_seconds=row["full_median_ms"] / 1e3,
                    tokens_per_second=row["tokens_per_second"],
                    full_tokens_per_second=found[FULL]["tokens_per_second"],
                    speedup=row["median_ratio"],
                    speedup_low=row["median_ratio_low"],
                    speedup_high=row["median_ratio_high"],
                )
            )
    return rows
