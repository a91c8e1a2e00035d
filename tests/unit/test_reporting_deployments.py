"""What is told of deployments: table, recommendation, end of a run and model folder, from invented records."""

from __future__ import annotations

import csv
import json

import pytest
from synthetic_choices import Chosen
from synthetic_deployments import OTHER, REFUSED, SETTING, write_deployments
from synthetic_records import invented_params, save_model, write_run

from adaptive_inference.calibration.operating_point import Goal, OperatingPoint
from adaptive_inference.errors import UserError
from adaptive_inference.files import write_json
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.handout import hand_out
from adaptive_pipeline.reporting.report import tables
from adaptive_pipeline.reporting.statistics.comparisons import compare
from adaptive_pipeline.reporting.text.recommendation import as_json, as_markdown
from adaptive_pipeline.runs.checksums import write_checksums
from adaptive_pipeline.runs.layout import out_path
from adaptive_pipeline.summary import summary

CELL = Cell("tiers", "minilm", 0)


@pytest.fixture
def told(tmp_path):
    """Return a function that writes a run with deployments, or without, and returns results and choices."""

    def tell(deployed: bool = True, **deployment):
        params = invented_params()
        write_run(tmp_path, params, chosen=Chosen())
        if deployed:
            write_deployments(tmp_path, params, CELL, **deployment)
        results = collect(tmp_path, params)
        return results, recommend(results)

    return tell


def text_of(results, choices):
    return as_markdown(choices, results, "results", {choice.model for choice in choices})


def test_the_recommendation_names_the_deployment_and_its_speed_against_both_opponents(told):
    results, choices = told()
    text = text_of(results, choices)
    head = "**Use the model trained as SWEET (seed 0), as `onnx_int8`; a text leaves by confidence at threshold 0.8125.**"
    assert head in text
    assert "6.00x [5.40, 6.60] as fast as the full model in PyTorch" in text
    assert "1.50x [1.35, 1.65] as fast as the full model in int8" in text
    assert "at most 1 in 85% of the resamples" in text
    assert "adaptive-inference predict results/model\n" in text
    body = as_json(choices, results, "results", {"model"})["choices"][0]["deployment"]
    assert body["offer"]["deployment"] == "onnx_int8"
    assert body["wallclock"]["static_int8_speedup"] == 1.5
    assert body["evaluation"]["goal_held"]


def test_without_records_of_deployments_nothing_is_said_of_them(told):
    results, choices = told(deployed=False)
    assert "onnx" not in text_of(results, choices)
    assert "deployment" not in as_json(choices, results, "results", ())["choices"][0]
    assert not {name for name in tables(results, choices, compare(results)) if "deployment" in name}


def test_a_deployment_of_another_choice_is_not_told(told):
    _, choices = told(recommended=Chosen(threshold=0.5))
    assert choices[0].deployment is None


def test_the_table_holds_every_model_in_every_deployment_and_what_was_refused(told):
    results, choices = told(refused=True)
    made = tables(results, choices, compare(results))
    rows = list(csv.DictReader(made["deployments.csv"].splitlines()))
    found = {(row["method"], row["deployment"], row["leaves_by"]): row for row in rows}
    assert found["sweet", "onnx_int8", "confidence"]["chosen"] == "True"
    assert found["sweet", "onnx_int8", "confidence"]["same_deployment_speedup"] == ""
    assert found["full", "onnx_int8", ""]["why"] == REFUSED
    assert found["full", "onnx_int8", ""]["export_loss"] == "3.2"
    assert found["sweet", "torch", ""]["why"].startswith("nothing is promised")
    page = made["deployments.md"]
    assert "| **SWEET** | **`onnx_int8`** | **confidence 0.8125** |" in page
    assert f"- Full model as `onnx_int8`: {REFUSED}." in page
    assert "Test CPU" in page
    assert f"Refused: Full model as `onnx_int8` ({REFUSED})." in text_of(results, choices)


