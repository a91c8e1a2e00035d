"""Tables, figures and the page of decoding, from invented records."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_records import change_record, invented_params, write_run
from synthetic_texts import BLOCKS, THRESHOLDS, decoded, text_params, timed_row, write_texts

from adaptive_inference.errors import UserError
from adaptive_inference.files import read_json, write_json
from adaptive_pipeline.grid import Cell
from adaptive_pipeline.reporting.figures.captions import ORDER
from adaptive_pipeline.reporting.generation.confidence import beta_density
from adaptive_pipeline.reporting.generation.curves import looks
from adaptive_pipeline.reporting.generation.frame import MEASURES, POINTS, collect_texts, met
from adaptive_pipeline.reporting.generation.headline import text_metrics
from adaptive_pipeline.reporting.generation.tables import text_tables
from adaptive_pipeline.reporting.report import TEXT_FIGURES, make_report
from adaptive_pipeline.runs.store import open_runs
from adaptive_pipeline.runs.text_records import BINS, ChosenRow, ChosenThreshold, Confidences

CELL = Cell("transduce", "t5", 0, "free")


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def written(root, params):
    return collect_texts(open_runs(root), params)


@pytest.fixture(scope="module")
def params():
    return text_params()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, params):
    root = tmp_path_factory.mktemp("decoded") / "runs"
    write_texts(root, params)
    return root


@pytest.fixture(scope="module")
def results(runs, params):
    return written(runs, params)


@pytest.fixture(scope="module")
def out(tmp_path_factory, runs, params):
    folder = tmp_path_factory.mktemp("made") / "results"
    make_report(runs, params, folder)
    return folder


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_a_row_per_method_and_chosen_threshold_full_first(results):
    rows = read(text_tables(results)["generation.csv"])
    keys = [(row["method"], row["goal"]) for row in rows]
    both = ("min_quality", "certified")
    assert keys == [
        ("full", "none"),
        ("static_exit", "none"),
        *(("calm", goal) for goal in both),
        *(("free", goal) for goal in both),
        ("free_adaptive", "none"),
        *(("free_verify", goal) for goal in both),
    ]
    assert {row["seeds"] for row in rows} == {"2"}
    assert list(rows[0])[4:] == list(MEASURES)


def test_figures_are_means_over_seeds_against_both_full_models(results):
    row = next(row for row in results.main.itertuples() if (row.method, row.goal) == ("free", "min_quality"))
    ours = [decoded(replace(CELL, seed=seed), 0.5).quality for seed in (0, 1)]
    full = [decoded(replace(CELL, seed=seed, method="full"), None).quality for seed in (0, 1)]
    assert row.quality_mean == pytest.approx(np.mean(ours))
    assert row.quality_std == pytest.approx(np.std(ours, ddof=1))
    assert row.full_quality == pytest.approx(np.mean(full))
    assert row.share_of_full == pytest.approx(
        np.mean(np.divide(ours, full))
    )  # a ratio of each seed, then the mean
    assert row.prompts == 200
    assert (row.free_speedup, row.free_tokens_speedup) == pytest.approx((1.5, 1.5))


def test_the_full_model_of_another_training_shows_what_that_training_costs(tmp_path, params):
    one = params.model_copy(update={"generation": params.generation.model_copy(update={"seeds": [0]})})
    write_texts(tmp_path, one)
    cell = replace(CELL, method="full")
    better = decoded(cell, None).model_copy(update={"quality": 1.0})
    choice = ChosenThreshold(goal="none", value=None, threshold=None, reached=True)
    row = ChosenRow(choice=choice, decoded=better, full=better)
    change_record(tmp_path / "transduce/t5/seed0/full/evaluation", chosen=[row])
    found = written(tmp_path, one).main
    free = next(row for row in found.itertuples() if (row.method, row.goal) == ("free", "certified"))
    assert free.quality_share == 1.0  # its own weights with all blocks
    assert free.share_of_full == pytest.approx(free.quality_mean)
    assert free.quality_mean < 1.0


def test_every_threshold_of_both_splits_is_a_row_of_the_grid(results):
    rows = read(text_tables(results)["generation_grid.csv"])
    ours = [row for row in rows if row["method"] == "free" and row["seed"] == "1"]
    for split in ("calibration", "evaluation"):
        assert [float(row["threshold"]) for row in ours if row["split"] == split] == THRESHOLDS
    assert {row["loss"] != "" for row in ours if row["split"] == "calibration"} == {True}
    assert {row["loss"] for row in ours if row["split"] == "evaluation"} == {""}
    assert {row["prompts"] for row in rows} == {"100"}


def test_tokens_of_known_difficulty_are_there_for_each_threshold_easy_ones_first(results):
    rows = read(text_tables(results)["generation_difficulty.csv"])
    ours = [row for row in rows if row["method"] == "calm" and row["seed"] == "0"]
    assert [row["kind"] for row in ours[:3]] == ["copied", "look-up", "arithmetic"]
    assert {row["threshold"] for row in ours if not row["goal"]} == {f"{value:g}" for value in THRESHOLDS}
    shown = results.shown_kinds
    assert set(shown[shown.method == "calm"].goal) == {"min_quality"}
    assert set(shown[shown.method == "calm"].tokens) == {80}  # both seeds


def test_a_goal_that_only_the_full_model_reaches_is_told(results):
    text = text_tables(results)["generation.md"]
    assert "certified (textual) (reached on 0 of 2 seeds)" in text
    assert "≥ 95 % of its own full quality |" in text
    assert r"$\geq$ 95 \% of its own full quality" in text_tables(results)["generation.tex"]


@pytest.mark.parametrize(
    ("goal", "value", "quality", "loss", "expected"),
    [
        ("min_quality", 0.95, 0.76, None, True),
        ("min_quality", 0.95, 0.75, None, False),
        ("certified", 0.1, 0.2, 0.1, True),
        ("certified", 0.1, 0.8, 0.11, False),
        ("certified", 0.1, 0.8, None, None),
        ("none", None, 0.1, None, None),
    ],
)
def test_whether_the_reported_split_meets_what_was_asked(goal, value, quality, loss, expected):
    choice = ChosenThreshold(goal=goal, value=value, threshold=0.5, reached=True)
    full = decoded(CELL, 1.0).model_copy(update={"quality": 0.8})
    own = full.model_copy(update={"quality": quality, "loss": loss})
    assert met(ChosenRow(choice=choice, decoded=own, full=full)) is expected


def test_a_threshold_that_two_goals_chose_has_the_clock_of_either(tmp_path, params):
    write_texts(tmp_path, params)
    for seed in (0, 1):
        folder = tmp_path / f"transduce/t5/seed{seed}/free"
        timings = read_json(folder / "timings.json")
        choice = ChosenThreshold(goal="certified", value=0.1, threshold=0.5, reached=True)
        timings["rows"] = [timed_row(choice, "free").model_dump()]
        write_json(folder / "timings.json", timings)
    main = written(tmp_path, params).main.set_index(["method", "goal"])
    assert main.loc[("free", "min_quality"), "free_speedup"] == 1.5
    assert math.isnan(main.loc[("free", "certified"), "free_speedup"])  # its own threshold, 1, was not timed
    assert math.isnan(main.loc[("free", "min_quality"), "fixed_speedup"])


def test_nothing_timed_leaves_the_clock_out(tmp_path, params):
    write_texts(tmp_path, params, timed=False)
    text = text_tables(written(tmp_path, params))["generation.md"]
    assert "Wall-clock was not measured." in text
    assert "Text ×" not in text.split("Notes")[0]
    assert "FLOPs ×" in text


def test_a_quality_of_zero_has_no_share(tmp_path, params):
    write_texts(tmp_path, params)
    cell = replace(CELL, method="full")
    nothing = decoded(cell, None).model_copy(update={"quality": 0.0})
    choice = ChosenThreshold(goal="none", value=None, threshold=None, reached=True)
    row = ChosenRow(choice=choice, decoded=nothing, full=nothing)
    for seed in (0, 1):
        change_record(tmp_path / f"transduce/t5/seed{seed}/full/evaluation", chosen=[row])
    main = written(tmp_path, params).main
    assert main.share_of_full.isna().all()
    assert main[main.method == "full"].quality_share.isna().all()


# ---- what is missing -------------------------------------------------------------------------------------------------


def test_records_of_other_params_and_missing_ones_are_named_and_not_counted(tmp_path, params):
    write_texts(tmp_path, params)
    (tmp_path / "transduce/t5/seed1/calm/evaluation/metrics.json").unlink()
    (tmp_path / "transduce/t5/seed1/calm/timings.json").unlink()
    change_record(
        tmp_path / "transduce/t5/seed0/free/evaluation", params={"generation.evaluation": {"prompts": 7}}
    )
    results = written(tmp_path, params)
    rows = {
        (row["method"], row["seed"]): row["why"]
        for row in read(text_tables(results)["generation_missing.csv"])
    }
    assert set(rows) == {("calm", "1"), ("free", "0")}
    assert "not evaluated yet" in rows["calm", "1"]
    assert "other params (generation.evaluation" in rows["free", "0"]
    assert set(results.main[results.main.method.isin(("calm", "free"))].seeds) == {1}
    assert "Missing cells (2" in text_tables(results)["generation.md"]


def test_before_anything_is_evaluated_the_report_says_so(tmp_path, params):
    (tmp_path / "runs").mkdir()
    make_report(tmp_path / "runs", params, tmp_path / "results")
    text = (tmp_path / "results/tables/generation.md").read_text()
    assert "Nothing is evaluated yet." in text
    assert "Missing cells (12" in text
    assert not list((tmp_path / "results/figures").glob("*"))


def test_a_damaged_file_beside_a_record_is_one_sentence(tmp_path, params):
    write_texts(tmp_path, params)
    write_json(
        tmp_path / "transduce/t5/seed0/free/evaluation/confidences.json", {"agreeing": [1], "disagreeing": []}
    )
    with pytest.raises(
        UserError, match=r"transduce-t5-free-0 is of another shape.*run evaluate_decoding again"
    ):
        written(tmp_path, params).confidences(CELL)


# ---- the report ------------------------------------------------------------------------------------------------------


def test_where_generation_is_empty_nothing_of_it_is_written(tmp_path):
    params = invented_params(seeds=[0])
    write_run(tmp_path / "runs", params)
    make_report(tmp_path / "runs", params, tmp_path / "results")
    names = [file.name for file in (tmp_path / "results").rglob("*")]
    assert not [name for name in names if name.startswith("generation")]
    assert 'id="Decoding"' not in (tmp_path / "results/report.html").read_text()


def test_beside_classifiers_both_have_their_section(tmp_path):
    params = text_params(alone=False, seeds=[0])
    write_run(tmp_path / "runs", params)
    write_texts(tmp_path / "runs", params)
    make_report(tmp_path / "runs", params, tmp_path / "results")
    text = (tmp_path / "results/report.html").read_text()
    places = [
        text.index(f'<section id="{name}">') for name in ("Recommendation", "Results", "Decoding", "Figures")
    ]
    assert places == sorted(places)
    metrics = read_json(tmp_path / "results/metrics.json")
    assert {key.split(".")[0] for key in metrics} == {"tiers", "transduce"}


def test_alone_the_page_tells_of_decoding_first_and_of_no_classifier(out):
    text = (out / "report.html").read_text()
    assert 'id="Recommendation"' not in text
    assert text.index('<section id="Decoding">') < text.index('<section id="Figures">')
    assert "Nothing is evaluated yet" not in text
    assert "no task of classifiers" in (out / "recommendation.md").read_text()


def test_every_figure_is_drawn_twice_the_same_and_shown_with_its_caption(out, runs, params, tmp_path):
    make_report(runs, params, tmp_path / "results")
    drawn = {file.name: file.read_bytes() for file in (out / "figures").iterdir()}
    assert drawn == {file.name: file.read_bytes() for file in (tmp_path / "results/figures").iterdir()}
    stems = {name.removesuffix(".svg") for name in drawn if name.endswith(".svg")}
    kinds = ("quality_latency", "difficulty", "confidences-free", "confidences-free_adaptive", "threshold")
    assert stems == {f"transduce-t5-{kind}" for kind in kinds}
    assert all(f'<figure id="{stem}">' in (out / "report.html").read_text() for stem in stems)
    assert set(TEXT_FIGURES) < set(ORDER)


def test_metrics_that_dvc_shows_are_those_of_the_threshold_that_stands_for_a_method(results):
    found = text_metrics(results)
    main = results.main.set_index(["method", "goal"])
    assert found["transduce.t5.free.quality"] == pytest.approx(
        main.loc[("free", "min_quality"), "quality_mean"]
    )
    assert found["transduce.t5.full.blocks"] == BLOCKS
    assert all(isinstance(value, float) for value in found.values())


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_no_two_methods_of_a_run_look_alike(results):
    found = looks(results)
    assert set(found) == set(results.params.generation.methods)
    assert len({(look.colour, look.marker) for look in found.values()}) == len(found)


@given(a=st.floats(1.0, 20.0), b=st.floats(1.0, 20.0))
def test_a_drawn_density_holds_one(a, b):
    places = (np.arange(20000) + 0.5) / 20000
    assert beta_density(places, a, b).mean() == pytest.approx(1.0, abs=1e-3)


def test_a_drawn_density_has_its_peak_where_it_should():
    places = (np.arange(1000) + 0.5) / 1000
    assert places[beta_density(places, 5.0, 2.0).argmax()] == pytest.approx(4 / 5, abs=2e-3)


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), max_size=60))
def test_every_token_is_counted_in_one_bin_of_its_class(tokens):
    counted = Confidences.counted(tokens)
    for agrees, counts in ((True, counted.agreeing), (False, counted.disagreeing)):
        own = [confidence for confidence, label in tokens if label == agrees]
        assert sum(counts) == len(own)
        expected, _ = np.histogram(own, bins=BINS, range=(0.0, 1.0))
        shifted = np.abs(np.cumsum(counts) - np.cumsum(expected)).max(initial=0)
        on_an_edge = sum(abs(value * BINS - round(value * BINS)) < 1e-9 for value in own)
        assert shifted <= on_an_edge  # rounding may put what lies on an edge beside it


def test_columns_of_points_are_all_filled_by_name(results):
    assert list(results.points) == POINTS
    assert results.points.quality.notna().all()
    assert isinstance(results.grid, pd.DataFrame)
