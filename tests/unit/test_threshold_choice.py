"""The thresholds that a method of decoding is left with after calibration."""

from __future__ import annotations

import pytest

from adaptive_inference.settings.generation import TextCalibration
from adaptive_pipeline.decoding.choice import chosen_thresholds
from adaptive_pipeline.runs.text_records import Decoded


def at(threshold: float, quality: float, block_calls: float, flops: float = 1.0) -> Decoded:
    figures = {
        "agreement": 1.0,
        "same_texts": 1.0,
        "blocks": 1.0,
        "block_calls": block_calls,
        "paper_blocks": 1.0,
        "calls_speedup": 1.0,
        "shallow_share": 0.0,
    }
    return Decoded(
        threshold=threshold, rows=9, tokens=90, quality=quality, flops=flops, flops_speedup=1.0, **figures
    )


@pytest.mark.parametrize(
    ("grid", "min_quality", "threshold", "reached"),
    [
        ([at(0.5, 0.70, 10), at(0.9, 0.78, 20), at(1.0, 0.80, 30)], 0.95, 0.9, True),
        ([at(0.5, 0.70, 10), at(0.9, 0.72, 20), at(1.0, 0.80, 30)], 0.95, 1.0, False),
        # verify keeps everything, and may be slower for what it takes back
        ([at(0.5, 0.80, 50), at(1.0, 0.80, 30)], 0.95, 1.0, True),
        # FREE waits for fewer blocks, though it computes all of them in the end
        ([at(0.5, 0.80, 10, flops=31), at(1.0, 0.80, 30, flops=30)], 0.95, 0.5, True),
        ([at(0.5, 0.80, 30, flops=31), at(1.0, 0.80, 30, flops=30)], 0.95, 1.0, True),
        # a near tie cost the loop that never exits one text of the full model's
        ([at(0.5, 0.70, 10), at(1.0, 0.79, 30)], 1.0, 1.0, False),
    ],
)
def test_the_fastest_that_keeps_a_share_of_the_quality(grid, min_quality, threshold, reached):
    _, choice = chosen_thresholds(grid, 0.80, 1.0, TextCalibration(min_quality=min_quality))
    assert (choice.goal, choice.threshold, choice.reached) == ("min_quality", threshold, reached)


@pytest.mark.parametrize(("certified", "reached"), [(0.5, True), (1.0, False)])
def test_a_certified_full_model_is_no_goal_reached(certified, reached):
    grid = [at(0.5, 0.8, 10), at(1.0, 0.8, 30)]
    choice, _ = chosen_thresholds(grid, 0.8, certified, TextCalibration())
    assert (choice.goal, choice.threshold, choice.reached) == ("certified", certified, reached)
