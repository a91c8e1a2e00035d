"""Static models trained as methods of their own, in tables, comparisons, areas and the recommendation."""

import pytest
import synthetic_records
from synthetic_choices import Chosen, write_choice
from synthetic_records import change_record, full_quality, invented_params, save_model, write_run

from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Setting
from adaptive_inference.files import read_json
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.handout import hand_out
from adaptive_pipeline.reporting.statistics.areas import STATIC, areas
from adaptive_pipeline.reporting.statistics.comparisons import at_goal
from adaptive_pipeline.reporting.text.recommendation import as_markdown

#: method -> (layers, quality), invented.
STATICS = {"static_2": (2, 0.84), "static_4": (4, 0.88), "pkd": (3, 0.895)}


@pytest.fixture
def params(monkeypatch):
    for name, (_, quality) in STATICS.items():
        monkeypatch.setitem(synthetic_records.QUALITY, name, (quality, quality, quality))
    methods = {
        "full": {"train": {}, "rules": ["fixed"]},
        "static_2": {"train": {"exits": [2]}, "rules": ["fixed"]},
        "static_4": {"train": {"exits": [4]}, "rules": ["fixed"]},
        "pkd": {"train": {"objective": "patient_distillation", "exits": [3]}, "rules": ["fixed"]},
    }
    stages = {"train_sweet": ["static_2", "static_4"], "train_leebert": ["pkd"], "train_multi_model": []}
    return invented_params(methods=methods, trained_by=stages, seeds=[0, 1])


@pytest.fixture
def runs(tmp_path, params):
    """Records whose methods without exits have the one point that the stages give them."""

    def edit(cell, rows, timings):
        if cell.method in STATICS:
            layers, quality = STATICS[cell.method]
            row = synthetic_records._row(
                cell.method, "fixed", "whole", 0.0, quality, 6 / layers, {str(layers): 100}, quality, False
            )
            rows[:] = [row]
            timings[:] = []

    root = tmp_path / "runs"
    write_run(root, params, edit=edit)
    return root


def test_each_has_one_row_with_its_own_training_time(runs, params):
    rows = [row for row in collect(runs, params).main.itertuples() if row.method != "full"]
    assert [(row.method, row.operating_point, row.layers_speedup) for row in rows] == [
        ("static_2", "whole", 3.0),
        ("static_4", "whole", 1.5),
        ("pkd", "whole", 2.0),
    ]
    assert [row.training_seconds for row in rows] == [100.5] * 3


def test_first_layers_are_one_family_and_others_enter_where_they_are_fast_enough(runs, params):
    rows = list(collect(runs, params).main.itertuples())
    assert [row.method for row in at_goal(rows, Goal("min_speedup", 1.5))] == ["static_4", "pkd"]
    assert [row.method for row in at_goal(rows, Goal("min_speedup", 2.0))] == ["static_2", "pkd"]
    assert [row.method for row in at_goal(rows, Goal("min_speedup", 2.5))] == ["static_2"]


def test_first_layers_give_the_baseline_curve(runs, params):
    results = collect(runs, params)
    assert STATIC in set(areas(results).method)


@pytest.mark.parametrize("method", ["static_4", "pkd"])
def test_the_recommended_one_is_handed_out_as_it_is(method, runs, params, tmp_path):
    chosen = Chosen(method, "fixed", 0.0)
    for seed in params.seeds:
        write_choice(runs, params, Cell("tiers", "minilm", seed), chosen, full_quality(seed))
        change_record(runs / f"tiers/minilm/seed{seed}/{method}/train", exits=[STATICS[method][0]])
    for seed in (0, 1):
        folder = runs / f"tiers/minilm/seed{seed}/{method}/train/model"
        save_model(folder, [STATICS[method][0]], b"weights")
    results = collect(runs, params)
    (choice,) = recommend(results)
    assert (choice.marked.method, choice.faster) == (method, True)
    assert hand_out(results, choice, runs, tmp_path / "out")
    target = tmp_path / "out" / choice.model
    assert (target / "model.safetensors").read_bytes() == b"weights"
    recommended = OperatingPoint.from_json(read_json(target / "calibration.json")["recommended"])
    assert (recommended.setting, recommended.goal) == (Setting("fixed", 0.0), Goal("max_loss", 1.0))
    text = as_markdown([choice], results, "results", {choice.model})
    assert f"every text leaves after layer {STATICS[method][0]}.**" in text
    card = (target / "README.md").read_text()
    assert "every text runs through all layers of this model" in card
    assert f"first {STATICS[method][0]} layers" in card
