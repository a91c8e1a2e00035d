"""What `doctor` tells of a machine, and that nothing makes it wait or repeat a secret."""

import http.server
import json
import socket
import subprocess
import sys
import threading
import time

import pytest

from adaptive_inference import cli, machine
from adaptive_inference.cli import doctor


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """No hub, no server, no process that loads torch, unless a test wants one."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(doctor, "_torch", lambda: {"threads": 1, "gpus": [], "cuda": None})
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def silent():
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def server():
    """A server that notes what it is asked for."""
    asked = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, dict(self.headers)))
            self.send_response(200 if self.path == "/health" else 401)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://name:secret@127.0.0.1:{served.server_port}", asked
        served.shutdown()


def test_a_person_gets_lines_and_a_program_one_object(capsys):
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for name in (
        "versions",
        "cores",
        "instruction sets",
        "memory",
        "free disk",
        "GPU",
        "hub",
        "tracking server",
    ):
        assert f"\n{name}" in f"\n{text}"
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["adaptive-inference"]
    assert found["disk_free_gb"] > 0
    assert 1 <= found["cores"]["usable"] <= found["cores"]["all"]


@pytest.mark.parametrize(
    ("torch", "wanted"),
    [
        ({"problem": "cannot be loaded: no such file"}, "not known: cannot be loaded: no such file"),
        ({"threads": 1, "gpus": [], "cuda": None}, "none that this torch can use"),
        ({"threads": 1, "gpus": [], "cuda": "12.8"}, "none"),
        ({"threads": 1, "gpus": ["One", "Two"], "cuda": "12.8"}, "One, Two"),
    ],
)
def test_no_gpu_is_told_only_where_torch_has_looked_for_one(torch, wanted, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_torch", lambda: torch)
    cli.main(["doctor"])
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["GPU"].strip() == wanted


def test_without_torch_it_works_and_says_so():
    code = "\n".join([
        "import sys", "sys.modules['torch'] = sys.modules['transformers'] = None", "import importlib.metadata as m",
        "found = m.version",
        "def version(name):",
        "    if name in ('torch', 'transformers'): raise m.PackageNotFoundError(name)",
        "    return found(name)",
        "m.version = version", "from adaptive_inference.cli import main", "raise SystemExit(main(['doctor']))",
    ])  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={"HF_HUB_OFFLINE": "1"} | _env(),
    )
    assert done.returncode == 0, done.stderr
    assert "not installed:     torch, transformers" in done.stdout
    assert "pip install 'adaptive-inference[torch]'" in done.stdout


def _env():
    import os

    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}


def test_a_server_that_never_answers_is_not_waited_for(silent):
    began = time.monotonic()
    found = doctor.answers(silent, within=0.3)
    assert time.monotonic() - began < 3
    assert found["answers"] is False
    assert "0.3 s" in found["problem"] or "timed out" in found["problem"]


def test_a_name_that_nobody_looks_up_in_time_is_not_waited_for(monkeypatch):
    def slow(*_, **__):
        time.sleep(10)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    began = time.monotonic()
    assert doctor.answers("http://nobody.invalid", within=0.2) == {
        "answers": False,
        "problem": "no answer within 0.2 s",
    }
    assert time.monotonic() - began < 5


def test_a_port_where_nobody_listens_is_told():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "refused" in doctor.answers(f"http://127.0.0.1:{port}")["problem"].lower()


def test_the_tracking_server_is_asked_for_its_health_and_its_password_stays_here(server, monkeypatch, capsys):
    uri, asked = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{uri}?token=hidden")
    cli.main(["doctor", "--json"])
    out = capsys.readouterr().out
    assert json.loads(out)["tracking_server"] == {"answers": True, "problem": None}
    assert asked[0][0] == "/health"
    assert "Authorization" not in asked[0][1]
    assert not {"secret", "hidden"} & set(out.replace('"', " ").split())


def test_an_address_that_cannot_be_read_is_told_without_its_password():
    told = doctor.answers("http://name:se#cret@127.0.0.1:1")
    assert told == {"answers": False, "problem": "its address cannot be read, or it speaks no HTTP"}


def test_a_server_that_refuses_is_there(server):
    assert doctor.answers(server[0]) == {"answers": True, "problem": "it says 401"}


@pytest.mark.parametrize(
    ("cpuinfo", "wanted"),
    [
        (
            "flags\t\t: fpu sse2 avx2 avx512f avx512_vnni\n\nflags : fpu\n",
            ["AVX2", "AVX-512", "AVX-512 VNNI"],
        ),
        ("flags\t: fpu avx2 avx_vnni\n", ["AVX2", "AVX-VNNI"]),
        ("Features\t: fp asimd asimddp sve\n", ["NEON", "NEON dot product", "SVE"]),
        ("flags\t: fpu\n", []),
        ("nothing\n", None),
    ],
)
def test_instruction_sets_are_those_of_the_processor(tmp_path, cpuinfo, wanted):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert machine.instruction_sets(tmp_path / "cpuinfo") == wanted


def test_a_system_without_proc_tells_what_it_can(tmp_path):
    assert machine.instruction_sets(tmp_path / "none") is None
    assert doctor._memory(tmp_path / "none") == {}
