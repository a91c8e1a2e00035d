"""What Snakemake is told of a stage beyond the graph."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run_stage
from adaptive_pipeline import dvc_graph, one_run, settings
from adaptive_pipeline.families import FAMILIES
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
    assert (
        settings.threads(a_stage("choose_deployment", seed=1), SMOKE, 8) == 8
    )  # whichever seed is recommended


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
    assert settings.resources(stage, large)["mem_mb"] == FAMILIES["train_sweet"].mem_mb


SNAKEFILE = """
import psutil
from adaptive_pipeline import settings
settings.limit_memory(workflow)

rule all:
    input: "a", "b"

for name in ("a", "b"):
    rule:
        output: name
        resources: mem_mb=psutil.virtual_memory().total // 2**20 * 6 // 10
        shell: "date +%s%N > {output}; sleep 1; date +%s%N >> {output}"
"""


@pytest.mark.parametrize("given", [[], ["--resources", f"mem_mb={10**9}"]])
def test_no_more_stages_start_than_fit_in_memory_unless_told_otherwise(tmp_path, given):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
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
    running = one_run.only_run_here()
    try:
        with pytest.raises(SystemExit, match="another run or search is working"):
            one_run.only_run_here()
        with pytest.raises(SystemExit, match="another run or search is working"):
            search.run("leebert")
    finally:
        os.close(running)
    os.close(one_run.only_run_here())
    assert (tmp_path / "search/params.yaml").read_text() == before


def test_a_lock_is_no_program_and_one_that_is_not_ours_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.close(one_run.only_run_here())
    assert not Path(".pipeline/run.lock").stat().st_mode & 0o111

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        SystemExit, match=r"^error: .pipeline/run.lock is another user's.*chmod -R a\+rwX .pipeline`$"
    ):
        one_run.only_run_here()


def test_a_clean_beside_a_run_lets_no_second_one_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "Makefile", "Makefile")
    running = one_run.only_run_here()
    try:
        subprocess.run(["make", "clean"], check=True)
        with pytest.raises(SystemExit, match="another run or search is working"):
            one_run.only_run_here()
    finally:
        os.close(running)


SECOND = "import run_stage\nwith run_stage.only_one('train_sweet@a'): print('it runs', flush=True)"


def test_a_clean_beside_a_stage_lets_no_second_process_of_it_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "Makefile", "Makefile")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "workflow"), str(ROOT / "src")]))
    with run_stage.only_one("train_sweet@a"):
        subprocess.run(["make", "clean"], check=True)
        second = subprocess.Popen(
            [sys.executable, "-c", SECOND], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert "still running from a run that was killed" in second.stdout.readline()
    assert second.communicate()[0] == "it runs\n"


KILLED_SEARCH = """
from adaptive_pipeline.search import __main__ as search
search.start = search.dvc_graph.mend_lock_files = search.prefork.start = lambda *_: None
search.sys.executable = "./dvc"
search.run("mine")
"""


def test_no_run_starts_beside_the_dvc_of_a_search_that_was_killed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc").write_text("#!/bin/sh\necho $$ > pid.new && mv pid.new pid && exec sleep 60\n")
    (tmp_path / "dvc").chmod(0o755)
    (tmp_path / "params.yaml").write_text((ROOT / "presets/smoke.yaml").read_text())
    killed = subprocess.Popen([sys.executable, "-c", KILLED_SEARCH])
    while not Path("pid").is_file():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    try:
        with pytest.raises(SystemExit, match="another run or search is working"):
            one_run.only_run_here()
    finally:
        os.kill(int(Path("pid").read_text()), signal.SIGKILL)


def test_what_is_missing_takes_all_upstream_of_it_along():
    data = a_stage("prepare_data")
    train = a_stage("train_sweet", upstream=[data.name])
    other = a_stage("train_sweet", upstream=[data.name], method="early_exit")
    assert settings.with_upstream({train.name}, [data, train, other]) == {data.name, train.name}


def test_longest_chains_start_first_and_before_them_what_is_missing():
    data, train = a_stage("prepare_data"), a_stage("train_sweet")
    other, short = a_stage("train_sweet", method="early_exit"), a_stage("collect_answers")
    stages, chains = [data, train, other, short], [30.4, 20.0, 20.9, 3.0]
    seconds = {stage.name: chain for stage, chain in zip(stages, chains, strict=True)}
    given = settings.priorities(stages, {data.name, short.name}, seconds)
    assert given[data.name] > given[short.name] > given[other.name] + given[train.name]
    assert given[other.name] == given[train.name] == 20
    assert settings.priorities([], set(), {}) == {}


def test_the_tools_of_this_environment_come_first(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    for _ in range(2):
        one_run.use_this_environment("/project")
        assert os.environ["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]
        assert os.environ["PYTHONPATH"].split(os.pathsep) == ["/project/src", "/elsewhere"]


def in_a_project(folder, text, monkeypatch):
    (folder / "params.yaml").write_text(text)
    monkeypatch.chdir(folder)


def test_kept_results_that_cannot_be_read_are_told_and_stop_no_run(tmp_path, monkeypatch, capsys):
    file = tmp_path / "tiers-tiny-seed0.jsonl.gz"
    file.write_bytes(b"no gzip")
    monkeypatch.setattr(settings.presets, "records_folder", lambda name: tmp_path)
    monkeypatch.chdir(ROOT)
    stage = a_stage("evaluate_batch1")
    assert settings.unkept([stage], SMOKE) == {stage.name}
    assert file.name in capsys.readouterr().err