def test_a_method_that_was_deployed_besides_has_its_row_and_may_be_the_answer(told):
    results, choices = told(others=True, chosen=OTHER)
    page = tables(results, choices, compare(results))["deployments.md"]
    assert "| **Early exit** | **`onnx_int8`** | **confidence 0.8125** |" in page
    text = text_of(results, choices)
    assert "**Use the model trained as Early exit (seed 0), as `onnx_int8`" in text
    assert "In PyTorch another one was chosen, by layers: the model trained as SWEET" in text
    assert choices[0].used.method == "early_exit"


def test_the_full_model_in_int8_may_be_the_answer(told):
    results, choices = told(chosen=("full", "onnx_int8"))
    text = text_of(results, choices)
    assert "**Use the full model (seed 0), as `onnx_int8`; every text runs through all of it.**" in text
    assert choices[0].used.method == "full"
    assert choices[0].point(results.params) is None


def test_a_latency_that_was_asked_for_and_that_nothing_keeps_is_said(told):
    asked = {
        "asked": "max_latency_ms",
        "limit": 2.0,
        "probability": None,
        "loss": None,
        "low": None,
        "high": None,
    }
    results, choices = told(**asked, margin=None)
    assert "The best on the calibration split of 321 candidates" in text_of(results, choices)
    results, choices = told(**asked, margin=None, kept=False)
    assert "**Nothing is within 2 ms a text**" in text_of(results, choices)


def test_a_run_ends_with_the_deployment_and_its_speed(told, tmp_path):
    results, choices = told()
    write_json(tmp_path / "results/recommendation.json", as_json(choices, results, "results", {"model"}))
    first = summary(tmp_path).splitlines()[0]
    assert first == (
        "Recommended for tiers with minilm: SWEET (leaves by confidence) as onnx_int8, lost 0.70 points on texts not "
        "seen; 6.00 x as fast as the full model in PyTorch, 1.50 x as fast as in static int8"
    )


# ---- the model folder ------------------------------------------------------------------------------------------------


def graphs(root, params):
    """Write the folder that `choose_deployment` keeps, as far as the card reads it."""
    stage = root / out_path("choose_deployment", CELL).relative_to("runs")
    model = stage / "model"
    save_model(model, [2, 4, 6], b"weights")
    (model / "model.safetensors").unlink()
    write_json(model / "deployment.json", {"deployment": "onnx_int8"})
    (model / "segment_1.onnx").write_bytes(b"graph")
    point = OperatingPoint(Goal("max_loss", 1.0, params.goal.cost), SETTING, True, None)
    body = {"temperatures": [1.0, 1.0, 1.0], "exits": [2, 4, 6], "operating_points": [point.to_json()]}
    write_json(model / "calibration.json", body | {"recommended": point.to_json()})
    write_checksums(stage)
    return stage


def test_the_graphs_are_handed_out_with_a_card_of_what_was_measured(told, tmp_path):
    results, choices = told()
    graphs(tmp_path, results.params)
    assert hand_out(results, choices[0], tmp_path, tmp_path / "out")
    model = tmp_path / "out/model"
    assert (model / "segment_1.onnx").read_bytes() == b"graph"
    card = (model / "README.md").read_text()
    for text in ("SWEET", "onnx_int8", "0.8125", "0.8930", "as fast as the full model in PyTorch", ".[onnx]"):
        assert text in card
    assert json.loads((model / "calibration.json").read_text())["recommended"]["setting"] == SETTING.to_json()


def test_damaged_graphs_are_not_handed_out(told, tmp_path):
    results, choices = told()
    (graphs(tmp_path, results.params) / "model/segment_1.onnx").write_bytes(b"other")
    with pytest.raises(UserError, match="segment_1"):
        hand_out(results, choices[0], tmp_path, tmp_path / "out")


def test_where_only_records_are_left_nothing_is_handed_out(told, tmp_path):
    results, choices = told()
    assert not hand_out(results, choices[0], tmp_path, tmp_path / "out")
