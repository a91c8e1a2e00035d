"""What a run ends with."""

import pytest

from adaptive_inference.files import write_json
from adaptive_pipeline.summary import SHOWN, summary

CHOICE = {
    "task": "tiers",
    "backbone": "minilm",
    "qualifies": True,
    "why": "",
    "method": "early_exit",
    "rule": "confidence",
    "evaluation": {
        "quality_difference": -0.019,
        "wallclock_speedup": 1.603,
        "flops_speedup": 1.578,
        "layers_speedup": 1.63,
    },
    "command": "adaptive-inference predict results/model",
}


def told(folder, *choices):
    (folder / "results").mkdir(exist_ok=True)
    write_json(folder / "results/recommendation.json", {"max_loss_points": 1.0, "choices": list(choices)})
    return summary(folder).splitlines()


def test_a_run_ends_with_five_lines_what_to_use_what_it_costs_and_what_comes_next(tmp_path):
    lines = told(tmp_path, CHOICE)
    assert len(lines) == 5
    assert lines[0] == (
        "Recommended for tiers with minilm: Early exit (leaves by confidence), loses 1.90 points, more than the goal of 1; "
        "faster 1.60 x measured, 1.58 x by FLOPs, 1.63 x by layers"
    )
    assert lines[-1] == "Next: adaptive-inference predict results/model"


def test_currencies_that_were_not_measured_are_not_named(tmp_path):
    evaluation = {"quality_difference": 0.002, "wallclock_speedup": None, "layers_speedup": 1.63}
    line = told(tmp_path, CHOICE | {"evaluation": evaluation})[0]
    assert line.endswith("gains 0.20 points; faster 1.63 x by layers")


def test_where_nothing_qualifies_the_full_model_is_named_with_the_reason(tmp_path):
    line = told(tmp_path, CHOICE | {"qualifies": False, "why": "none of 30 is faster"})[0]
    assert line == "Recommended for tiers with minilm: the full model (none of 30 is faster)"


@pytest.mark.parametrize(("count", "lines"), [(0, 5), (SHOWN, 4 + SHOWN), (179, 5 + SHOWN)])
def test_many_tasks_do_not_make_a_long_end(tmp_path, count, lines):
    said = told(tmp_path, *[CHOICE | {"command": None}] * count)
    assert len(said) == lines
    assert ("and 175 more: results/recommendation.md" in said) == (count == 179)
    assert "predict" not in said[-1]
