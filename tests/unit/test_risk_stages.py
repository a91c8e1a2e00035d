"""A certified risk, from the params to the tables' rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calibrated_stages import make_folder, points_of, run

from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("stages"))


def test_a_certified_risk_is_one_more_point_per_attainable_rule(folder, tmp_path, monkeypatch):
    rules, risk = ("confidence", "fixed", "oracle"), {"loss": "consistency", "delta": 0.9, "epsilon": 0.1}
    calibration, record, _, timings = run(folder, tmp_path, monkeypatch, rules=rules, goal={"risk": risk})
    points = [p for p in points_of(calibration) if p.goal.name == "risk_0.9"]
    assert [p.setting.rule for p in points] == ["confidence", "fixed"]
    assert all(p.qualifies and p.evidence["rows"] == 15 for p in points)
    assert all(p.evidence["p_value"] <= p.evidence["epsilon"] == 0.1 for p in points)
    assert [row.point for row in record.rows if row.point.goal.kind == "risk"] == points
    assert {"risk_0.9"} < {row["operating_point"] for row in timings["rows"]}
    assert record.recommended is None or record.recommended.goal.kind != "risk"


def test_the_risk_is_that_of_rows_which_the_temperatures_never_saw(folder, tmp_path, monkeypatch):
    """Recompute everything from the outputs: temperatures of one half, losses and the walk of the other."""
    from adaptive_inference.calibration.risk_control import certify, halves
    from adaptive_inference.calibration.temperature import fit_temperature
    from adaptive_inference.exits import load_model
    from adaptive_inference.exits import outputs as module
    from adaptive_inference.tasks.encode import encode
    from adaptive_inference.tasks.schema import load_split

    collect = module.collect_outputs

    def varied(model, *arguments):
        """Answers that differ from row to row and get better with depth, which untrained models' do not."""
        real = collect(model, *arguments)
        depth = np.array(real.exits)[:, None]
        noise = np.random.default_rng(len(depth)).normal(0, 1, real.logits.shape)
        return replace(real, logits=(noise + depth * np.eye(2)[real.labels][:, None]).astype(np.float32))

    monkeypatch.setattr(module, "collect_outputs", varied)
    risk = {"loss": "consistency", "delta": 0.4, "epsilon": 0.2}
    calibration, *_ = run(folder, tmp_path, monkeypatch, goal={"risk": risk}, seed=1)
    home, outputs = folder / "classification", {}
    for name in ("full", "sweet"):
        model = load_model(home / name)
        outputs[name] = varied(model, encode(load_split(home, "calibration"), model.tokenizer, 32), 64)
    logits, labels, full = outputs["sweet"].logits, outputs["sweet"].labels, outputs["full"].logits[:, -1]
    fit, certifying = halves(30, 1)
    temperatures = [fit_temperature(logits[fit, k], labels[fit]) for k in range(3)]
    assert calibration["temperatures"] == temperatures
    rule = load_rule("confidence")
    grid = rule.grid(2, 8, 3)[::-1]
    exits = rule.exit_indices(logits / np.array(temperatures)[:, None], None, None, grid)
    different = logits.argmax(-1)[np.arange(30), exits] != full.argmax(-1)
    losses = different[:, certifying]
    found = certify(losses, 0.4, 0.2)
    (point,) = [p for p in points_of(calibration) if p.goal.name == "risk_0.4"]
    assert 0 < found < 7  # the walk stopped on its way
    assert (point.setting.threshold, point.evidence["risk"]) == (grid[found], losses[found].mean())
    assert losses[found].mean() != different[found].mean()


def test_too_few_rows_or_no_certified_threshold_give_a_row_that_says_so(
    folder, tmp_path, monkeypatch, caplog
):
    calibration, record, _, timings = run(folder, tmp_path, monkeypatch, goal={"risk": {"delta": 0.05}})
    (point,) = [p for p in points_of(calibration) if p.goal.name == "risk_0.05"]
    assert (point.qualifies, point.setting.threshold, point.evidence["rows"]) == (False, None, 15)
    (row,) = [row for row in record.rows if row.point == point]
    assert row.quality is None
    assert "risk_0.05" not in {item["operating_point"] for item in timings["rows"]}
    assert "no threshold will qualify: goal.risk: delta 0.05 with epsilon 0.05 needs 59 rows" in caplog.text


def test_a_risk_is_refused_for_a_regression_and_asked_of_no_full_model(folder, tmp_path, monkeypatch):
    goal = {"risk": {"delta": 0.9}}
    with pytest.raises(UserError, match="a regression task has none of"):
        run(folder, tmp_path / "a", monkeypatch, rules=("fixed",), kind="regression", goal=goal)
    calibration, *_ = run(folder, tmp_path / "b", monkeypatch, method="full", goal=goal)
    assert [p.goal.name for p in points_of(calibration)] == ["full"]
