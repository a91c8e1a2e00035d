"""What `params.yaml` may say, and how it is told what it may not."""

import copy
from typing import get_args

import pytest
import yaml
from smoke_params import ROOT, SMOKE, changed, without_removal

from adaptive_inference.by_name import module_names
from adaptive_inference.errors import UserError
from adaptive_inference.exits.deployment import DEPLOYMENTS
from adaptive_inference.settings.protocol import DeploymentKind
from adaptive_inference.settings.training import MethodTraining
from adaptive_pipeline.params import load_params, parse_params


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("training.epoch", 1, "did you mean 'epochs'?"),
        ("methods.sweet.train.gradiant", "blockwise", "did you mean 'gradient'?"),
        ("trained_by.train_sweet", ["early_exit", "swet", "learning_to_exit"], "did you mean 'sweet'?"),
        (
            "trained_by.train_sweet",
            ["early_exit", "learning_to_exit"],
            "'sweet' stands 0 times in trained_by",
        ),
        ("methods.sweet.rules", ["confidense"], "did you mean 'confidence'?"),
        ("methods.learning_to_exit.train.objective", "learn_to_exit", "did you mean 'learning_to_exit'?"),
        ("backbones.tiny.exits", [4, 2], "ascending"),
        ("backbones.tiny.exits", [2, 2], "without repeats"),
        ("backbones.tiny.exits", [0, 2], "greater than or equal to 1"),
        ("backbones.tiny.exits", [], "at least 1 item"),
        ("tasks.tiers.kind", "multi_label", "classification"),
        ("tasks.tiers.metric", "pearson", "does not fit a classification task"),
        ("tasks.tiers.train", "x.csv", "has no meaning for source: generated"),
        ("tasks.tiers.labels", ["one"], "at least two classes"),
        ("tasks", {"a/b": SMOKE["tasks"]["tiers"]}, "path separator"),
        ("tasks", {"..": SMOKE["tasks"]["tiers"]}, "becomes a folder"),
        ("tasks", {"../../x": SMOKE["tasks"]["tiers"]}, "tasks: the name '../../x' becomes a folder"),
        (
            "backbones",
            {"; touch x #": SMOKE["backbones"]["tiny"]},
            "backbones: the name '; touch x #' becomes",
        ),
        (
            "methods",
            SMOKE["methods"] | {"a\nb": SMOKE["methods"]["sweet"]},
            "methods: the name 'a\\nb' becomes",
        ),
        ("seeds", [0, 0], "repeat"),
        ("seeds", [0, 2**32], "seeds.1: Input should be less than 4294967296 (given: 4294967296)"),
        ("seeds", [-1], "seeds.0: Input should be greater than or equal to 0 (given: -1)"),
        (
            "training.epochs",
            5000,
            "training.epochs: Input should be less than or equal to 1000 (given: 5000)",
        ),
        ("methods.sweet.train.epochs", 1001, "less than or equal to 1000 (given: 1001)"),
        (
            "training.learning_rate",
            float("inf"),
            "learning_rate: Input should be a finite number (given: inf)",
        ),
        (
            "training.learning_rate",
            float("nan"),
            "learning_rate: Input should be a finite number (given: nan)",
        ),
        ("training.learning_rate", "inf", "learning_rate: Input should be a finite number (given: 'inf')"),
        ("training.max_grad_norm", float("inf"), "max_grad_norm: Input should be a finite number"),
        ("goal.max_loss", float("inf"), "goal.max_loss: Input should be a finite number (given: inf)"),
        ("goal.min_speedup", [float("inf")], "goal.min_speedup.0: Input should be a finite number"),
        ("tasks.tiers.evaluation_rows", 50, "set `generated.evaluation_rows`"),
        ("tasks.tiers.text", ["sentence"], "one column, text: [text], by label: label, with two labels"),
        ("tasks.tiers.label", "stars", "one column, text: [text], by label: label, with two labels"),
        ("tasks.tiers.labels", ["a", "b", "c"], "with two labels"),
        (
            "methods.full.train.gradient",
            "equilibrium",
            "`gradient` has no meaning for methods.full, whose models have one exit",
        ),
        (
            "methods.multi_model.train.weights",
            "depth",
            "`weights` has no meaning for methods.multi_model, whose models",
        ),
        ("evaluation.timed_seeds", [3], "not among seeds"),
        ("goal.min_speedup", [2, 2.0000001], "goal.min_speedup (2, 2) has a value twice"),
        (
            "deployments",
            ["onnx_int8"],
            "deployments [onnx_int8] lacks torch, in which every method is measured; allowed: torch, and onnx_fp32 and "
            "onnx_int8 beside it; write [torch, onnx_int8]",
        ),
        ("deployments", [], "deployments [] lacks torch"),
        ("deployments", ["torch", "torch"], "deployments [torch, torch] repeats; name each once: [torch]"),
        (
            "deployments",
            ["torch", "onnx_int4"],
            "deployments.1: Input should be 'torch', 'onnx_fp32' or 'onnx_int8' (given: 'onnx_int4')",
        ),
        ("methods.full", None, "needs `full`"),
        ("tasks", None, "'tasks' is missing"),
        ("methods.early_exit.train", {"backward": "block_local"}, "needs gradient: blockwise"),
        ("training.learning_rate", "fast", "training.learning_rate"),
        ("methods.leebert.train", {"objective": "module_replacing"}, "by `exits`, e.g. [3]"),
        ("methods.leebert.train", {"objective": "layer_drop", "exits": [1, 2]}, "by `exits`, e.g. [3]"),
        (
            "methods.leebert.train",
            {"objective": "patient_distillation", "exits": [2], "gradient": "blockwise"},
            "`gradient` has no meaning for objective: patient_distillation",
        ),
        ("methods.leebert.train", {"drop_rate": 0.5}, "`drop_rate` has no meaning for objective: joint"),
        ("methods.leebert.train", {"objective": "head_pruning", "pruning": {"share": 1.0}}, "less than 1"),
        ("methods.leebert.train", {"objective": "head_pruning"}, "by `exits`, e.g. [3]"),
        (
            "methods.sweet.train",
            {"objective": "head_pruning", "exits": [2]},
            "list the method under trained_by.train_leebert",
        ),
        ("methods.sweet.train", {"objective": "layer_drop", "exits": [2]}, "list the method under"),
    ],
)
def test_bad_values_are_refused_with_what_is_allowed(path, value, says):
    with pytest.raises(UserError) as told:
        parse_params(changed(path, value))
    assert says in str(told.value)


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ({"weights": "random"}, "weights: random has no meaning for objective: joint"),
        ({"objective": "distill", "weights": "depth"}, "weights: depth has no meaning for objective: distill"),
        ({"objective": "frozen", "weights": "depth"}, "`weights` has no meaning for objective: frozen, only for joint and"),
        ({"alternate": True, "objective": "distill"}, "`alternate` has no meaning for objective: distill, only for joint"),
        ({"targets": "teacher"}, "`targets` has no meaning for objective: joint, only for frozen"),
        ({"objective": "distill", "weight_learning": {}}, "`weight_learning` has no meaning for objective: distill"),
        ({"objective": "distill", "distillation": {"temperature": 0}}, "temperature.*greater than 0"),
        ({"objective": "distill", "distillation": {"teachers": []}}, "teachers.*'last', 'later' or 'all'"),
        ({"objective": "distill", "gradient": "blockwise", "backward": "block_local"}, "losses that stand alone"),
        ({"objective": "weight_learning"}, "stage train_sweet trains joint and learning_to_exit, not objective"),
        ({"gradient": "blockwise", "backward": "block_local", "alternate": True}, "leave out `alternate`"),
        ({"objective": "frozen"}, "not objective: frozen; list the method under trained_by.train_leebert"),
        ({"exits": [3, 2]}, "must be ascending"),
        ({"exits": [4], "alternate": True}, r"`alternate` has no meaning for the single exit \[4\]"),
        ({"exits": [4], "gradient": "blockwise"}, r"`gradient` has no meaning for the single exit \[4\]"),
        ({"exits": [4], "weights": "depth"}, r"`weights` has no meaning for the single exit \[4\]"),
        ({"gradient": "equilibrum"}, "gradient"),
        ({"objective": "weight_learning", "weight_learning": {"scheme": "blo", "group": 2}},
         "`group` has no meaning for scheme: blo, only for clo_v2; remove it"),
        ({"objective": "weight_learning", "weight_learning": {"scheme": "clo_v1", "between": "algorithm"}},
         "`between` has no meaning for scheme: clo_v1"),
        ({"objective": "weight_learning", "weight_learning": {"scheme": "slo", "mixing": "equal"}},
         "`mixing` has no meaning for scheme: slo, only for clo_v1 and clo_v2"),
    ],
)  # fmt: skip
def test_keys_of_another_objective_and_impossible_values_are_refused(train, says):
    with pytest.raises(UserError, match=says):
        parse_params(changed("methods.early_exit.train", train))


