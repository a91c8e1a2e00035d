"""The grid of a search, its winner, and the patch of the params."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from adaptive_inference.errors import UserError
from adaptive_pipeline.params import load_params
from adaptive_pipeline.search import __main__ as command
from adaptive_pipeline.search.patch import patched
from adaptive_pipeline.search.plan import Plan, Search, plan, read_section
from adaptive_pipeline.search.scores import Scored, best, patch_text, results_csv

ROOT = Path(__file__).parents[2]
SMOKE = load_params(ROOT / "presets/smoke.yaml")
FROM_FULL = {"method": "deebert", "params": load_params(ROOT / "presets/grid.yaml")}
RATE, WEIGHTS = "methods.leebert.train.learning_rate", "methods.leebert.train.weight_learning.learning_rate"


def planned(grid, method="leebert", params=SMOKE, **more):
    return plan("mine", Search(method=method, grid=grid, **more), params, "search/mine.yaml")


def test_a_plan_has_all_combinations_the_last_key_fastest():
    found = planned({RATE: [1e-5, 2e-5], WEIGHTS: [1e-3, 1e-4, 1e-2]}, folds=3)
    assert [tuple(patch.values()) for patch in found.points.values()] == [
        (1e-5, 1e-3), (1e-5, 1e-4), (1e-5, 1e-2), (2e-5, 1e-3), (2e-5, 1e-4), (2e-5, 1e-2),
    ]  # fmt: skip
    assert (found.search, found.task, found.backbone, found.folds) == (["mine"], "tiers", "tiny", [0, 1, 2])


def test_a_point_keeps_its_name_when_the_grid_grows():
    small, large = planned({RATE: [2e-5]}), planned({RATE: [1e-5, 2e-5]})
    assert small.points.items() < large.points.items()


def test_a_number_that_yaml_reads_as_a_text_is_a_number():
    assert planned({RATE: ["1e-5"]}) == planned({RATE: [1e-5]})


@pytest.mark.parametrize(
    ("grid", "more", "says"),
    [
        ({"methods.leebert.train.lerning_rate": [1.0]}, {}, "unknown key .*did you mean 'learning_rate'"),
        ({"method.leebert.train.epochs": [1]}, {}, "did you mean 'methods.leebert.train.epochs'"),
        ({"methods.pabee.train.epochs": [1]}, {}, "does not say how 'leebert' is trained"),
        ({"goal.max_loss": [1.0]}, {}, "does not say how 'leebert' is trained"),
        ({"methods.leebert.train.exits": [[2], [2, 4]]}, {}, "means over other exits"),
        (
            {"methods.leebert.train.objective": ["own_code/mine.py"]},
            {},
            "mine.py is code of one's own, whose edits",
        ),
        ({"training.epochs.more": [1]}, {}, "'epochs' holds a value"),
        ({RATE: [1e-5, -1.0]}, {}, r"learning_rate: .*greater than 0 \(given: -1.0\)"),
        ({RATE: [1e-5, 1e-5]}, {}, "train 'leebert' alike"),
        ({"training.epochs": [1, 2]}, {}, "train 'leebert' alike"),  # leebert has epochs of its own
        ({"methods.leebert.train.objective": ["distill", "frozen"]}, {}, "starts from the full model"),
        ({RATE: [1e-5]}, {"seed": 7}, "seed 7 is not among"),
        ({RATE: [1e-5]}, {"method": "leebrt"}, "did you mean 'leebert'"),
        ({RATE: [1e-5]}, {"task": "tears"}, "did you mean 'tiers'"),
        ({"training.epochs": [1]}, FROM_FULL, "starts from the full model.* fold holds out"),
        ({"training.epochs": [1]}, {"method": "multi_model"}, "not one encoder with exits"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_any_training(grid, more, says):
    with pytest.raises(UserError, match=f"(?s){says}"):
        planned(grid, **more)


def test_the_task_must_be_named_where_there_are_several():
    two = SMOKE.model_copy(update={"tasks": {"one": SMOKE.tasks["tiers"], "two": SMOKE.tasks["tiers"]}})
    with pytest.raises(UserError, match=r"which task.* one, two"):
        planned({RATE: [1e-5]}, params=two)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{method: leebert, grid: {}}", "at least 1 item"),
        ("{method: leebert, grid: {training.epochs: []}}", "at least 1 item"),
        ("{method: leebert, fold: 3, grid: {training.epochs: [1]}}", "did you mean 'folds'"),
        ("{method: leebert, folds: 1, grid: {training.epochs: [1]}}", "greater than or equal to 2"),
        ("[leebert]", "must be a mapping"),
    ],
)
def test_a_grid_file_is_checked(text, says, tmp_path):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        read_section(Search, tmp_path / "grid.yaml")


def test_the_best_has_the_highest_mean_and_stands_first_among_equals():
    scored = [
        Scored("a", {"x": 1}, (0.5, 0.5)),
        Scored("b", {"x": 2}, (0.75, 0.25)),
        Scored("c", {"x": 3}, (0.25, 1.0)),
        Scored("d", {"x": 4}, (1.0, 0.25)),
    ]
    assert best(scored).name == "c"
    assert best(scored[:2]).name == "a"


def test_the_table_and_the_patch_hold_the_figures():
    scored = [Scored("p1", {RATE: 1e-5, WEIGHTS: 0.001}, (0.5, 0.7, 0.9))]
    assert results_csv(scored) == (
        f"point,{RATE},{WEIGHTS},fold0,fold1,fold2,mean,std,folds\n"
        "p1,1e-05,0.001,0.500000,0.700000,0.900000,0.700000,0.200000,3\n"
    )
    text = patch_text(scored[0], 12, "mine")
    assert "Best of 12 points: 0.7000, the mean over 3 held-out folds" in text
    assert "make apply NAME=mine\n" in text
    assert text.endswith(f"\n{RATE}: 1.0e-05\n{WEIGHTS}: 0.001\n")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search").mkdir()
    shutil.copyfile(ROOT / "presets/default.yaml", tmp_path / "params.yaml")
    return tmp_path


PATCH = {
    RATE: 1e-05,
    WEIGHTS: 0.005,
    "training.patience": 5,
    "methods.leebert.train.distillation.teachers": "last",
}


def test_a_patch_changes_its_keys_and_nothing_else_of_the_file(project):
    before = (project / "params.yaml").read_text()
    params = load_params("params.yaml")
    Path("patch.yaml").write_text(patch_text(Scored("p", PATCH, (0.5, 0.5)), 1, "mine"))
    command.apply(Path("patch.yaml"))
    after = (project / "params.yaml").read_text()
    assert load_params("params.yaml") == patched(params, PATCH) != params
    old, new = before.splitlines(), after.splitlines()
    assert [line for line in old if line not in new] == [
        "      distillation: {teachers: all, temperature: 2.0}",
        "      weight_learning: {scheme: clo_v2, group: 4, parametrisation: softmax, learning_rate: 1.0e-3}",
    ]
    assert len(new) == len(old) + 2
    assert (
        "\n\n# Which stage trains a method. Every method but `full` stands here once.\ntrained_by:\n" in after
    )
    assert yaml.safe_load(after)["methods"]["leebert"]["train"]["learning_rate"] == 1e-05  # no text


def test_applying_a_patch_twice_changes_nothing_more(project):
    Path("patch.yaml").write_text(yaml.safe_dump(PATCH))
    command.apply(Path("patch.yaml"))
    once = Path("params.yaml").read_text()
    command.apply(Path("patch.yaml"))
    assert Path("params.yaml").read_text() == once


@pytest.mark.parametrize("status", [0, 3])
def test_a_search_is_planned_run_and_shown_and_a_failure_is_passed_on(project, monkeypatch, capsys, status):
    """DVC's part is played; test_search_stages runs the stages themselves."""
    (project / "search/mine.yaml").write_text(
        f"method: leebert\nfolds: 2\ngrid: {{{RATE}: [1.0e-5, 2.0e-5]}}\n"
    )
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    called = []

    monkeypatch.setattr(command.dvc_graph, "mend_lock_files", lambda: called.append(["mend"]))

    def dvc(arguments, **_):
        called.append(arguments[1:])
        assert read_section(Plan, Path("search/params.yaml")).search == ["mine"]
        (project / "search/mine/results").mkdir(parents=True)
        for name in ("results.csv", "patch.yaml"):
            (project / "search/mine/results" / name).write_text(f"the {name}\n")
        return subprocess.CompletedProcess(arguments, status)

    monkeypatch.setattr(command.subprocess, "run", dvc)
    if status:
        with pytest.raises(SystemExit) as stopped:
            command.run("mine")
        assert stopped.value.code == status
    else:
        command.run("mine")
    assert called == [["mend"], ["-m", "dvc", "--wait-for-lock", "repro", "search/dvc.yaml"]]
    out = capsys.readouterr().out
    assert "2 points x 2 folds = 4 trainings of 'leebert'" in out
    assert ("the patch.yaml" in out) == (status == 0)


