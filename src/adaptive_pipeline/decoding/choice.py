"""Which thresholds of a grid that was run on calibration rows a method decodes with; loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptive_pipeline.runs.text_records import ChosenThreshold, Decoded

if TYPE_CHECKING:
    from adaptive_inference.settings.generation import TextCalibration

NEVER = 1.0  #: the threshold at which no token leaves early


def chosen_thresholds(
    grid: Sequence[Decoded], full_quality: float, certified: float, asked: TextCalibration
) -> list[ChosenThreshold]:
    """Return the threshold that is certified, and the fastest that keeps a share of the full model's quality.

    Fastest is by blocks run one after another: what a text at batch 1 waits for, and no figure of a clock. By FLOPs FREE
    and verify, whose deep passes take many tokens at once, would be chosen to do nothing. Of equals, fewer FLOPs.

    A goal is reached where a threshold below 1 is good enough. 1 may be chosen all the same, where it is fastest: what
    is drafted and taken back is waited for.

    Parameters
    ----------
    grid
        What was decoded at each threshold; 1 is one of them.
    full_quality
        Of the full model on the same rows.
    certified
        What Learn-then-Test returned; 1 where nothing below passed.
    asked
        The goals.
    """
    floor = asked.min_quality * full_quality
    # 1 is always good enough: it is the full model, but for near ties that float32 may break otherwise.
    kept = [row for row in grid if row.quality >= floor or row.threshold == NEVER]
    fastest = min(kept, key=lambda row: (row.block_calls, row.flops))
    return [
        ChosenThreshold(goal="certified", value=asked.delta, threshold=certified, reached=certified < NEVER),
        ChosenThreshold(
            goal="min_quality",
            value=asked.min_quality,
            threshold=fastest.threshold,
            reached=any(row.threshold < NEVER for row in kept),
        ),
    ]
