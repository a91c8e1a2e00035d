"""Reading DVC's index and dvc.lock beside writers, and what is refused before any job."""

import concurrent.futures
import subprocess
import sys

import pytest

pytestmark = pytest.mark.pipeline
WRITER = """
import sys
sys.path[:0] = ["workflow"]
import dag
from dvc.dvcfile import load_file
for _ in range(6):
    with dag._locked(".") as repo:
        stage = repo.stage.load_one(name="prepare_data@tiers-tiny-0")
        stage.outs[0].hash_info.value = stage.outs[0].hash_info.value[::-1]
        load_file(repo, "dvc.yaml")._lockfile.dump(stage)
"""
READER = """
import sys
sys.path[:0] = ["workflow"]
import dag
for _ in range(4):
    nodes = dag.read_graph(judge=False)
    assert len(nodes) == 20
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
    assert "Job stats" not in output


@pytest.mark.parametrize(
    ("preset", "jobs"),
    [("default", 57), ("grid", 135), ("sst2-minilm", 49), ("sweet-paper", 40), ("glue-small-stsb", 17)],
)
def test_a_preset_plans_its_graph(built, preset, jobs):
    text = (built.root / "params.yaml").read_text()
    try:
        built.use(preset)
        output = built.run("snakemake", "-n")
    finally:
        (built.root / "params.yaml").write_text(text)
    table = output.partition("Job stats:")[2]
    assert f"total {jobs + 3}" in " ".join(table.split())


@pytest.mark.parametrize(("preset", "stages"), [("pabee-paper", 841), ("leebert-paper", 3851)])
def test_a_graph_of_thousands_of_stages_is_read(built, preset, stages):
    text = (built.root / "params.yaml").read_text()
    program = "import sys; sys.path[:0] = ['workflow']; import dag; print(len(dag.read_graph(judge=False)))"
    try:
        built.use(preset)
        done = run(built, program)
    finally:
        (built.root / "params.yaml").write_text(text)
    assert done.stdout.split() == [str(stages)], done.stderr


def test_what_stages_share_is_read_once(monkeypatch, tmp_path):
    import dag

    class Shared:
        def_path = fs_path = "src/code.py"
        reads = 0

        def get_hash(self):
            type(self).reads += 1
            return type("Hash", (), {"value": "abc"})

    stages = [
        type("Stage", (), {"deps": [Shared()], "cmd": f"run {n}", "addressing": str(n)}) for n in range(3)
    ]
    given = dag._Given(stages)
    signatures = {dag._signature(stage, {"src/code"}, given) for stage in stages}
    assert len(signatures) == 3
    assert Shared.reads == 1
    assert dag._signature(stages[0], {"src"}, given) != dag._signature(stages[0], {"src/code"}, given)


def test_lint_finds_nothing(built):
    assert "good condition" in built.run("snakemake", "--lint")