def test_the_patch_of_a_search_is_found_by_the_searchs_name(project):
    (project / "search/mine.yaml").write_text("method: leebert\n")
    with pytest.raises(
        UserError, match=r"search/mine/results/patch\.yaml is missing; `make search NAME=mine`"
    ):
        command.patch_path("mine")
    (project / "search/mine/results").mkdir(parents=True)
    (project / "search/mine/results/patch.yaml").write_text("{}")
    assert command.patch_path("mine") == Path("search/mine/results/patch.yaml")
    assert command.patch_path("other/patch.yaml") == Path("other/patch.yaml")


@pytest.mark.parametrize("text", ["{training.epoch: 3}", "{training.epochs: 0}", "[1]", "{}x: ["])
def test_a_patch_that_does_not_fit_leaves_the_file_as_it_is(text, project):
    Path("patch.yaml").write_text(text)
    before = Path("params.yaml").read_text()
    with pytest.raises(UserError, match=r"patch\.yaml"):
        command.apply(Path("patch.yaml"))
    assert Path("params.yaml").read_text() == before


def test_a_grid_is_found_by_its_name(project):
    for name in ("dvc", "params", "mine", "my grid"):
        (project / f"search/{name}.yaml").write_text("method: leebert\n")
    assert command.names() == ["mine", "my grid"]
    for name, says in (
        ("mien", "did you mean 'mine'"),
        ("", "NAME="),
        ("params", "no grid"),
        ("my grid", "folder"),
    ):
        with pytest.raises(UserError, match=says):
            command.grid_path(name)


def test_every_grid_of_the_project_fits_the_default_preset():
    params = load_params(ROOT / "presets/default.yaml")
    for file in sorted((ROOT / "search").glob("*.yaml")):
        if file.stem not in ("dvc", "params"):
            plan(file.stem, read_section(Search, file), params, str(file))


def test_no_search_is_on_in_a_fresh_clone():
    assert (ROOT / "search/params.yaml").read_text() == command.plan_text(Plan())
