"""What of `params.yaml` is in records: no default, so that neither a later key nor a written default changes a digest."""

import pytest
from smoke_params import SMOKE, changed, without_removal

from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import Backbone, Generated, Task
from adaptive_inference.settings.protocol import Calibration, Evaluation, Goal, Runtime
from adaptive_inference.settings.training import (
    Distillation,
    HeadPruning,
    MethodTraining,
    PatientDistillation,
    Replacement,
    Training,
    WeightLearning,
)
from adaptive_pipeline.params import parse_params
from adaptive_pipeline.runs.records import digest_params
from adaptive_pipeline.runs.validity import changed_params


def test_the_echo_of_a_neighbours_key_does_not_change():
    keys = ("training", "methods.sweet.train", "runtime")
    before = parse_params(SMOKE).echo(keys)
    assert parse_params(changed("methods.early_exit.train.epochs", 9)).echo(keys) == before
    after = parse_params(changed("methods.sweet.train.epochs", 9)).echo(keys)
    assert after != before
    assert digest_params(after) != digest_params(before)


def test_writing_out_a_default_changes_no_digest():
    key = "methods.sweet.train"
    plain, written = parse_params(SMOKE), parse_params(changed(f"{key}.clip", "global"))
    assert digest_params(plain.echo([key])) == digest_params(written.echo([key]))


def test_a_training_stage_of_no_method_is_not_in_the_digest_of_a_choice_made_before_there_was_one():
    lists = SMOKE["trained_by"]
    older = {stage: names for stage, names in lists.items() if not stage.startswith("train_adapler")}
    written = older | {"train_adapler": [], "train_adapler_exits": []}
    bodies = (without_removal() | {"trained_by": given} for given in (older, written))
    before, after = (parse_params(body).echo(["trained_by"]) for body in bodies)
    assert before == after == {"trained_by": older}


@pytest.mark.parametrize("section", ["weight_learning", "distillation"])
def test_a_section_of_defaults_and_an_absent_one_are_the_same_params(section):
    key = "methods.leebert.train"
    absent, empty = (parse_params(raw).echo([key]) for raw in (SMOKE, changed(f"{key}.{section}", {})))
    assert changed_params(absent, empty) == changed_params(empty, absent) == []
    other = {"weight_learning": {"scheme": "slo"}, "distillation": {"teachers": "last"}}[section]
    set_ = parse_params(changed(f"{key}.{section}", other)).echo([key])
    assert (
        changed_params(absent, set_)
        == changed_params(set_, empty)
        == [f"{key}.{section}.{next(iter(other))}"]
    )


def test_the_currency_of_goals_is_layers_unless_said_and_flops_are_other_results():
    plain, layers, flops = (
        parse_params(raw).echo(["goal"])
        for raw in (SMOKE, changed("goal.cost", "layers"), changed("goal.cost", "flops"))
    )
    assert digest_params(plain) == digest_params(layers) != digest_params(flops)
    with pytest.raises(UserError, match=r"goal\.cost.*seconds"):
        parse_params(changed("goal.cost", "seconds"))


def test_the_defaults_are_what_kept_results_were_made_with():
    """Records leave defaults out, and no stage depends on this class: a changed default would mix old numbers with new.

    Rather give the presets the new value, or rename the key. A new key with a default of its own belongs below.
    """
    section = lambda kind: {  # noqa: E731
        name: field.get_default(call_default_factory=True)
        for name, field in kind.model_fields.items()
        if not field.is_required()
    }
    assert section(Training) == {
        "epochs": 3, "batch_size": 16, "gradient_accumulation": 1, "learning_rate": 5e-5, "head_learning_rate": None,
        "schedule": "linear", "warmup_ratio": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0, "group_by_length": False,
        "score_every": 1, "save_every": 200, "patience": None,
    }  # fmt: skip
    assert section(Evaluation) == {
        "timed_seeds": [], "timed_examples": 200, "repeats": 5, "warmup": 20, "bootstrap": 1000, "batch_size": 64,
    }  # fmt: skip
    assert section(Calibration) == {"temperature": True, "calibrate_on": "calibration", "thresholds": 100}
    assert section(Goal) == {
        "cost": "layers", "max_loss": 1.0, "confidence": 0.8, "min_speedup": [2.0], "risk": None,
        "deployment_loss": 1.0, "max_latency_ms": None,
    }  # fmt: skip
    assert section(Runtime) == {"device": "auto", "threads": 1, "precision": "fp32"}
    assert section(Generated) == {"rows": 4000, "evaluation_rows": 1000, "label_noise": 0.0}
    assert section(Backbone) == {
        "adapter": None,
        "revision": None,
        "sha256": None,
        "pooler": "per_exit",
        "read": "first",
        "head": "new",
    }
    task = section(Task)
    assert {name: task[name] for name in task if task[name] is not None} == {
        "text": ["text"], "label": "label", "kind": "classification", "metric": "accuracy", "max_length": 128,
        "development_rows": 500, "calibration_rows": 500,
    }  # fmt: skip
    method = section(MethodTraining)
    assert {name: method[name] for name in method if method[name] is not None} == {
        "objective": "joint", "gradient": "shared", "clip": "global", "backward": "whole",
        "weights": "uniform", "alternate": False, "targets": "labels", "inner_head": "as_backbone", "drop_rate": 0.2,
            "keep_epochs": 1,
    }  # fmt: skip
    assert section(Distillation) == {"teachers": "all", "temperature": 2.0, "detach": True}
    assert section(WeightLearning) == {
        "scheme": "clo_v2", "group": 4, "between": "text", "parametrisation": "softmax", "learning_rate": 1e-3,
        "optimizer": "adam", "mixing": "ratio", "minimum": None,
    }  # fmt: skip
    assert section(PatientDistillation) == {"alpha": 0.5, "beta": 1.0, "temperature": 5.0}
    assert section(Replacement) == {"start": 0.5, "ramp": 0.5}
    assert section(HeadPruning) == {"share": 0.5, "rows": 2000}
