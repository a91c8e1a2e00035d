"""The estimate of the time left."""

import json
import time

import pytest

import progress


def entry(name, guess, *upstream, threads=1, known=False):
    return {"name": name, "guess": guess, "known": known, "threads": threads, "upstream": list(upstream)}


def test_the_estimate_respects_order_and_cores():
    chain = [entry("a", 10), entry("b", 20, "a"), entry("c", 30, "b")]
    assert progress.remaining(chain, 4) == 60
    fork = [entry("a", 10), entry("b", 20, "a"), entry("c", 30, "a")]
    assert progress.remaining(fork, 2) == 40
    assert progress.remaining(fork, 1) == 60


def test_a_stage_that_takes_all_cores_runs_alone():
    assert progress.remaining([entry("a", 10, threads=8), entry("b", 10, threads=8), entry("c", 5)], 2) == 25


def timed(folder, name, seconds):
    (folder / "logs/durations").mkdir(parents=True, exist_ok=True)
    (folder / f"logs/durations/{name}.json").write_text(json.dumps({"seconds": seconds}))


def test_guesses_follow_their_own_family_first_and_all_stages_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = [entry("train@a", 60), entry("test@a", 60)]
    timed(tmp_path, "train@a", 300)
    timed(tmp_path, "test@a", 30)
    left = [entry("train@b", 10), entry("test@b", 10), entry("tables", 10), entry("train@c", 10, known=True)]
    better = [item["guess"] for item in progress.refined(left, done, 0.0)]
    assert better == pytest.approx([50, 5, 10 * (300 + 30 + 60) / (60 + 60 + 60), 10])


def test_finished_stages_make_the_estimate_better(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "receipts").mkdir()
    stages = [entry("a", 60), entry("b", 60, "a"), entry("c", 60, "b")]
    progress.PLAN.write_text(json.dumps({"cores": 1, "began": time.time() - 1, "stages": stages}))
    (tmp_path / "logs/a.log").write_text("Running stage 'a':\n")
    (tmp_path / "receipts/a.json").write_text("{}")
    progress.ended("a", 300.0, tmp_path / "logs/a.log")
    said = capsys.readouterr().err
    assert (
        "a took 5 min; 1 of 3 stages done, about 6 min left" in said
    )  # (300 + 60) / (60 + 60) = 3 times slower


def test_a_stage_that_dvc_skipped_teaches_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.log").write_text("Stage 'a' didn't change, skipping\n")
    progress.PLAN.parent.mkdir()
    progress.PLAN.write_text(json.dumps({"cores": 1, "began": 0, "stages": []}))
    progress.ended("a", 1.0, tmp_path / "a.log")
    assert "a was computed before" in capsys.readouterr().err
    assert not progress.DURATIONS.exists()