def test_how_exits_share_a_model_has_no_meaning_where_no_backbone_has_two():
    body = without_removal()
    body["backbones"]["tiny"]["exits"] = [4]
    body["methods"]["leebert"]["train"]["exits"] = [2, 4]
    with pytest.raises(
        UserError, match=r"`gradient` has no meaning for methods\.sweet, since no backbone has a second exit"
    ):
        parse_params(body)
    body["backbones"]["other"] = body["backbones"]["tiny"] | {"exits": [2, 4]}
    parse_params(body)


def test_exits_that_learn_from_each_other_are_at_least_two():
    with pytest.raises(UserError, match="needs exits that learn from each other, and tiny has the exit"):
        parse_params(changed("methods.leebert.train", {"objective": "distill", "exits": [4]}))


def test_a_key_of_an_objective_from_elsewhere_is_its_own_affair():
    train = MethodTraining(objective="somebodys", targets="teacher", alternate=True)
    assert (train.targets, train.alternate) == ("teacher", True)


def test_a_tasks_training_comes_after_the_general_and_before_the_methods_own():
    body = load_params(ROOT / "params.yaml").model_dump(mode="json")
    body["training"]["epochs"] = 1
    body["tasks"]["tiers"]["training"] = {
        "epochs": 2, "batch_size": 8, "weight_learning": {"group": 7, "learning_rate": 0.5},
    }  # fmt: skip
    body["methods"]["leebert"]["train"] |= {"epochs": 3, "weight_learning": {"group": 5}}
    params = parse_params(body)
    training, method = params.training_of("tiers", "leebert")
    assert (training.epochs, training.batch_size) == (3, 8)
    assert (method.weight_learning.group, method.weight_learning.learning_rate) == (5, 0.5)
    assert method.weight_learning.parametrisation == "softmax"
    training, method = params.training_of("tiers", "sweet")
    assert (training.epochs, method.weight_learning) == (2, None)


