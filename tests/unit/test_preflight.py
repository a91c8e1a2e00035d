"""What is refused before any stage runs."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from fine_tuned import fine_tuned
from smoke_params import without_removal
from transformers import AutoModel

from adaptive_inference.backbones._at_a_glance import REDUCE_TOKENS, surely_fits
from adaptive_inference.backbones._tiny import tiny_config, tiny_settings
from adaptive_inference.backbones.load import adapter, families, load_config
from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import weights_kind
from adaptive_pipeline.params import load_params, parse_params, preflight

ROOT = Path(__file__).parents[2]
SMOKE = load_params(ROOT / "presets/smoke.yaml")


def in_a_project(folder, text, monkeypatch):
    (folder / "params.yaml").write_text(text)
    monkeypatch.chdir(folder)


def test_cells_of_one_name_are_refused(tmp_path, monkeypatch):
    text = (ROOT / "presets/smoke.yaml").read_text()
    task = text.partition("  tiers:\n")[2].partition("\nbackbones:")[0]
    twice = text.replace(
        "\nbackbones:",
        f"\n  tiers-tiny:\n{task}\nbackbones:\n  tiny-tiny: {{weights: random:bert, exits: [2, 4]}}",
        1,
    )
    in_a_project(tmp_path, twice, monkeypatch)
    with pytest.raises(
        UserError,
        match="two cells would be named tiers-tiny-tiny-adapler-0, tiers-tiny-tiny-adapler_early_exit-0",
    ):
        preflight.checked_params()


def test_a_link_to_a_folder_of_data_is_refused_and_a_link_to_a_file_is_not(tmp_path, monkeypatch):
    in_a_project(tmp_path, (ROOT / "presets/smoke.yaml").read_text(), monkeypatch)
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x.csv").write_text("a\n")
    (tmp_path / "data/mine").mkdir(parents=True)
    (tmp_path / "data/mine/x.csv").symlink_to(tmp_path / "real/x.csv")
    assert preflight.checked_params() == SMOKE
    (tmp_path / "data/linked").symlink_to(tmp_path / "real")
    with pytest.raises(UserError, match="data/linked links to a folder"):
        preflight.checked_params()


def with_method(name, **changes):
    body = SMOKE.model_dump(mode="json")
    body["methods"][name] |= changes
    return parse_params(body)


def test_a_rule_that_needs_heads_which_the_method_lacks_is_refused_before_the_run():
    preflight.check_rules(SMOKE)
    with pytest.raises(UserError, match=r"methods\.sweet.*certainty heads"):
        preflight.check_rules(with_method("sweet", rules=["learning_to_exit"]))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["patience", "patience(tolerance=0.10)"], "stands twice"),
        (["patience(tolerance=.2)"], r"must be written 'patience\(tolerance=0\.2\)'"),
        (["patience_confidence(paitence=2)"], "did you mean 'patience'"),
    ],
)
def test_a_rule_under_two_spellings_or_with_options_that_it_lacks_is_refused_before_the_run(rules, message):
    preflight.check_rules(with_method("sweet", rules=["patience", "patience(tolerance=0.2)", "voting"]))
    with pytest.raises(UserError, match=rf"methods\.sweet.*{message}"):
        preflight.check_rules(with_method("sweet", rules=rules))


@pytest.mark.parametrize(
    "rules", [["confidence"], ["fixed"], ["voting"], ["patience_confidence"], ["patience(tolerance=0.0)"]]
)
def test_a_rule_or_objective_that_a_regression_cannot_use_is_refused_before_the_run(rules):
    body = SMOKE.model_dump(mode="json")
    body["tasks"]["tiers"] |= {
        "source": "local", "generated": None, "train": "a.csv", "kind": "regression", "metric": "pearson", "labels": None,
    }  # fmt: skip
    for name in ("early_exit", "sweet", "multi_model"):
        if name in body["methods"]:
            body["methods"][name]["rules"] = ["fixed"]
    body["methods"]["learning_to_exit"]["rules"] = rules
    with pytest.raises(UserError, match=r"methods\.learning_to_exit.*regression"):
        preflight.check_rules(parse_params(body))


def with_exits(exits, objective="joint"):
    body = SMOKE.model_dump(mode="json")
    body["methods"]["mine"] = {"train": {"exits": exits, "objective": objective}, "rules": ["fixed"]}
    body["trained_by"]["train_leebert"] = [*body["trained_by"]["train_leebert"], "mine"]
    return parse_params(body)


@pytest.mark.parametrize(
    ("exits", "objective", "message"),
    [
        ([2, 9], "joint", r"exits \[9\] lie outside 1\.\.4"),
        ([3], "module_replacing", r"k divides the 4 layers.*\[3\].*\[1\], \[2\], \[4\]"),
    ],
)
def test_a_methods_own_exits_that_an_encoder_or_objective_cannot_have_are_refused_before_the_run(
    exits, objective, message
):
    preflight.check_encoders(with_exits([1, 3, 4]))
    preflight.check_encoders(with_exits([2], objective))
    with pytest.raises(UserError, match=rf"methods\.mine on backbones\.tiny: .*{message}"):
        preflight.check_encoders(with_exits(exits, objective))


def test_a_method_that_starts_from_the_full_model_needs_its_last_exit_before_the_run():
    preflight.check_encoders(with_exits([1, 4], "frozen"))
    with pytest.raises(UserError, match=r"needs an exit after its last layer, 4; the exits are \[1, 2\]"):
        preflight.check_encoders(with_exits([1, 2], "frozen"))


def test_the_encoder_of_a_hub_is_not_fetched_to_look_at_exits():
    body = with_exits([2, 9]).model_dump(mode="json")
    body["backbones"]["tiny"] |= {"weights": "nobody/nothing", "revision": "0" * 40}
    preflight.check_encoders(parse_params(body))


@pytest.mark.parametrize(("weights", "refused"), [("random:deberta", True), ("random:bert", False)])
def test_bf16_for_an_encoder_that_cannot_be_trained_in_it_is_refused_before_the_run(weights, refused):
    body = without_removal()
    body["backbones"]["tiny"]["weights"] = weights
    preflight.check_encoders(parse_params(body))
    body["runtime"]["precision"] = "bf16"
    if refused:
        with pytest.raises(
            UserError, match=r"backbones\.tiny: .*bf16 cannot be used with model type deberta;"
        ):
            preflight.check_encoders(parse_params(body))
    else:
        preflight.check_encoders(parse_params(body))


def with_encoder(weights, exits=(2, 4), max_length=32, **methods):
    """Return the smoke preset on another encoder, with methods of these `train` sections added."""
    body = SMOKE.model_dump(mode="json")
    pin = {"sha256": "0" * 64} if weights_kind(weights) == "folder" else {}
    body["backbones"] = {"mine": {"weights": weights, "exits": list(exits)} | pin}
    body["tasks"]["tiers"]["max_length"] = max_length
    body["methods"]["sweet"]["train"] = {}
    for name, train in methods.items():
        body["methods"][name] = {"train": train, "rules": ["fixed"]}
        body["trained_by"]["train_leebert"].append(name)
    return parse_params(body)


@pytest.fixture
def folder(tmp_path):
    """A folder with the configuration alone, which is all that is read before a run."""

    def write(family, **changes):
        tiny_config(family, **changes).save_pretrained(tmp_path)
        return str(tmp_path)

    return write


@pytest.mark.parametrize("at_hand", ["packaged", "random:bert", "folder"])
def test_exits_and_lengths_that_an_encoder_at_hand_has_not_are_refused_where_no_method_has_own_exits(
    at_hand, folder
):
    weights = (
        folder("bert", num_hidden_layers=6, max_position_embeddings=512) if at_hand == "folder" else at_hand
    )
    layers, longest = (4, 514) if at_hand == "random:bert" else (6, 512)
    preflight.check_encoders(with_encoder(weights, [2, layers], longest))
    with pytest.raises(UserError, match=rf"backbones\.mine: exits \[7\] lie outside 1\.\.{layers}"):
        preflight.check_encoders(with_encoder(weights, [2, 7]))
    says = rf"backbones\.mine: task tiers: max_length {longest + 1} is beyond the {longest} positions"
    with pytest.raises(UserError, match=says):
        preflight.check_encoders(with_encoder(weights, [2, 4], longest + 1))


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("random:bertt", "no adapter for model type 'bertt'; allowed: albert, .*did you mean 'bert'"),
        ("packaged:all-mpnet", "no packaged encoder 'packaged:all-mpnet'; there are packaged and packaged:all-mpnet"),
        ("./nowhere", r"no folder './nowhere'; `weights` is `packaged`"),
    ],
)  # fmt: skip
def test_an_encoder_that_is_not_there_is_refused_before_the_run(weights, says):
    with pytest.raises(UserError, match=rf"backbones\.mine: {says}"):
        preflight.check_encoders(with_encoder(weights))


def test_a_folder_of_another_family_is_refused_before_the_run(folder):
    weights = folder("bert")
    preflight.check_encoders(with_encoder(weights))
    file = Path(weights) / "config.json"
    file.write_text(file.read_text().replace('"bert"', '"gpt2"'))
    with pytest.raises(
        UserError, match=r"backbones\.mine: .*config\.json: no adapter for model type 'gpt2'; allowed: albert"
    ):
        preflight.check_encoders(with_encoder(weights))


def test_blocks_of_an_encoder_whose_layers_are_one_are_refused_before_the_run():
    blocks = {"gradient": "blockwise"}
    preflight.check_encoders(with_encoder("random:bert", mine=blocks))
    with pytest.raises(
        UserError,
        match=r"methods\.mine on backbones\.mine: gradient: blockwise .*albert runs the same weights",
    ):
        preflight.check_encoders(with_encoder("random:albert", mine=blocks))


@pytest.mark.parametrize(("family", "removable"), [("bert", True), ("distilbert", False), ("albert", False)])
def test_pruned_heads_of_an_encoder_that_cannot_lose_any_are_refused_before_the_run(family, removable):
    params = with_encoder(f"random:{family}", mine={"objective": "head_pruning", "exits": [4]})
    if removable:
        preflight.check_encoders(params)
    else:
        with pytest.raises(
            UserError, match=rf"methods\.mine on .*: attention heads of {family} cannot be taken"
        ):
            preflight.check_encoders(params)


@pytest.mark.parametrize("groups", [1, 2])
def test_dropped_layers_of_an_encoder_with_several_groups_are_refused_before_the_run(groups, folder):
    weights = folder("albert", num_hidden_groups=groups)
    params = with_encoder(weights, mine={"objective": "layer_drop", "exits": [2]})
    if groups == 1:
        preflight.check_encoders(params)
    else:
        with pytest.raises(UserError, match=r"methods\.mine on .*this albert has 2 groups of layers"):
            preflight.check_encoders(params)


@pytest.mark.parametrize("family", families())
def test_what_passes_at_a_glance_passes_a_close_look(family, folder):
    """The short cut may not know a family's habits; so it is held against the family itself, at every limit."""
    for weights in (f"random:{family}", folder(family)):
        config, kind = load_config(weights), adapter(family)
        longest = kind.longest(config)
        passed = [length for length in range(longest + 2) if surely_fits(weights, [4], length, False)]
        assert all(length <= longest for length in passed)
        usual = "num_hidden_layers" in tiny_settings(family)  # DistilBERT's key is another
        assert (256 in passed) == usual
        assert not surely_fits(weights, [5], 32, False)
        assert not surely_fits(weights, [0, 4], 32, False)
        assert not (kind.shares_layers and surely_fits(weights, [2, 4], 32, True))
        assert not surely_fits(weights, [2, 4], 32, False, lasts=[2])
        assert kind.reduces_tokens or not surely_fits(weights, [4], 32, False, reduces=True)
        assert kind.reduces_tokens == (family.replace("-", "_") in REDUCE_TOKENS)


