"""What Snakemake is told of a stage beyond the graph."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from adaptive_pipeline import dvc_graph, settings
from adaptive_pipeline.params import load_params, parse_params
from adaptive_pipeline.search import __main__ as search

ROOT = Path(__file__).parents[2]
SMOKE = load_params(ROOT / "presets/smoke.yaml")


def a_stage(family, seed=0, upstream=(), method="sweet"):
    command = (
        f"python pipeline_steps/{family}.py --task tiers --backbone tiny --seed {seed} --method {method}"
    )
    return dvc_graph.StageNode(
        f"{family}@tiers-tiny-{method}-{seed}", command, tuple(upstream), "s", {}, False, False
    )


def test_only_a_stage_that_measures_wall_clock_takes_the_whole_machine():
    assert settings.threads(a_stage("evaluate_batch1"), SMOKE, 8) == 8
    assert settings.threads(a_stage("evaluate_batch1", seed=1), SMOKE, 8) == 1
    assert settings.threads(a_stage("train_sweet"), SMOKE, 8) == 1


def test_a_stage_takes_the_threads_of_its_params_whatever_the_cores():
    params = SMOKE.model_copy(update={"runtime": SMOKE.runtime.model_copy(update={"threads": 4})})
    assert settings.threads(a_stage("train_sweet"), params, 2) == 4


def test_stages_on_a_gpu_ask_for_it_and_tables_never_do():
    params = SMOKE.model_copy(update={"runtime": SMOKE.runtime.model_copy(update={"device": "cuda"})})
    assert settings.resources(a_stage("train_sweet"), params)["gpu"] == 1
    assert settings.resources(a_stage("make_tables"), params)["gpu"] == 0
    assert settings.resources(a_stage("train_sweet"), SMOKE)["gpu"] == 0


def test_a_small_encoder_asks_for_less_memory_than_one_of_the_hub():
    body = SMOKE.model_dump(mode="json")
    body["backbones"]["tiny"] |= {"weights": "some/bert", "revision": "0" * 40}
    large = parse_params(body)
    stage = a_stage("train_sweet")
    assert settings.resources(stage, SMOKE)["mem_mb"] == settings.SMALL_MB
    assert settings.resources(stage, large)["mem_mb"] == settings.RESOURCES["train_sweet"]["mem_mb"]


SNAKEFILE = """
import sys, psutil
from adaptive_pipeline import settings
settings.limit_memory(workflow)

rule all:
    input: "a", "b"

for name in ("a", "b"):
    rule:
        output: name
        resources: mem_mb=psutil.virtual_memory().total // 2**20 * 6 // 10
        shell: "date +%s%N > {{output}}; sleep 1; date +%s%N >> {{output}}"
