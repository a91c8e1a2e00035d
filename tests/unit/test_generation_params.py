"""`generation` in the params: beside the classifiers or alone, and what is refused."""

import copy
from dataclasses import replace

import pytest
from smoke_params import SMOKE

from adaptive_inference.errors import UserError
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.params import parse_params
from adaptive_pipeline.runs.record import digest_params
from adaptive_pipeline.runs.records import FAMILIES
from adaptive_pipeline.runs.store import Finished, Runs
from adaptive_pipeline.runs.validity import asked_for, why_unusable
from adaptive_pipeline.tracking.given import Background, run_params

TEXTS = {
    "tasks": {"transduce": {"source": "generated", "metric": "exact_match", "evaluation_rows": 60}},
    "models": {
        "t5": {
            "weights": "config",
            "architecture": "t5",
            "config": {"num_layers": 2},
            "tokenizer": "train",
            "vocabulary": 200,
        }
    },
    "seeds": [0],
    "trainings": {"ce": {"loss": "ce"}, "shallow_deep": {"loss": "shallowdeep_kd_dyna", "exit_layer": 1}},
    "trained_by": {"train_free": ["ce", "shallow_deep"]},
    "methods": {
        "full": {"training": "ce", "policy": "full"},
        "free": {"training": "shallow_deep", "policy": "keep"},
        "free_verify": {"training": "shallow_deep", "policy": "verify"},
    },
}
NO_CLASSIFIERS = {
    "tasks": {},
    "backbones": {},
    "seeds": [],
    "methods": {},
    "token_scores": [],
    "pruned_body": "",
    "explanations": {},
    "trained_by": {"train_sweet": [], "train_leebert": [], "train_multi_model": []},
}
CELL = Cell("transduce", "t5", 0, "free")


def with_texts(classifiers=True, **changes):
    body = copy.deepcopy(SMOKE if classifiers else SMOKE | NO_CLASSIFIERS)
    return body | {"generation": copy.deepcopy(TEXTS) | changes}


def test_text_tasks_stand_beside_classifiers_or_alone():
    both, alone = parse_params(with_texts()), parse_params(with_texts(classifiers=False))
    assert [cell.method for cell in both.text_grid.cells()] == ["full", "free", "free_verify"]
    assert [cell.method for cell in alone.text_grid.trained()] == ["ce", "shallow_deep"]
    assert list(both.grid.cells())
    assert not list(alone.grid.cells())


def test_generation_is_in_no_digest_of_a_classifier():
    keys = ("training", "methods.sweet.train", "runtime", "tasks.tiers", "goal", "trained_by")
    before, after = parse_params(SMOKE).echo(keys), parse_params(with_texts()).echo(keys)
    assert digest_params(before) == digest_params(after)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": {"tiers": TEXTS["tasks"]["transduce"]}}, "rename one"),
        ({"models": {"tiny": TEXTS["models"]["t5"]}}, "rename one"),
        ({"tasks": {"a/b": TEXTS["tasks"]["transduce"]}}, "becomes a folder"),
        ({"methods": {"../x": {"training": "ce", "policy": "full"}} | TEXTS["methods"]}, "becomes a folder"),
        ({"methods": {}}, "methods are empty while others are not"),
        ({"trainings": TEXTS["trainings"] | {"more": {"loss": "ce"}}}, "trainings more serve no method"),
    ],
)
def test_names_and_axes_that_cannot_be_are_refused(changes, says):
    with pytest.raises(UserError, match=says):
        parse_params(with_texts(**changes))


def test_two_text_cells_of_one_name_are_refused():
    task, model = TEXTS["tasks"]["transduce"], TEXTS["models"]["t5"]
    with pytest.raises(UserError, match=r"a-b-c-full-0.*of `generation`"):
        parse_params(with_texts(tasks={"a": task, "a-b": task}, models={"b-c": model, "c": model}))


@pytest.mark.parametrize("emptied", [{"seeds": []}, {"methods": {}}, {"tasks": {}, "backbones": {}}])
def test_half_a_grid_of_classifiers_and_nothing_at_all_are_refused(emptied):
    with pytest.raises(UserError, match="are empty while others are not"):
        parse_params(SMOKE | emptied)
    with pytest.raises(UserError, match="nothing would run"):
        parse_params(SMOKE | NO_CLASSIFIERS | {"generation": {}})


def records(params, **inputs):
    """Return the records that an evaluation of `CELL` stands on, and its own, all made with the params."""
    data, training = replace(CELL, method=""), replace(CELL, method="shallow_deep")
    keys = {
        "prepare_texts": (data, ["generation.tasks.transduce"], {}),
        "train_free": (training, ["generation.trainings.shallow_deep"], {"data": "d"}),
        "calibrate_decoding": (CELL, ["generation.methods.free"], {"data": "d", "model": "m"}),
        "evaluate_decoding": (CELL, ["generation.evaluation"], {"data": "d", "model": "m"}),
    }
    made = {}
    for stage, (cell, echoed, read) in keys.items():
        read = inputs.get(stage, read)
        record = FAMILIES[stage](stage=stage, cell=cell, params=params.echo(echoed), inputs=read, code="c")
        made[stage, cell] = Finished(record)
    return Runs(None, made)


def test_an_evaluation_of_texts_stands_on_its_methods_own_training():
    params = parse_params(with_texts())
    runs = records(params)
    assert why_unusable("evaluate_decoding", CELL, runs, params) == ""
    assert asked_for("train_free", replace(CELL, method="shallow_deep"), params)
    assert not asked_for("train_free", CELL, params)
    assert not asked_for("evaluate_decoding", replace(CELL, method="shallow_deep"), params)


@pytest.mark.parametrize(
    ("path", "value", "stage"),
    [
        (("trainings", "shallow_deep", "alpha"), 0.9, "train_free"),
        (("methods", "free", "max_pending"), 4, "calibrate_decoding"),
        (("evaluation",), {"repeats": 7}, "evaluate_decoding"),
        (("tasks", "transduce", "rows"), 999, "prepare_texts"),
    ],
)
def test_records_of_other_params_are_not_reported(path, value, stage):
    runs, body = records(parse_params(with_texts())), with_texts()
    at = body["generation"]
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    assert f"{stage} was run with other params" in why_unusable(
        "evaluate_decoding", CELL, runs, parse_params(body)
    )


def test_an_edit_of_one_training_leaves_the_methods_of_another():
    body = with_texts()
    body["generation"]["trainings"]["ce"]["epochs"] = 9
    runs = records(parse_params(with_texts()))
    assert why_unusable("evaluate_decoding", CELL, runs, parse_params(body)) == ""


def test_an_evaluation_of_another_model_than_was_calibrated_is_not_reported():
    params = parse_params(with_texts())
    runs = records(params, evaluate_decoding={"data": "d", "model": "other"})
    assert "read another model" in why_unusable("evaluate_decoding", CELL, runs, params)


def test_runs_show_what_they_were_given_without_the_names_of_entries():
    params = parse_params(with_texts())
    keys = ["generation.training", "generation.trainings.shallow_deep", "generation.models.t5"]
    cell = replace(CELL, method="shallow_deep")
    record = FAMILIES["train_free"](
        stage="train_free", cell=cell, params=params.echo(keys), inputs={}, code="c"
    )
    shown = run_params(record, Background())
    assert shown["train.loss"] == "shallowdeep_kd_dyna"
    assert shown["train.epochs"] == "10"  # of all trainings
    assert shown["backbone.architecture"] == "t5"
    assert shown["method"] == "shallow_deep"
