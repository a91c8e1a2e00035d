"""Code of one's own: found by its path, told where it fails, noted by its digest, and never run because of a saved model."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from adaptive_inference import by_name, cli
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule, load_rules
from adaptive_inference.exits import build_model, load_model
from adaptive_inference.files import read_json, write_json
from adaptive_inference.objectives import load_objective
from adaptive_inference.own_code import digest_own_code, load_own_code, loaded_own_code
from adaptive_inference.serving.export import export
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.settings.training import MethodTraining
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.params import load_params, own_code, parse_params, preflight
from adaptive_pipeline.stage import Stage, run_stage

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/your_method.md").read_text()
FILES = dict(re.findall(r"`(own_code/\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
SCHEMA = Schema("tiny", "classification", ("bad", "good"), "accuracy", 32)
MINE = "own_code/mine.py"
ADAPTER = """
from adaptive_inference.backbones.roberta import RobertaBackbone

class Camembert(RobertaBackbone):
    pass

BACKBONE = Camembert
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the page's two files and an adapter, in a process that has loaded nothing of one's own."""
    monkeypatch.chdir(tmp_path)
    by_name.loaded.clear()
    before = set(sys.modules)
    (tmp_path / "own_code").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "own_code/camembert.py").write_text(ADAPTER)
    yield tmp_path
    by_name.loaded.clear()
    for name in set(sys.modules) - before:
        if name.startswith(("own_code", "their_package")):
            del sys.modules[name]


def params_with(**changes):
    """Return the smoke preset with a method `mine` of one's own code, or other values."""
    body = yaml.safe_load((ROOT / "presets/smoke.yaml").read_text())
    body["trained_by"]["train_sweet"].append("mine")
    body["methods"]["mine"] = {
        "train": {"objective": changes.get("objective", "own_code/focal.py")},
        "rules": [changes.get("beside", "confidence"), changes.get("rule", "own_code/renyi.py")],
    }
    body["backbones"]["tiny"] |= changes.get("backbone", {})
    return parse_params(body)


def test_the_files_of_the_page_are_an_objective_and_a_rule(project):
    assert set(FILES) == {"own_code/focal.py", "own_code/renyi.py"}
    preflight.check_own_code(params_with())
    objective = load_objective("own_code/focal.py", MethodTraining(objective="own_code/focal.py"))
    assert objective.name == "focal"
    rule = load_rules(["own_code/renyi.py", "confidence"])["renyi"]
    assert rule is load_rule("renyi")
    logits = np.random.default_rng(0).normal(size=(50, 3, 4)) * 3
    grid = rule.grid(4, 20, 3)
    exits = rule.exit_indices(logits, None, None, grid)
    assert (exits[0] == 0).all()
    assert (exits[-1] == 2).all()
    for threshold, offline in zip(grid, exits, strict=True):
        online, leaves = rule.online(threshold), np.full(50, 2)
        for k in (1, 0):
            leaves[online.leave(k, logits[:, k])] = k
        assert (leaves == offline).all()


def test_options_follow_the_path_and_tables_call_the_rule_by_its_stem(project):
    text = FILES["own_code/renyi.py"].replace(
        "import numpy", "from dataclasses import dataclass\n\nimport numpy"
    )
    text = text.replace("class Renyi", "@dataclass(frozen=True)\nclass Renyi")
    text = text.replace("    fires = np.less", "    order: float = 2.0\n    fires = np.less")
    (project / "own_code/renyi.py").write_text(text)
    params = params_with(rule="own_code/renyi.py(order=3.0)")
    preflight.check_rules(params)
    assert params.methods["mine"].rule_names == ["confidence", "renyi(order=3.0)"]
    assert load_rule("renyi(order=3.0)").order == 3.0
    with pytest.raises(UserError, match=r"must be written 'own_code/renyi\.py\(order=3\.0\)'"):
        load_rules(["own_code/renyi.py(order=3)"])


