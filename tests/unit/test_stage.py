"""What stage scripts share, run in this process."""

import ast
import sys
from pathlib import Path

import pytest

from adaptive_pipeline import stage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A stage that edits its params file while it runs."""
    params = tmp_path / "params.yaml"
    params.write_text((ROOT / "presets/smoke.yaml").read_text())
    name, out = str(ROOT / "pipeline_steps/finetune_backbone.py"), tmp_path / "out"
    cell = ["--task", "tiers", "--backbone", "tiny", "--seed", "0"]
    monkeypatch.setattr(sys, "argv", [name, *cell, "--params", str(params), "--out", str(out)])
    monkeypatch.setenv("ADAPTIVE_INFERENCE_TRACKING", "off")
    monkeypatch.setattr(stage, "_set_threads", lambda count: None)

    def run(before, after):
        def main(running):
            running.begin("training", "methods.full.train")
            text = params.read_text()
            assert before in text
            params.write_text(text.replace(before, after))

        stage.run_stage(main, "")
        return out

    run.out = out
    return run


@pytest.mark.parametrize(("before", "after"), [("epochs: 1", "epochs: 3"), ("epochs: 1", "epoch: 1")])
def test_a_result_whose_params_were_edited_meanwhile_is_not_kept(before, after, script, capsys):
    """DVC would note the edited params beside it, and never run the stage again."""
    with pytest.raises(SystemExit) as ended:
        script(before, after)
    assert ended.value.code == 2
    assert (
        "was edited while this stage ran, in one of training, methods.full.train" in capsys.readouterr().err
    )
    assert not script.out.exists()


def test_an_edit_of_what_the_stage_does_not_read_is_no_harm(script):
    assert (script("max_loss: 1.0", "max_loss: 2.0") / "metrics.json").is_file()


def test_no_package_imports_a_script():
    """Scripts and workflow are on top; `lint-imports` knows the packages alone."""
    folders = ("pipeline_steps", "workflow")
    above = {*folders, *(file.stem for folder in folders for file in (ROOT / folder).glob("*.py"))}
    assert {"train_sweet", "run_stage"} <= above
    for file in (ROOT / "src").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        named += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        assert above.isdisjoint(name.partition(".")[0] for name in named), file
