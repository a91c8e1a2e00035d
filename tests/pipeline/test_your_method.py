"""docs/your_method.md as a reader follows it: its files and its params, beside methods that are already there."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from adaptive_pipeline.dvc_graph import CHECK
from adaptive_pipeline.runs.digests import digest_path

pytestmark = pytest.mark.pipeline
PAGE = (Path(__file__).parents[2] / "docs/your_method.md").read_text()
FILES = dict(re.findall(r"`(own_code/\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
ADDED = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
RULE, OBJECTIVE = "own_code/renyi.py", "own_code/focal.py"
#: The choice among all methods, the new one too, and the measuring of what is chosen.
RECOMMEND = "recommend@tiers-tiny-0"
AFTER_CHOICE = {
    f"{stage}@tiers-tiny-0" for stage in ("evaluate_recommended", "export_model", "choose_deployment")
}
AFTER_RULE = {"calibrate_thresholds@tiers-tiny-focal-0", "evaluate_batch1@tiers-tiny-focal-0"}
OF_METHOD = {"train_sweet@tiers-tiny-focal-0", "collect_answers@tiers-tiny-focal-0", *AFTER_RULE}


def merged(given, added):
    """Return the params with what the page adds to them."""
    if isinstance(given, dict):
        return given | {
            key: merged(given[key], value) if key in given else value for key, value in added.items()
        }
    return [*given, *added] if isinstance(given, list) else added


def stale(project):
    return set(json.loads(project.run("dvc", "status", "--json")))


def planned(project):
    table = project.run("snakemake", "-n").partition("Job stats:")[2].partition("\ntotal")[0]
    jobs = {line.split()[0] for line in table.splitlines()[3:] if line.strip()}
    return jobs - {"all", "publish_records"}


@pytest.fixture(scope="module")
def project(built, tmp_path_factory):
    """A copy of a finished run to which the page was applied, and run."""
    copy = type(built)(tmp_path_factory.mktemp("your_method") / "project")
    shutil.copytree(built.root, copy.root, symlinks=True)
    shutil.rmtree(copy.root / "logs")
    assert stale(copy) == set()
    copy.others = copy.digests()
    for name, text in FILES.items():
        (copy.root / name).write_text(text)
    params = copy.root / "params.yaml"
    params.write_text(yaml.safe_dump(merged(yaml.safe_load(params.read_text()), ADDED), sort_keys=False))
    copy.stale_at_first, copy.planned_at_first = stale(copy), planned(copy)
    copy.run("snakemake", "--cores", "2")
    return copy


def test_nothing_runs_but_the_cells_of_the_method_the_choice_and_the_tables(project):
    assert project.stale_at_first == {*OF_METHOD, RECOMMEND, "make_tables", CHECK}
    assert project.planned_at_first == {*OF_METHOD, RECOMMEND, *AFTER_CHOICE, "make_tables"}
    assert set(project.executed()) == {*OF_METHOD, RECOMMEND, *AFTER_CHOICE, "make_tables"}
    assert stale(project) == set()
    now = project.digests()
    same = {name: digest for name, digest in project.others.items() if "/recommended/" not in name}
    assert {name: now[name] for name in same} == same
    assert (
        project.run("git", "status", "--porcelain", "--", "src", "dvc.yaml", "own_code", "pipeline_steps")
        == ""
    )


def test_the_method_stands_in_the_tables_with_the_rule_by_its_stem(project):
    with (project.root / "results/tables/main.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["method"] == "focal"]
    assert {row["rule"] for row in rows} == {"confidence", "renyi"}
    assert any(row["quality_mean"] and row["flops_speedup"] for row in rows if row["rule"] == "renyi")
    compared = (project.root / "results/tables/comparisons.csv").read_text()
    assert re.search(r"focal.*early_exit", compared)
    assert "focal" in (project.root / "results/tables/main.md").read_text()


def test_records_hold_the_digest_of_the_files_that_their_stage_ran(project):
    folder = project.root / "runs/tiers/tiny/seed0/focal"
    inputs = {
        name: json.loads((folder / name / "metrics.json").read_text())["inputs"]
        for name in ("train", "calibration", "evaluation")
    }
    own = {name: {k: v for k, v in given.items() if "own_code" in k} for name, given in inputs.items()}
    rule, objective = (digest_path(project.root / file) for file in (RULE, OBJECTIVE))
    assert own == {"train": {OBJECTIVE: objective}, "calibration": {RULE: rule}, "evaluation": {RULE: rule}}


@pytest.mark.parametrize(
    ("file", "direct", "whole"),
    [
        (RULE, {*AFTER_RULE, *AFTER_CHOICE}, AFTER_RULE),
        (OBJECTIVE, {"train_sweet@tiers-tiny-focal-0"}, OF_METHOD),
    ],
)
def test_an_edit_makes_stale_what_uses_the_file_and_the_edit_back_nothing(project, file, direct, whole):
    path = project.root / file
    text = path.read_text()
    try:
        path.write_text(text + "\n# edited\n")
        assert stale(project) == {CHECK}
        assert planned(project) == {*whole, RECOMMEND, *AFTER_CHOICE, "make_tables"}
        assert stale(project) == {*direct, CHECK}
        project.run("dvc", "repro", CHECK)
        assert stale(project) == direct
    finally:
        path.write_text(text)
        project.run("dvc", "repro", CHECK)
    assert stale(project) == set()
    assert planned(project) == set()


def test_a_file_that_fails_is_told_with_its_line_and_costs_no_result(project):
    path = project.root / RULE
    text = path.read_text()
    before = project.digests()
    try:
        path.write_text(text + "\nsurprise\n")
        for command in (["snakemake", "--cores", "1"], ["dvc", "repro"]):
            output = project.run(*command, check=False)
            (said,) = {line for line in output.splitlines() if "error: " in line and "renyi" in line}
            assert re.search(r"methods\.focal\.rules: own_code/renyi\.py, line \d+: NameError", said)
        assert project.digests() == before
    finally:
        path.write_text(text)
        project.run("dvc", "repro", CHECK)
