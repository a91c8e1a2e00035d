"""A full model that has not learned its task is told as such; one that has is not."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_records import invented_params, write_run

from adaptive_inference.records import read_json, write_json
from adaptive_inference.reporting.aggregate import aggregate
from adaptive_inference.reporting.chance import best_constant, chance_warning
from adaptive_inference.reporting.collect import CellFiles, collect
from adaptive_inference.reporting.prose import main_markdown
from adaptive_inference.reporting.recommendation import as_json, as_markdown, recommend


def full_model(low):
    """Make an edit of the full model's interval: ``low`` by seed."""

    def edit(cell, rows, timings):
        for row in rows:
            if row["method"] == "full":
                row["quality_low"] = low[cell.seed]

    return edit


@pytest.fixture
def run(tmp_path):
    params = invented_params()

    def read(low, positives=600):
        write_run(tmp_path, params, edit=full_model(low), answers=True)
        for path in tmp_path.glob("**/full/evaluation/predictions.json"):
            labels = (np.arange(1000) < positives).astype(int)
            write_json(path, read_json(path) | {"labels": labels})
        return collect(tmp_path, params)

    return params, read


def pair_of(results):
    return results.pairs()[0]


def test_a_full_model_within_reach_of_the_commonest_class_is_told_in_every_report(run):
    params, read = run
    results = read(dict.fromkeys(params.seeds, 0.59))
    chance = chance_warning(results, *pair_of(results))
    assert (chance.answer, chance.constant) == ("positive", 0.6)
    assert chance.reached == chance.seeds == len(params.seeds)
    assert "always answering `positive`" in chance.sentence
    assert "against 0.6000" in chance.sentence
    choices = recommend(results)
    assert chance.sentence in as_markdown(choices, results, "results", ())
    assert chance.sentence in main_markdown(results, aggregate(results), choices)
    assert as_json(choices, results, "results", ())["choices"][0]["full_model_at_chance"]["constant"] == 0.6


def test_one_seed_at_chance_is_enough_and_counted(run):
    params, read = run
    low = dict.fromkeys(params.seeds, 0.61) | {params.seeds[-1]: 0.60}
    chance = chance_warning(results := read(low), *pair_of(results))
    assert f"in 1 of {len(params.seeds)} seeds" in chance.sentence


def test_a_full_model_above_it_is_not_mentioned(run):
    params, read = run
    results = read(dict.fromkeys(params.seeds, 0.601))
    assert chance_warning(results, *pair_of(results)) is None
    assert "cannot be told apart" not in as_markdown(recommend(results), results, "results", ())


def test_without_recorded_answers_nothing_is_claimed(tmp_path):
    params = invented_params()
    write_run(tmp_path, params, edit=full_model(dict.fromkeys(params.seeds, 0.0)))
    results = collect(tmp_path, params)
    assert chance_warning(results, *pair_of(results)) is None


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", (0, 0.7)),
        ("f1", (1, 2 * 0.3 / 1.3)),  # all marked as class 1: precision 0.3, recall 1
        ("matthews", (0, 0.0)),
        ("pearson_spearman", (None, 0.0)),
    ],
)
def test_best_constant_answer_of_each_metric(metric, expected):
    predictions = {"labels": [0] * 7 + [1] * 3, "num_classes": 2}
    files = CellFiles(None, None, None, {}, predictions, None, {}, ())
    answer, score = best_constant(files, metric)
    assert answer == expected[0]
    assert score == pytest.approx(expected[1], abs=1e-12)
