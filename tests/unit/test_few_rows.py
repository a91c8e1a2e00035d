"""Calibration rows that are too few for what is to be promised are told before anything is trained."""

from pathlib import Path

import pytest

from adaptive_inference.settings.inputs import Generated, Task
from adaptive_pipeline.params import load_params, preflight

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("rows", "confidence", "said"), [(80, 0.8, "161"), (80, 0.5, ""), (200, 0.8, ""), (200, 0.9, "230")]
)
def test_too_few_calibration_rows_for_the_confidence_are_told_with_how_many_would_do(
    caplog, rows, confidence, said
):
    params = load_params(ROOT / "presets/smoke.yaml")
    task = params.task("tiers").model_copy(
        update={"calibration_rows": rows, "generated": Generated(rows=2000)}
    )
    goal = params.goal.model_copy(update={"max_loss": 1.0, "confidence": confidence})
    preflight.tell_of_few_rows(params.model_copy(update={"tasks": {"tiers": task}, "goal": goal}))
    assert (
        f"that at most 1 point is lost with a probability of {confidence}: that takes {said} rows"
        in caplog.text
    ) == bool(said)


def test_a_file_that_is_not_there_yet_is_no_matter_of_this_check(caplog):
    task = Task(source="local", train="nowhere.csv", text=["text"], label="label")
    preflight.tell_of_few_rows(
        load_params(ROOT / "presets/smoke.yaml").model_copy(update={"tasks": {"mine": task}})
    )
    assert not caplog.text
