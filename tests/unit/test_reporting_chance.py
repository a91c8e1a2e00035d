"""A full model that is not shown to have learned its task is told as such; one that has is not."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_records import invented_params, write_run

from adaptive_inference.files import read_json, write_json
from adaptive_inference.serving.card import CardData
from adaptive_inference.tasks.schema import Schema
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.handout import told_of
from adaptive_pipeline.reporting.statistics.chance import against_chance, best_constant
from adaptive_pipeline.reporting.statistics.comparisons import compare
from adaptive_pipeline.reporting.tables.main import main_markdown
from adaptive_pipeline.reporting.text.recommendation import as_json, as_markdown
from adaptive_pipeline.reporting.text.sentences import chance_sentence

#: 600 of 1,000 rows are positive.
LABELS = (np.arange(1000) < 600).astype(int)


def answers(right_of_positive: int, right_of_negative: int) -> np.ndarray:
    """Answers of which that many are right among the 600 positive and the 400 negative rows."""
    rows = np.arange(1000)
    right = (rows < right_of_positive) | ((rows >= 600) & (rows < 600 + right_of_negative))
    return np.where(right, LABELS, 1 - LABELS)


@pytest.fixture
def run(tmp_path):
    params = invented_params()

    def read(*by_seed):
        write_run(tmp_path, params, answers=True)
        for path in tmp_path.glob("**/evaluation/predictions.json"):
            body = read_json(path)
            if path.parts[-3] == "full":
                seed = int(path.parts[-4].removeprefix("seed"))
                body["points"][0]["predictions"] = by_seed[params.seeds.index(seed) % len(by_seed)]
            write_json(path, body | {"labels": LABELS})
        return collect(tmp_path, params)

    return read


def warning(results):
    return against_chance(results.each[0])


def test_a_full_model_that_does_not_beat_the_commonest_class_is_told_in_every_report(run):
    results = run(answers(420, 190))  # 0.61, against 0.60
    chance = warning(results)
    assert (chance.answer, chance.constant, chance.full, chance.rows) == ("positive", 0.6, 0.61, 1000)
    assert chance.low < 0 < chance.high
    assert (
        "is not shown to be better than always answering `positive`** (accuracy 0.6100 against 0.6000;"
        in chance_sentence(chance)
    )
    choices, sentence = recommend(results), chance_sentence(chance)
    assert sentence in as_markdown(choices, results, "results", ())
    assert sentence in main_markdown(results, choices, compare(results))
    schema = Schema("tiers", "classification", ("negative", "positive"), "accuracy", 48)
    card = CardData(schema, "bert", (6,), False, True, None, ())
    assert sentence in told_of(card, results, choices[0]).remarks
    told = as_json(choices, results, "results", ())["choices"][0]["full_model_against_one_answer"]
    assert told["constant"] == 0.6


def test_answers_are_paired_so_that_a_small_sure_gain_is_a_gain(run):
    # 0.64, and all that differs from "positive" is right: unpaired, the intervals of 0.64 and 0.60 would overlap
    results = run(answers(600, 40))
    assert warning(results) is None
    assert "not shown to be better" not in as_markdown(recommend(results), results, "results", ())


def test_one_of_two_seeds_at_chance_makes_the_whole_unsure(run):
    chance = warning(run(answers(600, 300), answers(600, 0)))  # 0.9 and 0.6
    assert chance.low <= 0
    assert (chance.full, chance.seeds) == (0.75, 2)


def test_a_full_model_below_it_is_called_worse(run):
    assert "is worse than always answering `positive`" in chance_sentence(warning(run(answers(200, 100))))


def test_one_answer_for_all_is_no_better_than_itself(run):
    chance = warning(run(answers(600, 0)))
    assert (chance.low, chance.high) == (0.0, 0.0)
    assert "not shown" in chance_sentence(chance)


def test_without_recorded_answers_nothing_is_claimed(tmp_path):
    params = invented_params()
    write_run(tmp_path, params)
    assert warning(collect(tmp_path, params)) is None


@pytest.mark.parametrize(
    ("metric", "answer"),
    [("accuracy", 0), ("f1", 1), ("matthews", None), ("pearson_spearman", None)],
)
def test_best_constant_answer_of_each_metric(metric, answer):
    labels = np.array([0] * 7 + [1] * 3)
    classes = 1 if metric == "pearson_spearman" else 2
    best, constant = best_constant(metric, labels, classes)
    assert best == answer
    assert constant.tolist() == [answer or 0] * 10
