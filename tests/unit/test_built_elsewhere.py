"""What an older version of the project left in ``dvc.lock``."""

import subprocess
import sys

import yaml

import check_params
from adaptive_pipeline import dvc_graph

NOW = {"one": "src/here.py", "two": "pipeline_steps/here.py", "three": "data", "four": "src/here.py"}
THEN = NOW | {"one": "src/moved.py", "two": "pipeline_steps/moved.py", "three": "gone.csv"}


def test_stages_built_from_code_that_is_gone_are_known_and_no_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    for name in ("src", "pipeline_steps", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "here.py").touch()
    stages = {name: {"cmd": "true", "deps": [path]} for name, path in NOW.items()}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    assert dvc_graph.built_by_another_version() == set()  # nothing was built yet
    check_params.tell_of_another_version()
    assert capsys.readouterr().err == ""
    locked = {
        name: {"cmd": "true", "deps": [{"path": path, "hash": "md5", "md5": "0" * 32}]}
        for name, path in THEN.items()
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": locked}))
    assert dvc_graph.built_by_another_version() == {"one", "two"}
    check_params.tell_of_another_version()
    said = capsys.readouterr().err
    assert "these run again: 1 one, 1 two" in said
    assert "make keep" in said
