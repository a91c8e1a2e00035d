"""The command that asks a judge: what it prints and writes, what it refuses, and that it goes on where it was killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from stub_judge import GOOD, KEY, Reply, by_length, stub_judge

from adaptive_inference import cli


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with stub_judge() as running:
        monkeypatch.setenv("ADAPTIVE_JUDGE_URL", running.url)
        monkeypatch.setenv("ADAPTIVE_JUDGE_KEY", KEY)
        yield running


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "answers.jsonl"


@pytest.fixture
def files(tmp_path):
    def write(name, *texts):
        rows = [
            {"source": f"source {n}", "text": text, "tokens": 3, "half": "\ud800"}
            for n, text in enumerate(texts)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return write


def run(capsys, *arguments):
    status = cli.main(["judge", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_marks_by_the_command(judge, files, kept, capsys, tmp_path):
    judge.answer = lambda prompt, before: Reply("too long", 400) if "\nc\n" in prompt else GOOD
    given = (files("free.jsonl", "a", "b", "c", ""), "--model", "m", "--out", kept)
    status, out, err = run(capsys, *given, "--summary", tmp_path / "summary.json")
    assert status == 0
    assert out.splitlines()[0].startswith("judge m, ")
    assert [line.split()[:2] for line in out.splitlines()[2:7]] == [
        ["relevance", "4.000"], ["informativeness", "3.000"], ["fluency", "5.000"], ["coherence", "1.000"],
        ["mean", "3.250"],
    ]  # fmt: skip
    assert out.splitlines()[-1] == "rows: 3; without a verdict, and in no figure: 1"
    assert err == "note: 1 without a verdict: refused: status 400: too long\n"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["marks"]["mean"]["mean"] == 3.25
    assert {name: summary[name] for name in ("kind", "model", "rows", "without")} == {
        "kind": "likert", "model": "m", "rows": 3, "without": 1,
    }  # fmt: skip
    assert KEY not in out + err + kept.read_text() + json.dumps(summary)
    assert judge.url not in kept.read_text()


def test_a_comparison_by_the_command(judge, files, kept, capsys):
    judge.answer = by_length
    ours, other = files("free.jsonl", "long text", "b", "c"), files("full.jsonl", "a", "long text", "c")
    status, out, err = run(capsys, ours, "--against", other, "--model", "m", "--out", kept)
    assert (status, err) == (0, "")
    assert out.splitlines()[2].split()[:4] == ["1", "1", "1", "0.500"]
    assert "50% of its answers" in out
    judge.answer = lambda prompt, before: Reply("down", 503)
    assert run(capsys, ours, "--against", other, "--model", "m", "--out", kept) == (0, out, "")


def test_other_columns_criteria_and_fewer_rows(judge, kept, capsys, tmp_path):
    (tmp_path / "a.csv").write_text("de,en\nhallo,hello\nwelt,world\n")
    judge.answer = lambda prompt, before: '{"adequacy": 5}'
    given = (tmp_path / "a.csv", "--source", "de", "--text", "en", "--model", "m", "--out", kept, "--rows", 1)
    status, out, _ = run(capsys, *given, "--task", "English", "--criterion", "adequacy=all is said")
    assert status == 0
    assert out.splitlines()[2].split()[:2] == ["adequacy", "5.000"]
    assert len(judge.bodies) == 1
    assert "- adequacy: all is said" in judge.prompts[0]
    assert "which should be English." in judge.prompts[0]


def test_a_dry_run_asks_nothing_and_needs_no_endpoint(judge, files, kept, capsys, monkeypatch):
    monkeypatch.delenv("ADAPTIVE_JUDGE_URL")
    status, out, err = run(capsys, files("a.jsonl", "x", "y"), "--model", "m", "--out", kept, "--dry-run")
    assert status == 0
    assert "<output>\nx\n</output>" in out
    assert "questions: 2" in err
    assert judge.bodies == []
    assert not kept.exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--rows", "0"], "--rows 0 must be a whole number from 1"),
        (["--text", "txt"], "has no column 'txt'; name the right one with --text"),
        (["--text", "tokens"], "row at 1: 'tokens' is 3, not a string"),
        (["--text", "half"], "row at 1: 'half' holds half a character"),
        (["--parallel", "0"], "0 requests at once"),
        (["--attempts", "0"], "the judge's attempts 0"),
        (["--criterion", "fluency"], "criterion 'fluency': '' must be a name and what it means"),
        (["--criterion", "a=x", "--criterion", "a=y"], "each may be given once"),
        (["--criterion", "a=x", "--criterion", "A=y"], "give at least one, each once"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(judge, files, kept, capsys, changed, told):
    status, _, err = run(capsys, files("a.jsonl", "x"), "--model", "m", "--out", kept, *changed)
    assert status == 2
    assert told in err
    assert judge.bodies == []


def test_no_endpoint_a_wrong_key_and_no_verdict_are_told(judge, files, kept, capsys, monkeypatch):
    given = (files("a.jsonl", "x"), "--model", "m", "--out", kept)
    judge.answer = lambda prompt, before: "I would rather not"
    status, _, err = run(capsys, *given)
    assert (status, "gave no verdict on any of 1 questions; it answered 'I would rather not'" in err) == (
        2,
        True,
    )
    monkeypatch.setenv("ADAPTIVE_JUDGE_KEY", "sk-wrong-987654")
    status, _, err = run(capsys, *given)
    assert (status, "does not accept the judge's key" in err, "987654" in err) == (2, True, False)
    monkeypatch.setenv("ADAPTIVE_JUDGE_URL", " ")
    status, _, err = run(capsys, *given)
    assert (status, "export ADAPTIVE_JUDGE_URL=https://HOST/v1" in err) == (2, True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_command_goes_on_where_it_was(judge, files, kept, capsys, how):
    """It is killed while the third question hangs; two answers are kept, and these are not asked for again."""
    hold = threading.Event()
    judge.answer = lambda prompt, before: Reply(GOOD, hold=None if "\nc\n" not in prompt else hold)
    given = ["judge", str(files("a.jsonl", *"abcd")), "--model", "m", "--out", str(kept), "--parallel", "1"]
    blocked = (
        "import sys; sys.modules['torch'] = None; from adaptive_inference.cli import main; sys.exit(main())"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", blocked, *given], env=os.environ, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 60
    while len(judge.bodies) < 3 and running.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    running.send_signal(how)
    _, err = running.communicate(timeout=120)
    assert len(judge.bodies) == 3, err
    assert running.returncode == (130 if how == signal.SIGINT else -how), err
    hold.set()
    assert len(kept.read_bytes().splitlines()) == 2
    status, out, _ = run(capsys, *given[1:])
    assert (status, out.splitlines()[-1]) == (0, "rows: 4")
    assert sorted(prompt.split("<output>\n")[1][0] for prompt in judge.prompts) == list("abccd")
