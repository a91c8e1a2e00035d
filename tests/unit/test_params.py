"""What `params.yaml` may say, and how it is told what it may not."""

import copy
from pathlib import Path

import pytest
import yaml

from adaptive_inference.by_name import module_names
from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import Backbone, Generated, Task, weights_kind
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
from adaptive_pipeline.params import load_params, parse_params
from adaptive_pipeline.runs.records import digest_params
from adaptive_pipeline.runs.validity import changed_params

ROOT = Path(__file__).parents[2]
SMOKE = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text())


def changed(path, value):
    """Return the smoke preset with one value set (or removed, for None)."""
    body = copy.deepcopy(SMOKE)
    *parents, last = path.split(".")
    at = body
    for part in parents:
        at = at[part]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return body


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


def test_a_hub_task_needs_a_pinned_revision():
    task = {"source": "hub", "hub_id": "nyu-mll/glue", "train": "train"}
    with pytest.raises(UserError, match="pinned `revision`"):
        parse_params(changed("tasks", {"mnli": task}))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"source": "local", "train": "a.csv", "hub_id": "a/b"}, "`hub_id` has no meaning for source: local"),
        ({"source": "local", "train": "a.csv", "hub_config": "b"}, "`hub_config` has no meaning for source: local"),
        ({"source": "generated", "revision": "0" * 40}, "`revision` has no meaning for source: generated"),
        ({"source": "local", "train": "a.csv", "generated": {}}, "`generated` has no meaning for source: local"),
        ({"source": "hub", "train": "t", "hub_id": "a/b", "revision": "main"}, "'main' may change: give the commit"),
        ({"source": "local", "train": "a.csv", "evaluation": "a.csv"}, "`evaluation` is 'a.csv', which `train` is too"),
        ({"source": "local", "train": "a.csv", "evaluation": "./a.csv"}, "leave `evaluation` out"),
        ({"source": "hub", "train": "t", "evaluation": "t", "hub_id": "a/b", "revision": "0" * 40}, "which `train` is too"),
        ({"source": "local", "train": "a.csv", "evaluation": "b.csv", "evaluation_rows": 5}, "'b.csv'; remove one"),
        ({"source": "local", "train": "a.csv", "kind": "regression", "metric": "pearson", "labels": ["a", "b"]},
         "name classes, but the task is a regression; remove them"),
    ],
)  # fmt: skip
def test_keys_of_another_source_or_kind_and_moving_revisions_are_refused(keys, says):
    with pytest.raises(UserError, match=says):
        parse_params(changed("tasks", {"mine": keys}))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"weights": "org/bert"}, r"a hub id, may change: pin it by `revision` \(folders start with \./\)"),
        ({"weights": "org/bert", "sha256": "0" * 64}, "a hub id, may change: pin it by `revision`"),
        ({"weights": "org/bert", "revision": "main"}, "revision 'main' may change"),
        ({"weights": "./mine"}, r"a folder, may change: .*sha256sum \./mine/model\.safetensors"),
        ({"weights": "./mine", "revision": "0" * 40, "sha256": "0" * 64}, "`revision` has no meaning for weights './mine'"),
        ({"weights": "packaged", "revision": "0" * 40}, "`revision` has no meaning for weights 'packaged'"),
        ({"weights": "random:bert", "sha256": "0" * 64}, "`sha256` has no meaning"),
        ({"weights": "./mine", "sha256": "abc"}, "sha256 'abc' is none: 64 hexadecimal"),
    ],
)  # fmt: skip
def test_weights_that_may_change_and_pins_without_effect_are_refused(keys, says):
    with pytest.raises(UserError, match=says):
        parse_params(changed("backbones.tiny", {"exits": [2, 4]} | keys))


OWN_HEAD = {"weights": "./mine", "sha256": "0" * 64, "exits": [2, 4], "head": "checkpoint"}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"read": "mean"}, "read: mean does not fit `head: checkpoint`"),
        ({"pooler": "none"}, "pooler: none does not fit `head: checkpoint`"),
        ({"weights": "packaged"}, "'packaged' have no classification head"),
        ({"weights": "random:bert", "sha256": None}, "'random:bert' have no classification head"),
        ({"head": "old"}, "'new' or 'checkpoint'"),
    ],
)
def test_what_a_checkpoints_own_head_does_not_do_is_refused(keys, says):
    parse_params(changed("backbones.tiny", OWN_HEAD))
    with pytest.raises(UserError, match=says):
        parse_params(changed("backbones.tiny", OWN_HEAD | keys))


def test_only_a_full_model_that_came_fine_tuned_may_go_without_epochs():
    body = changed("methods.full.train", {"epochs": 0})
    with pytest.raises(
        UserError, match=r"backbones\.tiny starts with a new head; set head: checkpoint there"
    ):
        parse_params(body)
    body["backbones"]["tiny"] = OWN_HEAD
    training, _ = parse_params(body).training_of("tiers", "full")
    assert training.epochs == 0
    body["methods"]["full"]["train"]["learning_rate"] = 1e-4
    with pytest.raises(UserError, match="`learning_rate` has no meaning for epochs: 0"):
        parse_params(body)
    for path in ("methods.sweet.train.epochs", "training.epochs"):
        with pytest.raises(
            UserError, match=r"epochs: 0 is for `full` alone|training\.epochs.*greater than or equal to 1"
        ):
            parse_params(changed(path, 0) | {"backbones": {"tiny": OWN_HEAD}})


def test_what_weights_name_is_told_without_a_network_or_a_disk():
    names = ["packaged", "random:bert", "org/bert", "bert", "./bert", "/a/b", "a/b/c", "~/b", "a\\b"]
    kinds = ["packaged", "random", "hub", "hub", *["folder"] * 5]
    assert [weights_kind(name) for name in names] == kinds


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
    body = changed("backbones.tiny.exits", [4])
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


def test_the_packages_file_names_are_the_names_of_rules_and_objectives():
    assert {"confidence", "entropy", "margin", "learning_to_exit", "fixed", "oracle", "uncertainty"} <= set(
        module_names("exit_rules")
    )
    assert "base" not in module_names("objectives")


def test_every_rule_and_objective_that_a_preset_names_is_a_dependency_of_its_stages():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for preset in (ROOT / "presets").glob("*.yaml"):
        params = load_params(preset)
        for rule in {rule for method in params.methods.values() for rule in method.rules}:
            for stage in ("calibrate_thresholds", "evaluate_batch1"):
                assert (
                    f"src/adaptive_inference/exit_rules/{rule.partition('(')[0]}.py" in stages[stage]["deps"]
                )
        for stage, names in params.trained_by.items():
            for objective in {params.method(name).train.objective for name in names}:
                assert f"src/adaptive_inference/objectives/{objective}.py" in stages[stage]["deps"]


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
    assert section(Goal) == {"cost": "layers", "max_loss": 1.0, "min_speedup": [2.0], "risk": None}
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
    }  # fmt: skip
    assert section(Distillation) == {"teachers": "all", "temperature": 2.0, "detach": True}
    assert section(WeightLearning) == {
        "scheme": "clo_v2", "group": 4, "between": "text", "parametrisation": "softmax", "learning_rate": 1e-3,
        "optimizer": "adam", "mixing": "ratio", "minimum": None,
    }  # fmt: skip
    assert section(PatientDistillation) == {"alpha": 0.5, "beta": 1.0, "temperature": 5.0}
    assert section(Replacement) == {"start": 0.5, "ramp": 0.5}
    assert section(HeadPruning) == {"share": 0.5, "rows": 2000}


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
    body = load_params(ROOT / "presets/smoke.yaml").model_dump(mode="json")
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