def test_the_weight_of_a_token_left_may_be_a_tasks_own():
    own = {"gamma": 1.0, "phi": 0.1, "by_task": {"tiers": {"phi": 0.5}}}
    params = parse_params(changed("methods.adapler.train.removal", own))
    removal = params.training_of("tiers", "adapler")[1].removal
    assert (removal.phi, removal.gamma, removal.eta, removal.by_task) == (0.5, 1.0, 0.25, {})
    assert params.training_of("tiers", "adapler_early_exit")[1].removal is None
    with pytest.raises(UserError, match="no task 'tier' in the params"):
        parse_params(changed("methods.adapler.train.removal", {"by_task": {"tier": {"phi": 0.5}}}))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "tasks: 3\n"])
def test_a_file_of_another_shape_is_one_clear_error(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match="params"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(UserError, match="no params file"):
        load_params(tmp_path / "elsewhere.yaml")


def test_a_methods_overrides_change_its_training_and_no_others():
    params = parse_params(changed("methods.sweet.train.learning_rate", 0.5))
    training, method = params.training_of("tiers", "sweet")
    assert (training.learning_rate, training.epochs) == (0.5, params.training.epochs)
    assert method == params.method("sweet").train
    assert params.training_of("tiers", "early_exit")[0] == params.training


def test_the_packages_file_names_are_the_names_of_rules_and_objectives():
    assert {"confidence", "entropy", "margin", "learning_to_exit", "fixed", "oracle", "uncertainty"} <= set(
        module_names("exit_rules")
    )
    assert "base" not in module_names("objectives")


def test_the_deployments_that_may_be_asked_for_are_those_that_there_are():
    assert get_args(DeploymentKind) == DEPLOYMENTS
    assert parse_params(changed("deployments", list(DEPLOYMENTS))).deployments == list(DEPLOYMENTS)


def test_every_rule_and_objective_that_a_preset_names_is_a_dependency_of_its_stages():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for preset in (ROOT / "presets").glob("*.yaml"):
        params = load_params(preset)
        for rule in {rule for method in params.methods.values() for rule in method.rules}:
            for stage in ("calibrate_thresholds", "evaluate_batch1"):
                assert (
                    f"src/adaptive_inference/exit_rules/{rule.partition('(')[0]}.py" in stages[stage]["deps"]
                )
        for stage, names in params.trained_by.by_stage.items():
            for objective in {params.method(name).train.objective for name in names}:
                assert f"src/adaptive_inference/objectives/{objective}.py" in stages[stage]["deps"]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("tasks", {"tickets.v2": {"source": "local", "train": "a.csv"}}, "no dot"),
        ("backbones", {"bert": {"weights": "org/bert", "exits": [1]}}, "revision"),
        ("backbones", {"bert": {"weights": "/models/bert", "exits": [1]}}, "sha256"),
        ("trained_by", {"train_sweet": ["early_exit", "learning_to_exit"], "train_leebert": [],
                        "train_multi_model": ["multi_model", "sweet"]},
         "static_K"),
    ],
)  # fmt: skip
def test_what_would_go_wrong_later_is_refused(path, value, says):
    body = parse_params(without_removal()).model_dump(mode="json")
    with pytest.raises(UserError, match=says):
        parse_params(body | {path: value})