"""


@pytest.mark.parametrize("given", [[], ["--resources", f"mem_mb={10**9}"]])
def test_no_more_stages_start_than_fit_in_memory_unless_told_otherwise(tmp_path, given):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(root=ROOT))
    command = [sys.executable, "-m", "snakemake", "--cores", "4", "--quiet", "all", *given]
    subprocess.run(command, cwd=tmp_path, check=True)
    first, second = sorted(
        [int(word) for word in (tmp_path / name).read_text().split()] for name in ("a", "b")
    )
    assert (first[1] > second[0]) == bool(given)


def test_a_second_run_in_a_folder_and_a_search_beside_a_run_are_refused(tmp_path, monkeypatch):
    in_a_project(tmp_path, (ROOT / "presets/default.yaml").read_text(), monkeypatch)
    shutil.copytree(ROOT / "search", tmp_path / "search")
    before = (tmp_path / "search/params.yaml").read_text()
    for name in ("PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, "")  # put back afterwards
    with FileLock("logs/.run.lock"):
        with pytest.raises(SystemExit, match="another run or search is working"):
            settings.only_run_here()
        with pytest.raises(SystemExit, match="another run or search is working"):
            search.run("leebert")
    assert (tmp_path / "search/params.yaml").read_text() == before


def test_what_is_missing_takes_all_upstream_of_it_along():
    data = a_stage("prepare_data")
    train = a_stage("train_sweet", upstream=[data.name])
    other = a_stage("train_sweet", upstream=[data.name], method="early_exit")
    assert settings.with_upstream({train.name}, [data, train, other]) == {data.name, train.name}


def test_the_tools_of_this_environment_come_first(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    for _ in range(2):
        settings.use_this_environment("/project")
        assert os.environ["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]
        assert os.environ["PYTHONPATH"].split(os.pathsep) == ["/project/src", "/elsewhere"]


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
        SystemExit, match="two cells would be named tiers-tiny-tiny-early_exit, tiers-tiny-tiny-full"
    ):
        settings.checked_params()


def test_a_link_to_a_folder_of_data_is_refused_and_a_link_to_a_file_is_not(tmp_path, monkeypatch):
    in_a_project(tmp_path, (ROOT / "presets/smoke.yaml").read_text(), monkeypatch)
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x.csv").write_text("a\n")
    (tmp_path / "data/mine").mkdir(parents=True)
    (tmp_path / "data/mine/x.csv").symlink_to(tmp_path / "real/x.csv")
    assert settings.checked_params() == SMOKE
    (tmp_path / "data/linked").symlink_to(tmp_path / "real")
    with pytest.raises(SystemExit, match="data/linked links to a folder"):
        settings.checked_params()


def with_method(name, **changes):
    body = SMOKE.model_dump(mode="json")
    body["methods"][name] |= changes
    return parse_params(body)


def test_a_rule_that_needs_heads_which_the_method_lacks_is_refused_before_the_run():
    settings.check_rules(SMOKE)
    with pytest.raises(SystemExit, match=r"methods\.sweet.*certainty heads"):
        settings.check_rules(with_method("sweet", rules=["learning_to_exit"]))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["patience", "patience(tolerance=0.10)"], "stands twice"),
        (["patience(tolerance=.2)"], r"must be written 'patience\(tolerance=0\.2\)'"),
        (["patience_confidence(paitence=2)"], "did you mean 'patience'"),
    ],
)
def test_a_rule_under_two_spellings_or_with_options_that_it_lacks_is_refused_before_the_run(rules, message):
    settings.check_rules(with_method("sweet", rules=["patience", "patience(tolerance=0.2)", "voting"]))
    with pytest.raises(SystemExit, match=rf"methods\.sweet.*{message}"):
        settings.check_rules(with_method("sweet", rules=rules))


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
    with pytest.raises(SystemExit, match=r"methods\.learning_to_exit.*regression"):
        settings.check_rules(parse_params(body))


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
    settings.check_exits(with_exits([1, 3, 4]))
    settings.check_exits(with_exits([2], objective))
    with pytest.raises(SystemExit, match=rf"methods\.mine on backbones\.tiny: .*{message}"):
        settings.check_exits(with_exits(exits, objective))


def test_the_encoder_of_a_hub_is_not_fetched_to_look_at_exits():
    body = with_exits([2, 9]).model_dump(mode="json")
    body["backbones"]["tiny"] |= {"weights": "nobody/nothing", "revision": "0" * 40}
    settings.check_exits(parse_params(body))


@pytest.mark.parametrize(("weights", "refused"), [("random:deberta", True), ("random:bert", False)])
def test_bf16_for_an_encoder_that_cannot_be_trained_in_it_is_refused_before_the_run(weights, refused):
    body = SMOKE.model_dump(mode="json")
    body["backbones"]["tiny"]["weights"] = weights
    settings.check_bf16(parse_params(body))
    body["runtime"]["precision"] = "bf16"
    if refused:
        with pytest.raises(
            SystemExit, match=r"backbones\.tiny: .*bf16 cannot be used with model type deberta;"
        ):
            settings.check_bf16(parse_params(body))
    else:
        settings.check_bf16(parse_params(body))


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
        settings.check_risk(params)
    else:
        with pytest.raises(SystemExit, match=match):
            settings.check_risk(params)
    settings.check_risk(SMOKE)  # asks for none


def test_the_rows_of_a_file_are_counted_before_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 250)
    task = {"source": "local", "generated": None, "train": "a.csv"}
    settings.check_risk(with_risk(task, delta=0.1))  # 500 rows: 100 evaluation, 80 calibration, 40 certify
    with pytest.raises(SystemExit, match=r"80 calibration rows give 40"):
        settings.check_risk(with_risk(task, delta=0.05))


def test_a_risk_of_a_regression_is_refused_before_the_run_and_names_the_task():
    task = {"source": "local", "generated": None, "train": "a.csv", "labels": None}
    task |= {"kind": "regression", "metric": "pearson"}
    with pytest.raises(SystemExit, match=r"tasks\.tiers: goal\.risk.*regression"):
        settings.check_risk(with_risk(task, delta=0.1))
