"""One smoke pipeline for all tests of this folder, built in a copy of the project."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock

from adaptive_pipeline.runs.digests import TIMING_OUTPUTS, digest_path

ROOT = Path(__file__).parents[2]
TRACE = """
import atexit, json, os, sys
from pathlib import Path

def dump():
    script = Path(sys.argv[0] if sys.argv else "")
    if script.parent.name == "pipeline_steps":
        files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
        found = sorted({str(Path(f).relative_to(Path.cwd())) for f in files if f.startswith(str(Path.cwd() / "src"))})
        folder = Path(os.environ["TRACE_FOLDER"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{script.stem}-{os.getpid()}.json").write_text(json.dumps(found))

atexit.register(dump)
"""


#: Edits of the smoke preset after which `check_params` looks at all that it can.
CHECK_ALL = {
    "early_exit: {train: {}": "early_exit: {train: {exits: [2, 4]}",
    "objective: weight_learning, epochs: 2, score_every: 2": "objective: frozen",
    "goal:": "goal:\n  risk: {delta: 0.2}",
    "precision: fp32": "precision: bf16",
}


@dataclass
class Project:
    """A copy of the project in which commands are run as a user would."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def env(self, **more):
        """Return the environment: this interpreter's tools, this copy's code, bytecode written as usual."""
        drop = (
            "PYTHONDONTWRITEBYTECODE",
            "PYTHONPATH",
            "ADAPTIVE_INFERENCE_RUN",
            "MLFLOW_TRACKING_URI",
            "MAKEFLAGS",
            "MAKELEVEL",
        )
        base = {key: value for key, value in os.environ.items() if key not in drop}
        base["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base["PATH"]])
        base["PYTHONPATH"] = str(self.root / "src")
        return base | self.environment | more

    def run(self, *command, check=True, **more):
        """Run a command; return its output, stdout and stderr together."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.env(**more),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{output[-6000:]}"
        return output

    def start(self, *command):
        """Start a command in the background."""
        return subprocess.Popen(
            command, cwd=self.root, env=self.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def use(self, preset):
        """Make a preset the current params."""
        shutil.copyfile(self.root / "presets" / f"{preset}.yaml", self.root / "params.yaml")

    def digests(self):
        """Return the sha256 of every result, those of the clock left out."""
        files = [file for file in (self.root / "runs").rglob("*") if file.is_file()]
        exempt = {name.rstrip("/") for name in TIMING_OUTPUTS}
        kept = [
            file for file in files if not exempt.intersection(file.parts) and not file.name.startswith(".")
        ]
        return {file.relative_to(self.root).as_posix(): digest_path(file) for file in kept}

    def executed(self):
        """Return the stages that the last Snakemake run really executed."""
        logs = (self.root / "logs").glob("*.log")
        return sorted(log.stem for log in logs if "Running stage" in log.read_text(errors="replace"))


def copy_project(target):
    """Copy what git knows or would add, and commit it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    project = Project(target)
    project.use("smoke")
    project.run("git", "init", "-q", "-b", "main")
    project.run("git", "config", "user.email", "test@example.org")
    project.run("git", "config", "user.name", "Test")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "copy")
    return project


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """A function that gives a copy in which nothing has run; all copies are of one moment."""
    first = copy_project(tmp_path_factory.mktemp("project"))

    def copy(target):
        shutil.copytree(first.root, target, dirs_exist_ok=True)
        return Project(Path(target))

    return copy


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """A folder that all workers of a test run see."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


def trace_more(project, file, tracing):
    """Trace what the run leaves out: the last stage of a search, and a check of all that can be checked."""
    text = (project.root / "params.yaml").read_text()
    for given, other in CHECK_ALL.items():
        assert given in text
        text = text.replace(given, other)
    file.write_text(text)
    check = ("pipeline_steps/check_params.py", "--params", str(file), "--out", str(file.with_name("checked")))
    project.run("python", *check, **tracing)
    project.run("python", "pipeline_steps/choose_point.py", "--help", **tracing)


@pytest.fixture(scope="session")
def built(fresh, shared):
    """The smoke preset built by one run on two cores, with live MLflow runs and a trace of the imports.

    Built once in a test run: a worker that asks while another builds waits for it. Tests that edit it put it back, and
    run on one worker (tests/conftest.py).
    """
    root, trace, told = shared / "built", shared / "trace", shared / "built.json"
    with FileLock(shared / "built.lock"):
        if not told.is_file():
            project = fresh(root)
            trace.mkdir()
            (trace / "sitecustomize.py").write_text(TRACE)
            tracing = {
                "PYTHONPATH": f"{trace}{os.pathsep}{project.root / 'src'}",
                "TRACE_FOLDER": str(trace / "imports"),
            }
            trace_more(project, trace / "all.yaml", tracing)
            output = project.run("snakemake", "--cores", "2", **tracing)
            told.write_text(json.dumps({"output": output, "executed": project.executed()}))
    project, body = Project(root), json.loads(told.read_text())
    project.output, project.first_executed = body["output"], body["executed"]
    project.imports = trace / "imports"
    return project