@pytest.mark.parametrize(
    ("changes", "text", "message"),
    [
        ({"objective": "own_code/gone.py"}, None, r"methods\.mine\.train\.objective: cannot read 'own_code/gone\.py'"),
        ({"objective": "no_such_package.mine"}, None, "this environment has no package 'no_such_package'; install it"),
        ({"objective": "../mine.py"}, "", r"'\.\./mine\.py' lies outside own_code/, the folder in which DVC sees edits"),
        ({"objective": "own_code/../mine.py"}, "", "lies outside own_code/"),
        ({"objective": MINE}, "x = 1\n", "mine.py has none of OBJECTIVE, RULE, BACKBONE; end it"),
        ({"objective": "own_code/renyi.py"}, None, r"own_code/renyi\.py has no OBJECTIVE; end it with `OBJECTIVE = "),
        ({"objective": MINE}, "OBJECTIVE = 3\n", r"OBJECTIVE is 3; it must be a subclass of .*\.Objective"),
        ({"rule": MINE}, "RULE = dict\n", r"methods\.mine\.rules: .*must be an object of a subclass of"),
        ({"rule": MINE}, "from adaptive_inference.exit_rules.margin import RULE\n", "called 'margin'; define"),
        ({"rule": MINE}, "import numpy\n\nimport torchh\n", r"own_code/mine\.py, line 3: ModuleNotFoundError"),
        ({"rule": MINE}, "def f():\n    return 1 / 0\nRULE = f()\n", r"mine\.py, line 2: ZeroDivisionError"),
        ({"rule": MINE}, "import sys\n\nsys.exit(3)\n", r"own_code/mine\.py, line 3: SystemExit: 3$"),
        ({"rule": MINE}, "raise OSError('first\\nsecond')\n", r"own_code/mine\.py, line 1: OSError: first$"),
        ({"rule": MINE}, "\nRULE = (\n", r"own_code/mine\.py, line 2: SyntaxError"),
        ({"rule": "own_code/margin.py"}, "RULE = 1\n", "the name 'margin' is taken by a built-in one in exit_rules; rename"),
        ({"rule": "own_code/my-rule.py"}, "RULE = 1\n", "'my-rule' is no name; rename the file"),
        ({"backbone": {"adapter": "own_code/renyi.py"}}, None, r"backbones\.tiny\.adapter: .* has no BACKBONE"),
        ({"backbone": {"adapter": "bert"}}, None, "'bert' is no code of one's own; give a file, own_code/NAME.py"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_one_sentence_before_any_training(project, changes, text, message):
    (named,) = (value if isinstance(value, str) else value["adapter"] for value in changes.values())
    if text is not None:
        (project / named).resolve().write_text(text)
    with pytest.raises(UserError, match=message) as told:
        preflight.check_own_code(params_with(**changes))
    assert "\n" not in str(told.value)


def test_an_objective_that_needs_the_full_model_belongs_to_the_stage_that_reads_it(project):
    (project / "own_code/mine.py").write_text(
        "from adaptive_inference.objectives.frozen import Frozen\n\nclass Mine(Frozen):\n    pass\n\nOBJECTIVE = Mine\n"
    )
    with pytest.raises(UserError, match=r"own_code/mine\.py needs the full model; list the method under"):
        preflight.check_own_code(params_with(objective="own_code/mine.py"))


def test_two_spellings_of_a_path_are_one_file_which_is_noted_once(project):
    params = params_with(rule="./own_code/renyi.py")
    params.methods["full"].rules.append("own_code//renyi.py")
    preflight.check_own_code(params)
    own_code.note(params)
    (project / "own_code/renyi.py").write_text(FILES["own_code/renyi.py"] + "\n# edited\n")
    with pytest.raises(UserError, match=r"^own_code/renyi\.py was edited"):
        own_code.check_loaded()
    noted = yaml.safe_load(own_code.NOTED.read_text())["exit_rules"]
    assert list(noted["mine"]) == list(noted["full"]) == ["own_code/renyi.py"]


def test_two_files_of_one_name_are_refused(project):
    (project / "own_code/other").mkdir()
    (project / "own_code/other/renyi.py").write_text(FILES["own_code/renyi.py"])
    load_own_code("own_code/renyi.py")
    with pytest.raises(UserError, match=r"the name 'renyi' is taken by own_code/renyi\.py in exit_rules"):
        load_own_code("own_code/other/renyi.py")


def test_the_digest_stands_where_the_code_is_used_and_nowhere_else(project):
    own_code.note(params_with(backbone={"adapter": "own_code/camembert.py"}))
    noted = yaml.safe_load(own_code.NOTED.read_text())
    used = {(kind, of, *given) for kind, all_of in noted.items() for of, given in all_of.items() if given}
    assert used == {
        ("objectives", "mine", "own_code/focal.py"),
        ("exit_rules", "mine", "own_code/renyi.py"),
        ("backbones", "tiny", "own_code/camembert.py"),
    }
    assert set(noted["objectives"]) == set(noted["exit_rules"]) == set(params_with().methods)
    (project / "own_code/renyi.py").write_text(FILES["own_code/renyi.py"] + "\n# edited\n")
    own_code.note(params_with(backbone={"adapter": "own_code/camembert.py"}))
    again = yaml.safe_load(own_code.NOTED.read_text())
    assert again["exit_rules"]["mine"] != noted["exit_rules"]["mine"]
    again["exit_rules"] = noted["exit_rules"]
    assert again == noted


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda file: file.stem)
def test_no_preset_names_code_of_ones_own_whatever_the_options_of_its_rules(project, preset):
    own_code.note(load_params(preset))
    noted = yaml.safe_load(own_code.NOTED.read_text())
    assert not [of for by_owner in noted.values() for of in by_owner.values() if of]


def test_a_built_in_rule_with_an_option_stands_beside_code_of_ones_own(project):
    params = params_with(beside="patience(tolerance=0.25)")
    preflight.check_rules(params)
    preflight.check_own_code(params)
    own_code.note(params)
    (used,) = yaml.safe_load(own_code.NOTED.read_text())["exit_rules"]["mine"]
    assert used == "own_code/renyi.py"


def test_params_without_code_of_ones_own_have_the_digests_they_had():
    params = load_params(ROOT / "presets/smoke.yaml")
    assert "adapter" not in params.echo(["backbones.tiny"])["backbones.tiny"]


def test_an_installed_module_is_digested_with_its_whole_package(project, monkeypatch):
    package = project / "site/their_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "scale.py").write_text("SCALE = 1.0\n")
    (package / "mine.py").write_text(
        "from their_package.scale import SCALE\n\n"
        + FILES["own_code/renyi.py"].replace("1.01", "1.01 * SCALE")
    )
    monkeypatch.syspath_prepend(str(project / "site"))
    params = params_with(rule="their_package.mine")
    preflight.check_own_code(params)
    assert load_rule("mine").name == "mine"
    before = digest_own_code("their_package.mine")
    assert loaded_own_code()["their_package.mine"] == before
    (package / "scale.py").write_text("SCALE = 2.0\n")
    assert digest_own_code("their_package.mine") != before


def saved(folder, rule="renyi", weights="random:bert"):
    """Save a run whose calibration recommends a rule."""
    torch.set_num_threads(1)
    build_model(Backbone(weights=weights, exits=[1, 4]), SCHEMA, 0).save_pretrained(folder / "train/model")
    point = {
        "goal": {"kind": "max_loss", "value": 1.0, "cost": "layers"},
        "setting": {"rule": rule, "threshold": 0.5, "member": None},
        "qualifies": True,
        "seen": {"quality": 0.9, "layers_speedup": 4.0, "flops_speedup": None},
        "evidence": {},
    }
    body = {
        "temperatures": [1.0, 1.0],
        "certainty_min": None,
        "certainty_max": None,
        "full_quality": 0.9,
        "num_layers": 4,
    }
    write_json(
        folder / "calibration/calibration.json", body | {"operating_points": [point], "recommended": point}
    )
    return folder


@pytest.mark.parametrize("rule", ["renyi", "own_code/renyi.py", "own_code.renyi"])
def test_a_saved_model_runs_no_code_by_the_name_of_its_rule(project, capsys, rule):
    (project / "own_code/renyi.py").write_text("open('it_ran', 'w')\n" + FILES["own_code/renyi.py"])
    folder = saved(project / "run", rule)
    (project / "texts.txt").write_text("a lovely film\n")
    assert cli.main(["predict", str(folder), "texts.txt"]) == 2
    assert (
        "Code of somebody's own is run only where you name its file: --own-code FILE"
        in capsys.readouterr().err
    )
    assert not (project / "it_ran").exists()


def test_a_model_with_a_rule_of_ones_own_answers_and_is_exported_where_its_file_is_named(project, capsys):
    folder = saved(project / "run")
    (project / "texts.txt").write_text("a lovely film\n")
    assert cli.main(["predict", str(folder), "texts.txt", "--own-code", "own_code/renyi.py"]) == 0
    assert json.loads(capsys.readouterr().out)["exit_layer"] in (1, 4)
    assert cli.main(["export", str(folder), "out", "--own-code", "own_code/renyi.py"]) == 0
    card = (project / "out/README.md").read_text()
    assert "Needs code that is no part of adaptive-inference nor of this folder: exit rule `renyi`" in card


def test_an_encoder_of_ones_own_is_built_saved_and_loaded_only_where_its_file_is_named(project):
    load_own_code("own_code/camembert.py")
    folder = saved(project / "run", "confidence", "random:camembert")
    export(folder, project / "out")
    assert "encoder `camembert`" in (project / "out/README.md").read_text()
    assert load_model(project / "out").backbone.num_layers == 4
    by_name.loaded.clear()
    with pytest.raises(UserError, match=r"no adapter for model type 'camembert'.*--own-code FILE"):
        load_model(project / "out")


def run_training(project, monkeypatch, main, **says):
    """Run a stage of the method `mine` on an encoder with one's own adapter."""
    body = params_with(backbone={"adapter": "own_code/camembert.py"}).model_dump(
        mode="json", exclude_unset=True
    )
    (project / "params.yaml").write_text(yaml.safe_dump(body))
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    given = ["--task", "tiers", "--backbone", "tiny", "--seed", "0", "--method", "mine", "--out", "out"]
    script = project / "train_sweet.py"
    script.write_text("")
    monkeypatch.setattr(sys, "argv", [str(script), *given])
    run_stage(main, "A stage.", per_method=True, **says)


def begin(stage: Stage):
    train = stage.params.method("mine").train
    load_objective(train.objective, train)
    stage.begin("methods.mine.train")


def test_the_record_has_the_digest_of_what_the_stage_ran_and_of_nothing_else(project, monkeypatch):
    run_training(project, monkeypatch, begin)
    inputs = read_json(project / "out/metrics.json")["inputs"]
    files = ("own_code/camembert.py", "own_code/focal.py")
    assert inputs == {file: digest_own_code(file) for file in files}


def test_a_stage_without_an_encoder_runs_no_adapter(project, monkeypatch):
    run_training(project, monkeypatch, begin, encoder=False)
    assert list(read_json(project / "out/metrics.json")["inputs"]) == ["own_code/focal.py"]


def test_a_result_of_code_that_was_edited_meanwhile_is_not_kept(project, monkeypatch, capsys):
    def main(stage):
        begin(stage)
        (project / "own_code/focal.py").write_text(FILES["own_code/focal.py"] + "\n# edited\n")

    with pytest.raises(SystemExit):
        run_training(project, monkeypatch, main)
    assert "own_code/focal.py was edited after this run began" in capsys.readouterr().err
    assert not (project / "out").exists()


def test_a_stage_refuses_code_that_is_not_what_was_noted_before_any_work(project, monkeypatch, capsys):
    own_code.note(params_with())
    (project / "own_code/focal.py").write_text(FILES["own_code/focal.py"] + "\n# edited\n")
    worked = []
    with pytest.raises(SystemExit):
        run_training(project, monkeypatch, lambda stage: worked.append(begin(stage)))
    assert "own_code/focal.py was edited after this run began" in capsys.readouterr().err
    assert worked == []
