"""Presets, and what is generated from the params classes."""

import subprocess
import sys
from pathlib import Path

import pytest

from adaptive_inference.errors import UserError
from adaptive_pipeline import presets
from adaptive_pipeline.params import Params, load_params
from adaptive_pipeline.params import describe as describe_params

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_valid(name):
    params = load_params(presets.preset_path(name))
    assert presets.preset_of(params) == name


def test_the_params_of_a_fresh_clone_are_the_default_preset():
    assert (ROOT / "presets/default.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_the_default_is_as_large_as_promised():
    params = load_params(presets.preset_path("default"))
    exits = {"full", "early_exit", "sweet", "multi_model", "pabee", "leebert"}
    assert set(params.methods) == exits | {"adapler", "adapler_early_exit"}
    assert params.explanations.methods == ["full", "adapler"]
    assert params.explanations.integrated_gradients_rows == 50
    assert params.goal.cost == "flops"
    assert params.training.epochs >= 2
    assert params.backbones["minilm"].exits == [2, 4, 6]
    assert params.evaluation.timed_seeds == params.seeds[:1]


@pytest.mark.parametrize(
    ("name", "says"), [("smok", "did you mean 'smoke'"), ("", "NAME="), ("../params", "no preset")]
)
def test_an_unknown_preset_is_refused_with_the_nearest_name(name, says):
    with pytest.raises(
        UserError,
        match=r"allowed: adapler-minilm, .*, classifiers, default, .*, free-multi30k, .*, glue-small-cola",
    ) as told:
        presets.preset_path(name)
    assert says in str(told.value)


def test_using_a_preset_puts_edits_aside_that_are_nowhere_else(tmp_path, monkeypatch, capsys):
    (tmp_path / "presets").mkdir()
    for name in presets.names():
        (tmp_path / "presets" / f"{name}.yaml").write_text(presets.preset_path(name).read_text())
    monkeypatch.chdir(tmp_path)
    presets.use("smoke")
    assert not Path("params.previous.yaml").exists()
    mine = Path("params.yaml").read_text() + "# mine\n"
    Path("params.yaml").write_text(mine)
    presets.use("default")
    assert Path("params.previous.yaml").read_text() == mine
    assert Path("params.yaml").read_text() == Path("presets/default.yaml").read_text()
    assert "params.previous.yaml" in capsys.readouterr().out
    Path("params.yaml").write_text("# others\n" + mine)
    presets.use("default")
    assert Path("params.previous.yaml").read_text() == mine
    assert Path("params.previous2.yaml").read_text() == "# others\n" + mine
    Path("params.yaml").write_text(mine)
    presets.use("default")
    assert not Path("params.previous3.yaml").exists()


def test_make_preset_says_it_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "adaptive_pipeline.presets", "use", "smok"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": "src"},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no preset 'smok'")


def test_page_and_schema_are_what_the_params_classes_say():
    assert describe_params.PAGE.read_text() == describe_params.page_text()
    assert describe_params.SCHEMA.read_text() == describe_params.schema_text()


def test_every_key_is_explained():
    for where, model in describe_params._sections(Params, ""):
        assert model.__doc__
        for name, field in model.model_fields.items():
            assert field.description, f"{where}.{name}"
