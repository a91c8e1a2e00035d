"""What ``recommendation.md`` and ``recommendation.json`` say of a choice, from invented records."""

from __future__ import annotations

import shutil

import pytest
from synthetic_choices import FULL, Chosen
from synthetic_records import invented_params, write_run

from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.statistics.comparisons import compare
from adaptive_pipeline.reporting.tables.main import main_markdown
from adaptive_pipeline.reporting.text.recommendation import TIED, WORTH_MORE_ROWS, as_json, as_markdown

MEMBER = Chosen("multi_model", "fixed", 0.0, member=4)
EXIT = Chosen("early_exit", "fixed", 1.0)


@pytest.fixture
def told(tmp_path):
    """Return a function that writes a run and returns what is said of it: Markdown and JSON."""

    def tell(chosen: Chosen, there: bool = True, **changes) -> tuple[str, dict]:
        params = invented_params(**changes)
        write_run(tmp_path, params, chosen=chosen)
        results = collect(tmp_path, params)
        choices = recommend(results)
        models = {choice.model for choice in choices} if there else ()
        return as_markdown(choices, results, "results", models), as_json(choices, results, "results", models)

    return tell


# ---- what to use -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (Chosen(), "**Use the model trained as SWEET (seed 0); a text leaves by confidence at threshold 0.7125.**"),
        (MEMBER, "**Use the first 4 layers alone, a member of the cascade trained as Multi-Model (seed 0).**"),
        (EXIT, "**Use the model trained as Early exit (seed 0); every text leaves after layer 4.**"),
        (FULL, "**Use the full model.** None of the 120 faster candidates can be promised to lose at most 1 point."),
    ],
)  # fmt: skip
def test_one_model_one_rule_and_one_threshold_are_named_in_words(told, chosen, words):
    text, _ = told(chosen)
    assert words in text
    assert "adaptive-inference predict results/model\n" in text


def test_goal_and_confidence_of_the_params_head_the_page(told):
    goal = {"max_loss": 2.5, "confidence": 0.65, "cost": "flops"}
    text, body = told(Chosen(), goal=goal)
    assert "loses at most 2.5 points against the full model" in text
    assert "with a probability of 65%. Fast means few FLOPs." in text
    assert (body["max_loss_points"], body["confidence"], body["goal_cost"]) == (2.5, 0.65, "flops")


def test_the_promise_says_loss_spread_probability_and_on_how_many_rows(told):
    text, _ = told(Chosen(expected=0.4, probability=0.83))
    assert "it loses 0.4 points on average (a loss of −0.1 to 0.9 in four of five resamples)" in text  # noqa: RUF001
    assert "lost at most 1 point in 83% of them" in text
    assert "from 400 calibration texts, on which it loses 0.25 points" in text


def test_a_negative_loss_is_called_a_gain(told):
    text, _ = told(Chosen(loss=-0.3, expected=-0.2))
    assert "on new texts it gains 0.2 points on average" in text
    assert "Measured on 1000 evaluation texts: it gains 0.30 points" in text


def test_the_speed_of_that_very_model_is_told_in_three_currencies_and_milliseconds(told):
    text, body = told(Chosen(speedup=2.0))
    assert (
        "2.00x fewer layers, 1.96x fewer FLOPs, 1.86x faster on the clock [1.82, 1.91]: 10.8 ms a text"
        in text
    )
    assert "the full model 20.0 ms (Test CPU, 2 cores, 1 thread, torch 2.13.0)" in text
    assert body["choices"][0]["wallclock"]["median_ms"] == pytest.approx(20 / 1.86)


def test_a_model_that_was_not_timed_is_said_to_be_so(told):
    text, body = told(Chosen(), evaluation={"timed_seeds": []})
    assert "fewer FLOPs; not timed." in text
    assert body["choices"][0]["wallclock"] is None


# ---- whether the promise was kept ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [0.6, 1.0])
def test_a_goal_kept_on_the_evaluation_split_is_said(told, loss):
    text, body = told(Chosen(loss=loss))
    assert "**The goal is kept there.**" in text
    assert body["choices"][0]["evaluation"]["goal_held"] is True


def test_a_goal_broken_on_the_evaluation_split_is_said_and_the_choice_stands(told):
    text, body = told(Chosen(loss=1.01, probability=0.83))
    assert (
        "it loses 1.01 points (95 % interval of the loss: 0.31 to 1.91), accuracy 0.8899 against 0.9000"
        in text
    )
    assert "**That is more than the goal.**" in text
    assert "asked for was that it be kept in 80% of cases, not in all." in text
    assert body["choices"][0]["evaluation"]["goal_held"] is False
    assert body["choices"][0]["qualifies"] is True


@pytest.mark.parametrize(
    "chosen", [Chosen(loss=1.9, drifts=True), Chosen(method=None, loss=0.0, drifts=True)]
)
def test_texts_that_differ_from_the_calibration_texts_are_said_to(told, chosen):
    text, body = told(chosen)
    assert "**The evaluation texts are not like the calibration texts**" in text
    assert ("and these texts differ from the calibration texts (below)." in text) == bool(chosen.method)
    assert body["choices"][0]["drift"]["found"] is True