@pytest.mark.parametrize(
    "config", ['{"model_type": "bert", "num_hidden_layers": 1e999}', "[" * 100_000], ids=["endless", "nested"]
)
def test_a_configuration_out_of_bounds_is_told(config, folder):
    weights = folder("bert")
    (Path(weights) / "config.json").write_text(config)
    with pytest.raises(UserError, match=r"backbones\..*config\.json"):
        preflight.check_encoders(with_encoder(weights))


def test_params_that_ask_for_nothing_special_are_checked_without_torch():
    code = (
        "import sys\nfrom adaptive_pipeline.params import preflight\n"
        f"preflight.checked_params({str(ROOT / 'presets/classifiers.yaml')!r})\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_library_says_while_encoders_are_looked_at_is_shown(capsys, monkeypatch):
    logger = logging.getLogger("adaptive_inference.backbones.packaged")
    monkeypatch.setattr(preflight, "surely_fits", lambda *_: logger.info("joining it, once") or True)
    preflight.checked_params(ROOT / "presets/smoke.yaml")
    assert capsys.readouterr().err.startswith("adaptive-inference: joining it, once\n")


def test_too_few_generated_rows_are_refused_before_the_run(tmp_path, monkeypatch):
    text = (ROOT / "presets/smoke.yaml").read_text()
    in_a_project(
        tmp_path,
        text.replace("rows: 400, evaluation_rows: 100", "rows: 105, evaluation_rows: 100"),
        monkeypatch,
    )
    with pytest.raises(
        UserError, match=r"the generated task 'tiers' of 105 rows leaves 5 rows .* at least 10"
    ):
        preflight.checked_params()


def test_a_training_file_that_is_reported_under_another_name_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.csv").write_text("text,label\ngood,1\n")
    (tmp_path / "data/c.csv").write_text("text,label\ngood,1\n")
    (tmp_path / "data/b.csv").symlink_to(tmp_path / "data/a.csv")
    body = SMOKE.model_dump(mode="json")
    body["tasks"]["tiers"] |= {"source": "local", "generated": None, "train": "a.csv", "evaluation": "c.csv"}
    preflight.check_evaluation_files(parse_params(body))
    body["tasks"]["tiers"]["evaluation"] = "b.csv"
    with pytest.raises(UserError, match=r"tasks\.tiers: evaluation 'b\.csv' and train 'a\.csv' are one file"):
        preflight.check_evaluation_files(parse_params(body))


def with_risk(task=None, **risk):
    body = SMOKE.model_dump(mode="json")
    body["goal"]["risk"] = risk
    body["tasks"]["tiers"] |= task or {}
    return parse_params(body)


@pytest.mark.parametrize(
    ("rows", "calibration_rows", "match"),
    [
        (1600, 300, None),  # 150 certify, 149 are needed
        (
            1600,
            290,
            r"tasks\.tiers: goal\.risk: delta 0\.02 .*needs 149 rows .*290 calibration rows give 145",
        ),
        (300, 300, "40 calibration rows give 20"),  # a fifth of what the evaluation split leaves
    ],
)
def test_a_risk_that_no_calibration_split_of_this_task_can_certify_is_refused_before_the_run(
    rows, calibration_rows, match
):
    generated = {"rows": rows, "evaluation_rows": 100}
    params = with_risk({"generated": generated, "calibration_rows": calibration_rows}, delta=0.02)
    if match is None:
        preflight.check_risk(params)
    else:
        with pytest.raises(UserError, match=match):
            preflight.check_risk(params)
    preflight.check_risk(SMOKE)  # asks for none


def test_the_rows_of_a_file_are_counted_before_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 250)
    task = {"source": "local", "generated": None, "train": "a.csv"}
    preflight.check_risk(with_risk(task, delta=0.1))  # 500 rows: 100 evaluation, 80 calibration, 40 certify
    with pytest.raises(UserError, match=r"80 calibration rows give 40"):
        preflight.check_risk(with_risk(task, delta=0.05))


