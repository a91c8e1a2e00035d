"""What `params.yaml` may say of tasks and backbones: each source has its own keys, and nothing may change unseen."""

import pytest
from smoke_params import changed

from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import weights_kind
from adaptive_pipeline.params import parse_params


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