def test_texts_that_are_alike_need_no_word(told):
    text, body = told(Chosen(loss=1.9))
    assert "not like" not in text
    assert "differ" not in text
    assert body["choices"][0]["drift"]["found"] is False


# ---- what else -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "said"), [(TIED, True), (TIED - 0.01, False)])
def test_what_the_resamples_chose_often_is_named_as_tied(told, share, said):
    text, body = told(Chosen(tied=(("early_exit", "margin", share),)))
    assert (
        f"Tied with it, as far as these rows tell: Early exit by margin ({share:.0%} of the resamples)"
        in text
    ) == said
    assert {"method": "early_exit", "rule": "margin", "share": share} in body["choices"][0]["chosen_in"]


def test_the_full_model_is_tied_too_where_resamples_fell_back_to_it(told):
    text, _ = told(Chosen(tied=(("full", "", 0.2),)))
    assert "Full model (20% of the resamples)" in text


def test_half_and_twice_the_loss_are_told_with_what_they_buy(told):
    text, body = told(Chosen(half=None, twice=("multi_model", 2.25)))
    assert (
        "at most 0.5 points lost, the full model; at most 2 points lost, 2.25x fewer layers (Multi-Model)."
        in text
    )
    half, twice = body["choices"][0]["half_and_twice"]
    assert (half["max_loss"], half["method"], twice["max_loss"], twice["method"]) == (
        0.5,
        None,
        2.0,
        "multi_model",
    )


@pytest.mark.parametrize("base", [Chosen(speedup=1.8), FULL])
@pytest.mark.parametrize(
    ("factor", "said"), [(WORTH_MORE_ROWS + 0.01, True), (WORTH_MORE_ROWS - 0.01, False)]
)
def test_more_calibration_rows_are_advised_where_they_would_buy_enough(told, base, factor, said):
    more = factor * base.speedup
    given = vars(base) | {"with_more_rows": more}
    text, body = told(Chosen(**given))
    assert (f"With four times the calibration texts (1600) about {more:.1f}x fewer layers" in text) == said
    assert body["choices"][0]["speedup_with_four_times_the_rows"] == more


# ---- JSON and the rest -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [Chosen(), MEMBER, FULL])
def test_the_json_says_all_that_a_program_needs(told, chosen):
    _, body = told(chosen)
    assert set(body) == {"max_loss_points", "confidence", "goal_cost", "missing_cells", "choices"}
    (choice,) = body["choices"]
    assert choice["qualifies"] == (chosen.method is not None)
    assert choice["trained_as"] == (chosen.method or "full")
    assert choice["seed"] == 0
    assert choice["command"] == "adaptive-inference predict results/model"
    offer, measured = choice["offer"], choice["evaluation"]
    assert offer["method"] == chosen.method
    if chosen.method:
        setting = {"rule": chosen.rule, "threshold": chosen.threshold, "member": chosen.member}
        assert offer["setting"] == setting
    assert measured["loss"] == chosen.loss
    assert measured["quality"] == pytest.approx(measured["full_quality"] - chosen.loss / 100)
    assert (measured["rows"], choice["calibration_rows"], choice["candidates"]) == (1000, 400, 120)


def test_kept_records_have_no_model_and_say_how_to_get_one(told):
    text, body = told(Chosen(), there=False)
    assert "The weights are not here, only records." in text
    assert "adaptive-inference predict" not in text
    assert body["choices"][0]["command"] is None


def test_each_task_gets_its_own_answer_and_folder(tmp_path):
    body = invented_params().model_dump(mode="json")
    tasks = {"tiers": body["tasks"]["tiers"], "other": body["tasks"]["tiers"]}
    params = invented_params(tasks=tasks)
    write_run(tmp_path, params)
    choices = recommend(collect(tmp_path, params))
    assert [choice.model for choice in choices] == ["model/tiers", "model/other"]


def test_thresholds_that_saw_the_reported_rows_are_told(told):
    text, _ = told(Chosen(), calibration={"calibrate_on": "evaluation"})
    assert "Calibrated on the evaluation split" in text


def test_missing_cells_are_counted(tmp_path):
    params = invented_params()
    write_run(tmp_path, params)
    shutil.rmtree(tmp_path / "tiers/minilm/seed1/early_exit/evaluation")
    results = collect(tmp_path, params)
    assert "**Incomplete:** 1 cell is missing" in as_markdown(recommend(results), results, "results", ())


def test_a_certified_risk_is_shown_and_explained_in_the_main_table(tmp_path):
    params = invented_params(seeds=[0], goal={"max_loss": 1.0, "risk": {"delta": 0.05, "epsilon": 0.1}})

    def certify(cell, rows, timings):
        for row in [row for row in rows if row["operating_point"] == "max_loss_1"]:
            rows.append(row | {"operating_point": "risk_0.05", "calibration_layers_speedup": 9.0})

    write_run(tmp_path, params, edit=certify)
    results = collect(tmp_path, params)
    assert (results.main.operating_point == "risk_0.05").any()
    text = main_markdown(results, recommend(results), compare(results))
    assert "**risk ≤ 0.05**" in text
    assert "with probability 0.9 for each method, rule and seed by itself (accuracy loss" in text
