"""What a run ends with."""

import pytest

from adaptive_inference.files import write_json
from adaptive_pipeline.summary import SHOWN, summary

CHOICE = {
    "task": "tiers",
    "backbone": "minilm",
    "qualifies": True,
    "offer": {"method": "early_exit", "setting": {"rule": "confidence", "threshold": 0.9, "member": None}},
    "evaluation": {"loss": 1.9, "goal_held": False, "flops_speedup": 1.578, "layers_speedup": 1.63},
    "wallclock": {"wallclock_speedup": 1.603},
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
        "Recommended for tiers with minilm: Early exit (leaves by confidence), lost 1.90 points on texts not seen, "
        "more than the goal of 1; "
        "faster 1.60 x measured, 1.58 x by FLOPs, 1.63 x by layers"
    )
    assert "Report: results/report.html (`make report`)" in lines[3]
    assert lines[-1] == "Next: adaptive-inference predict results/model"


def test_currencies_that_were_not_measured_are_not_named(tmp_path):
    evaluation = {"loss": -0.2, "goal_held": True, "flops_speedup": None, "layers_speedup": 1.63}
    line = told(tmp_path, CHOICE | {"evaluation": evaluation, "wallclock": None})[0]
    assert line.endswith("gained 0.20 points on texts not seen; faster 1.63 x by layers")


def test_a_member_of_a_cascade_is_named_by_its_layers(tmp_path):
    setting = {"rule": "fixed", "threshold": 0.0, "member": 4}
    line = told(tmp_path, CHOICE | {"offer": {"method": "multi_model", "setting": setting}})[0]
    assert "with minilm: the first 4 layers of Multi-Model, lost" in line


def test_where_nothing_can_be_promised_the_full_model_is_named(tmp_path):
    line = told(tmp_path, CHOICE | {"qualifies": False})[0]
    assert line == (
        "Recommended for tiers with minilm: the full model, since nothing faster can be promised to lose at most 1 point"
    )


def test_what_is_not_there_yet_is_said(tmp_path):
    line = told(
        tmp_path, {"task": "tiers", "backbone": "minilm", "qualifies": False, "why": "recommend has not run"}
    )[0]
    assert line == "Recommended for tiers with minilm: nothing yet (recommend has not run)"


@pytest.mark.parametrize(("count", "lines"), [(0, 5), (SHOWN, 4 + SHOWN), (179, 5 + SHOWN)])
def test_many_tasks_do_not_make_a_long_end(tmp_path, count, lines):
    said = told(tmp_path, *[CHOICE | {"command": None}] * count)
    assert len(said) == lines
    assert ("and 175 more: results/recommendation.md" in said) == (count == 179)
    assert "predict" not in said[-1]
