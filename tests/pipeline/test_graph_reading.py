"""Reading DVC's index and dvc.lock beside writers, and what is refused before any job."""

import concurrent.futures
import subprocess
import sys

import pytest

pytestmark = pytest.mark.pipeline
WRITER = """
from adaptive_pipeline import dvc_graph
from dvc.dvcfile import load_file
for _ in range(6):
    with dvc_graph._locked(".") as repo:
        stage = repo.stage.load_one(name="prepare_data@tiers-tiny-0")
        stage.outs[0].hash_info.value = stage.outs[0].hash_info.value[::-1]
        load_file(repo, "dvc.yaml")._lockfile.dump(stage)
"""
READER = """
from adaptive_pipeline import dvc_graph
for _ in range(4):
    nodes = dvc_graph.read_graph(judge=False)
    assert len(nodes) == 65
    assert all(md5 for node in nodes for md5 in node.outs.values())
"""


def test_locked_readers_never_see_half_a_lock_file(built):
    lock = built.root / "dvc.lock"
    text = lock.read_text()
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            programs = [WRITER, WRITER, READER, READER]
            ended = list(pool.map(lambda program: run(built, program), programs))
        assert [done.stderr for done in ended if done.returncode] == []
        assert lock.read_text() == text  # 12 reversals
    finally:
        lock.write_text(text)


RECEIPTS = """
from adaptive_pipeline import dvc_graph
from pathlib import Path
for node in dvc_graph.read_graph(judge=False):
    if node.family in ("prepare_data", "train_sweet", "make_tables"):
        dvc_graph.write_receipt(node.name, Path("receipts/again.json"), signature=node.signature)
"""


def test_a_stage_that_was_built_from_params_edited_during_the_run_gets_no_receipt(built):
    """What the run was started with and what ``dvc.lock`` notes are digested alike, and held against each other."""
    params, again = built.root / "params.yaml", built.root / "receipts/again.json"
    text = params.read_text()
    try:
        assert run(built, RECEIPTS).returncode == 0
        again.unlink()
        params.write_text(
            text.replace("max_loss: 1.0", "max_loss: 3.0")
        )  # make_tables reads it, and comes last
        ended = run(built, RECEIPTS)
        assert ended.returncode == 1
        assert "params or code of make_tables were edited after this run began" in ended.stderr
    finally:
        params.write_text(text)
        again.unlink(missing_ok=True)


def run(project, program):
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=project.root,
        env=project.env(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("epochs: 1", "epoch: 1"), "did you mean 'epochs'?"),
        (("exits: [2, 4]", "exits: [4, 2]"), "must be ascending"),
        (("[early_exit, sweet,", "[early_exit, swet,"), "did you mean 'sweet'?"),
        (("rules: [fixed]", "rules: [fixd]"), "did you mean 'fixed'?"),
        (("  batch_size: 64\n", ""), "lacks evaluation.batch_size"),
    ],
)
def test_bad_params_are_refused_before_any_job(built, edit, message):
    params = built.root / "params.yaml"
    text = params.read_text()
    assert edit[0] in text
    try:
        params.write_text(text.replace(*edit))
        output = built.run("snakemake", "--cores", "1", check=False)
    finally:
        params.write_text(text)
    assert message in output
    assert "Traceback" not in output
    assert "stages to run" not in output


@pytest.mark.parametrize(
    ("preset", "jobs"),
    [
        ("default", 65),
        ("grid", 187),
        ("sst2-minilm", 76),
        ("sweet-paper", 64),
        ("glue-small-stsb", 26),
        ("free-tiny", 29),
    ],
)
def test_a_preset_plans_its_graph(built, preset, jobs):
    text = (built.root / "params.yaml").read_text()
    try:
        built.use(preset)
        output = built.run("snakemake", "-n")
    finally:
        (built.root / "params.yaml").write_text(text)
    table = output.partition("Job stats:")[2]
    assert f"total {jobs + 2}" in " ".join(table.split())


COUNTED = """
from adaptive_pipeline import dvc_graph
from adaptive_pipeline.params import load_params, own_code
own_code.note(load_params())
import dvc.dependency.param as param
calls, load = [], param.load_path
param.load_path = lambda *args, **more: calls.append(args) or load(*args, **more)
print(len(dvc_graph.read_graph(judge=False)), len(calls))
"""


def test_a_graph_of_hundreds_of_stages_reads_each_file_of_params_once(built):
    text = (built.root / "params.yaml").read_text()
    try:
        built.use("pabee-paper")
        done = run(built, COUNTED)
    finally:
        (built.root / "params.yaml").write_text(text)
    assert done.stdout.split() == ["1561", "2"], done.stderr  # params.yaml, .own_code.yaml


def test_code_that_stages_share_is_hashed_once_and_what_a_stage_makes_is_not():
    from adaptive_pipeline import dvc_graph

    class Code:
        def_path = "src/code"
        fs_path = "/p/src/code"
        hashed = 0

        def get_hash(self):
            type(self).hashed += 1
            return type("Hash", (), {"value": "abc"})

    stages = [type("Stage", (), {"deps": [Code()], "cmd": "run", "addressing": str(n)}) for n in range(3)]
    given = dvc_graph._Given(stages)
    (signature,) = {dvc_graph._signature(stage, {"/p/src/codec", "/p/other"}, given) for stage in stages}
    assert Code.hashed == 1
    for made in (
        "/p/src/code",
        "/p/src",
        "/p/src/code/inner.py",
    ):  # an upstream stage's output: its receipt stands for it
        assert dvc_graph._signature(stages[0], {made}, given) != signature


def test_lint_finds_nothing(built):
    assert "good condition" in built.run("snakemake", "--lint")
