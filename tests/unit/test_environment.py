"""The pins: one set, wherever they are written."""

import re
import subprocess
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9._!]+)", line).groups() for line in lines]
    return {canonicalize_name(name): version for name, version in pins}


def requirements(without=("lora", "mpnet")):
    """Return what `make setup` installs, `without` nothing: what any extra installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    groups = [project["dependencies"], *(group for name, group in extras.items() if name not in without)]
    return [Requirement(text) for group in groups for text in group if not text.startswith(project["name"])]


def test_every_requirement_is_pinned_inside_its_range():
    pins = constraints()
    for requirement in requirements(without=()):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_torch_is_pinned_without_a_local_version():
    assert constraints()["torch"] == "2.13.0"
    assert not any(Version(version).local for version in constraints().values())


def test_condas_pins_are_those_of_the_constraints():
    body = yaml.safe_load((ROOT / "environment.yml").read_text())
    (listed,) = [part["pip"] for part in body["dependencies"] if isinstance(part, dict)]
    conda = {canonicalize_name(name): version for name, version in (pin.split("==") for pin in listed)}
    assert conda == {name: constraints()[name] for name in conda}
    assert conda.keys() == {canonicalize_name(requirement.name) for requirement in requirements()}


def test_the_pins_are_what_is_installed():
    from importlib.metadata import version

    for requirement in requirements():
        installed = version(requirement.name).partition("+")[0]
        assert installed == constraints()[canonicalize_name(requirement.name)], requirement.name


def test_nothing_of_one_machine_is_in_the_project():
    tracked = [
        path
        for folder in ("src", "pipeline_steps", "workflow", "presets", "profiles")
        for path in (ROOT / folder).rglob("*")
    ]
    tracked += [
        ROOT / name
        for name in (
            "Makefile",
            "Snakefile",
            "dvc.yaml",
            "constraints.txt",
            "pyproject.toml",
            "environment.yml",
        )
    ]
    words = re.compile(r"/opt/|/home/|/root/|/work/|index-url|find-links")
    texts = {path: path.read_text() for path in tracked if path.is_file() and path.suffix != ".pyc"}
    assert [str(path) for path, text in texts.items() if words.search(text)] == []


def test_extras_that_are_not_installed_yet_are_another_set_up(tmp_path):
    def make(how, extras):
        command = ["make", how, "setup", f"VENV={tmp_path}", f"EXTRAS={extras}"]
        return subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode

    assert make("--touch", "dev") == 0  # as after a set-up
    assert (make("--question", "dev"), make("--question", "dev,mpnet")) == (0, 1)