@pytest.mark.parametrize(
    ("references", "says"),
    [
        ({"sweet": ["pabbee"]}, "no method 'pabbee'.*pabee"),
        ({"sweet": ["sweet"]}, "itself"),
        ({"sweet": ["pabee", "pabee"]}, "twice"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(references, says):
    body = load_params(ROOT / "params.yaml").model_dump(mode="json")
    for name, asked in references.items():
        body["methods"][name]["references"] = asked
    with pytest.raises(UserError, match=says):
        parse_params(body)


def test_a_reference_belongs_to_the_tables_alone():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    tracked = {
        name: [key for key in stage["params"] if isinstance(key, str) and key.startswith("methods")]
        for name, stage in stages.items()
        if "params" in stage
    }
    assert tracked.pop("make_tables") == ["methods"]
    assert {key.rpartition(".")[2] for keys in tracked.values() for key in keys} == {"train", "rules"}


@pytest.mark.parametrize(
    ("key", "train", "cascades", "says"),
    [
        ("static_3", {"exits": [2]}, [], r"give it exits: \[3\]"),
        ("static_3", {}, [], r"give it exits: \[3\]"),
        (
            "static_3",
            {"exits": [3], "objective": "learning_to_exit"},
            [],
            "objective: joint, or another name",
        ),
        ("static_2", {"exits": [2]}, ["multi_model"], "member of multi_model that has 2 layers"),
        ("static_3", {"exits": [3]}, ["multi_model"], None),
        ("static_2", {"exits": [2]}, [], None),
        ("static_exit", {}, ["multi_model"], None),
    ],
)
def test_static_k_is_the_first_k_layers_and_stands_in_the_tables_once(key, train, cascades, says):
    """The smoke preset's backbone has the exits 2 and 4, and so has its multi-model."""
    body = copy.deepcopy(SMOKE)
    body["methods"][key] = {"train": train, "rules": ["fixed"]}
    body["trained_by"]["train_sweet"].append(key)
    body["trained_by"]["train_multi_model"] = cascades
    if not cascades:
        del body["methods"]["multi_model"]
    if says is None:
        assert parse_params(body).method(key).rules == ["fixed"]
    else:
        with pytest.raises(UserError, match=says):
            parse_params(body)