def test_a_risk_of_a_regression_is_refused_before_the_run_and_names_the_task():
    task = {"source": "local", "generated": None, "train": "a.csv", "labels": None}
    task |= {"kind": "regression", "metric": "pearson"}
    with pytest.raises(UserError, match=r"tasks\.tiers: goal\.risk.*regression"):
        preflight.check_risk(with_risk(task, delta=0.1))


LOCAL = {"source": "local", "generated": None, "train": "a.csv", "labels": None}


def with_own_head(folder, names, **task):
    body = SMOKE.model_dump(mode="json")
    body["backbones"] = {"mine": fine_tuned("bert", folder, names)[1] | {"exits": [2, 4]}}
    body["tasks"]["tiers"] |= task
    for method in body["methods"].values():
        method["rules"] = ["fixed"]
    return parse_params(body)


@pytest.mark.parametrize(
    ("names", "task", "message"),
    [
        (("no", "yes"), {}, "answers no, yes, and the task's classes are negative, positive"),
        (("no", "yes"), LOCAL | {"kind": "regression", "metric": "pearson"}, "asks for a score"),
        (("LABEL_0",), {}, "answers LABEL_0, and the task's"),
    ],
)
def test_a_folders_own_head_that_does_not_answer_a_task_is_refused_before_the_run(
    names, task, message, tmp_path
):
    preflight.check_own_heads(with_own_head(tmp_path / "right", ("Positive", "NEGATIVE")))
    with pytest.raises(UserError, match=rf"backbones\.mine: task tiers: .*{message}"):
        preflight.check_own_heads(with_own_head(tmp_path / "wrong", names, **task))


def test_a_folder_without_a_head_is_refused_before_the_run_whatever_the_classes(tmp_path):
    params = with_own_head(tmp_path, ("no", "yes"), **LOCAL)
    preflight.check_own_heads(params)  # which classes the file names is seen when the data are prepared
    AutoModel.from_config(tiny_config("bert")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"backbones\.mine: .* holds no classification head"):
        preflight.check_own_heads(params)
