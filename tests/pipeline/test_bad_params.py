"""What `dvc repro` alone refuses before it runs a command or takes an output away."""

import hashlib
import re

import pytest
import yaml

pytestmark = pytest.mark.pipeline
CELL = "tiny/seed0/data"


@pytest.fixture(scope="module")
def project(fresh, tmp_path_factory):
    """A project whose params were checked once, beside a folder that is not its own."""
    outside = tmp_path_factory.mktemp("outside")
    for folder in (
        "x",
        "project/src/x",
    ):  # ../../x/tiny/seed0/data and ../src/x/tiny/seed0/data, seen from runs/
        (outside / folder / CELL).mkdir(parents=True)
        (outside / folder / CELL / "precious").write_text("keep me")
    copy = fresh(outside / "project")
    copy.run("dvc", "repro", "check_params")
    return copy


def contents(project):
    """Return all files of the project and around it, what git and DVC keep for themselves left out."""
    files = [file for file in project.root.parent.rglob("*") if file.is_file() or file.is_symlink()]
    own = (project.root / ".git", project.root / ".dvc")
    kept = [f for f in files if not any(f.is_relative_to(folder) for folder in own) and f.suffix != ".pyc"]
    return {file: hashlib.md5(file.read_bytes()).hexdigest() for file in kept}


def refused(project, file, body, *command):
    """Run a command on other params, hold that nothing was touched, and return its errors of ours."""
    text = (project.root / file).read_text()
    try:
        (project.root / file).write_text(yaml.safe_dump(body, sort_keys=False))
        before = contents(project)
        output = project.run(*command, check=False)
        assert contents(project) == before
    finally:
        (project.root / file).write_text(text)
    assert "Traceback" not in output
    return [line for line in output.splitlines() if line.startswith("error: ")]


def smoke(project):
    return yaml.safe_load((project.root / "presets/smoke.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("../../x", []),
        ("../../x", ["prepare_data"]),
        ("../../x", ["--force"]),
        ("../src/x", ["--pull"]),
        ("; touch x #", []),
        ("$(touch x)", ["--keep-going"]),
        ("a\ntouch x\n", ["--all-pipelines"]),
        # where DVC is told to leave the check out, the name runs in no shell all the same
        ("; touch x #", ["--single-item", "prepare_data"]),
        ("a'; touch x; '", ["--downstream", "prepare_data"]),
    ],
)
def test_a_name_that_is_no_folder_is_refused_in_one_sentence_and_nothing_is_touched(project, name, options):
    body = smoke(project)
    body["tasks"] = {name: body["tasks"]["tiers"]}
    (said,) = refused(project, "params.yaml", body, "dvc", "repro", *options)
    assert f"tasks: the name {name!r} becomes a folder" in said


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("epochs", 0, "training.epochs"),
        ("rules", ["learning_to_exit"], "methods.sweet: .*certainty heads"),
        ("exits", [2, 9], r"methods.sweet on backbones.tiny: .*exits \[9\] lie outside 1\.\.4"),
    ],
)
def test_a_value_that_would_fail_hours_later_is_refused_by_dvc_alone(project, section, value, message):
    body = smoke(project)
    where = {"epochs": body["training"], "rules": body["methods"]["sweet"]}
    where.get(section, body["methods"]["sweet"]["train"])[section] = value
    (said,) = refused(project, "params.yaml", body, "dvc", "repro")
    assert re.search(message, said)


@pytest.mark.parametrize("key", ["search", "task", "points"])
def test_a_search_by_a_name_that_is_no_folder_is_refused_and_nothing_is_touched(project, key):
    name = "; touch x #"
    body = {"search": ["mine"], "task": "tiers", "backbone": "tiny", "method": "sweet", "folds": [0]}
    body |= {"seed": 0, "points": {"p1": {"training.epochs": 2}}}
    body[key] = {"search": [name], "task": name, "points": {name: {}}}[key]
    (said,) = refused(project, "search/params.yaml", body, "dvc", "repro", "search/dvc.yaml")
    assert f"the name {name!r} becomes a folder" in said


def test_the_copy_was_never_more_than_checked(project):
    assert not (project.root / "runs").exists()
    assert (project.root / ".params_checked").is_file()
